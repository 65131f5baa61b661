"""The Python blocks of README and docs, run page by page, top to bottom, on toys.

A reader finds `queries` and `documents` described as lists of texts, and on some pages has an
`embedder` already; those and nothing else are given to a page. A block that needs more, or one
backend, says so in its title: ```python title="Needs 8 devices", title="JAX".
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import pytest
import toys
from small_world import DOCUMENTS, QUERIES, small_world
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

import cptk
from cptk.datasets import specs
from cptk.models import presets

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOP = [ROOT / name for name in ("AGENTS.md", "CONTRIBUTING.md", "SECURITY.md")]
TEXT_PAGES = [*PAGES, *TOP, *sorted((ROOT / "examples").rglob("*.md"))]
BACKEND = keras.backend.backend()
BACKENDS = {"TensorFlow": "tensorflow", "JAX": "jax"}
INFO = re.compile(r"[ {.]*py\w*(?P<title>[^\n]*)\n", re.IGNORECASE)
TITLE = re.compile(
    r' title="(?:(?P<backend>TensorFlow|JAX)(?:; |$|(?=")))?(?P<needs>[Nn]eeds .+)?"'
)

HAVE_AN_EMBEDDER = {
    "encoding.md", "evaluation.md", "export.md", "extending.md", "large-batches.md", "search.md",
}  # fmt: skip


class Block(NamedTuple):
    """One fenced block of Python, as Sybil has read it."""

    example: Example
    backend: str | None
    needs: str | None

    @property
    def runs(self) -> bool:
        return self.needs is None and self.backend in (None, BACKEND)


def python_blocks(document: Document) -> Iterator[Region]:
    for found in RawFencedCodeBlockLexer(INFO)(document):
        lexemes = found.lexemes
        yield Region(found.start, found.end, lexemes["source"], PythonEvaluator(), lexemes)


def blocks(page: Path) -> list[Block]:
    """The page's blocks; a traceback out of one names the page and its line."""
    found = []
    for example in Document.parse(str(page), python_blocks).examples():
        place = f"{page.name}:{example.line}"
        given = example.region.lexemes["title"]
        title = TITLE.fullmatch(given)
        assert title or not given, f"{place}: a title of another form, {given}"
        backend, needs = (title["backend"], title["needs"]) if title else (None, None)
        assert needs is None or len(needs.split()) <= 6, f"{place}: more than six words, {needs!r}"
        ast.parse(example.parsed, place)
        found.append(Block(example, BACKENDS.get(backend), needs))
    return found


def of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# === What stands on the pages ===


@pytest.mark.parametrize("page", TEXT_PAGES, ids=of)
def test_every_block_is_python_and_fits_the_page(page: Path) -> None:
    text = page.read_text("utf-8")
    found = blocks(page)
    assert len(found) == len(re.findall(r"(?im)^\W*[`~]{3,}[ {.]*py", text))
    wide = [line for block in found for line in block.example.parsed.splitlines() if len(line) > 88]
    assert not wide, "a block of more than 88 columns is cut on the site"


@pytest.mark.parametrize("page", TEXT_PAGES, ids=of)
def test_commands_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for script in re.findall(r"python ((?:examples|benchmarks)/[\w/]+\.py)", text):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (page.parent / link).exists(), link


def test_the_home_page_leads_to_every_page_of_the_site() -> None:
    nav = re.findall(r"[\w/-]+\.(?:md|ipynb)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(nav) > 20
    home = (ROOT / "docs" / "index.md").read_text("utf-8")
    api = (ROOT / "docs" / "api" / "index.md").read_text("utf-8")
    for page in set(nav) - {"index.md"}:
        folder, _, name = page.rpartition("/")
        if folder == "api" and name != "index.md":
            assert f"({name})" in api, page
        else:
            assert f"({page})" in home, page


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=of)
def test_notebooks_hold_the_outputs_of_one_full_run(path: Path) -> None:
    cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not [line for o in outputs for line in o.get("text", ()) if set(line) & {"\r", "\b"}]
    source = "".join(line for cell in cells for line in cell["source"])
    assert 'SMALL = "CI" in os.environ' in source  # and CI's figures are no figures


# === The blocks, run ===


@pytest.fixture(scope="module")
def gpt2_base_en(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy under the name of the decoder that the pages load."""
    folder = tmp_path_factory.mktemp("presets") / "gpt2_base_en"
    toys.backbone("GPT2", 1, max_sequence_length=256).save_to_preset(str(folder))
    toys.tokenizer().save_to_preset(str(folder))
    return folder


@pytest.fixture
def elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpt2_base_en: Path
) -> Iterator[None]:
    """A small world where presets are toys and training takes two steps."""
    monkeypatch.setitem(specs.SPECS, "two_reviews", None)  # one page adds it; gone after it
    load, names = presets.load_embedder, {"gpt2_base_en": str(gpt2_base_en)}
    monkeypatch.setattr(
        presets,
        "load_embedder",
        lambda cls, preset, *rest, **kw: load(cls, names.get(preset, preset), *rest, **kw),
    )
    with small_world(tmp_path, monkeypatch):
        trainer: Any = cptk.ContrastiveTrainer
        monkeypatch.setattr(trainer, "fit", at_most_two_steps(trainer.fit))
        yield
    if BACKEND == "jax":
        keras.distribution.set_distribution(None)


def at_most_two_steps(fitted: Callable[..., Any]) -> Callable[..., Any]:
    def fit(*args: Any, **kw: Any) -> Any:
        for name in ("epochs", "steps_per_epoch"):
            if name in kw:
                kw[name] = min(kw[name], 2)
        return fitted(*args, **kw)

    return fit


RUNNABLE = [page for page in PAGES if any(block.runs for block in blocks(page))]
if BACKEND == "jax":  # compiling takes a minute a page: the one that says something of JAX
    RUNNABLE = [page for page in RUNNABLE if page.name == "scaling.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=of)
def test_blocks_run_from_top_to_bottom(page: Path, elsewhere: None) -> None:
    names: dict[str, Any] = {"queries": list(QUERIES), "documents": list(DOCUMENTS)}
    if page.name in HAVE_AN_EMBEDDER:
        names["embedder"] = cptk.models.GPT2TextEmbedder.from_preset("gpt2_base_en")
    if page.name == "evaluation.md":
        report = cptk.evaluation.evaluate(
            lambda texts: [[len(t), t.count("a"), 1.0] for t in texts], ["sst2", "stsb"]
        )
        report.to_json("other.json")
    for block in blocks(page):
        if block.runs:
            block.example.namespace = names
            block.example.evaluate()
    for side in ("queries", "documents"):  # what went in is still there: a cell may be run again
        assert all(isinstance(text, str) for text in names[side])
    if page.name == "README.md":
        assert names["best"] in names["documents"]
        assert Path("my_embedder", "config.json").is_file()
    if page.name == "getting-started.md":
        assert sorted(names["ranking"]) == list(range(len(names["documents"])))
        assert Path("my_trainer.keras").is_file()
