"""Runs notebooks at their full settings and writes their outputs into them.

    python notebooks/execute.py                   # all, half an hour and more
    python notebooks/execute.py embeddings_tour   # one

What is kept is what a reader wants to see: the last state of a progress bar, no log of a library.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def main(names: list[str]) -> None:
    """Runs the notebooks of these names, or all."""
    if "CI" in os.environ:
        sys.exit("With CI set the notebooks run small, and no such figure is to be kept: unset it.")
    for path in [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        print(path.name, flush=True)
        client = NotebookClient(notebook, timeout=None, record_timing=False)
        client.execute(cwd=str(FOLDER))
        path.write_text(tidy(notebook), "utf-8")


def tidy(notebook: nbformat.NotebookNode) -> str:
    """The notebook as a file, without stderr and with one piece of text a stretch of output."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs: list[nbformat.NotebookNode] = []
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                continue
            if output.output_type == "stream" and outputs and "text" in outputs[-1]:
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        for output in outputs:
            if "text" in output:
                output.text = "\n".join(map(as_shown, output.text.split("\n")))
        if "outputs" in cell:
            cell.outputs = outputs
    return nbformat.writes(notebook) + "\n"


def as_shown(line: str) -> str:
    """What a terminal shows of a line that went back to its start again and again."""
    return line.replace("\b", "").rstrip("\r").rpartition("\r")[2]


if __name__ == "__main__":
    main(sys.argv[1:])
