"""Mining that is kept in a folder: killed and started again, damaged, and meant for others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cptk.files import Lock
from cptk.mining import hard_negatives, nearest
from cptk.mining.block_folder import BlockFolder
from cptk.search import BM25

PAIRS: dict[str, Any] = {
    "query": [f"q{i % 19}" for i in range(23)],
    "document": [f"d{i % 21}" for i in range(23)],
}


class Encoder:
    """Vectors by text; it may fail, as if it were killed, at one of its calls."""

    fingerprint = "version 1"

    def __init__(self, fails_at: int = 0) -> None:
        self.fails_at, self.calls = fails_at, []  # type: int, list[list[str]]

    def encode_text(self, texts: list[str], role: str | None = None) -> Any:
        self.calls.append(list(texts))
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        seeds = [np.frombuffer(text.encode().ljust(8, b"."), np.uint8) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=4) for seed in seeds])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "TEXTS", 3)
    monkeypatch.setattr(nearest, "QUERIES", 6)


def mine(encoder: Any, folder: Path | None, pairs: Any = PAIRS, **options: Any) -> list[list[str]]:
    return hard_negatives(encoder, pairs, folder=folder, verbose=0, **options)["negatives"]  # type: ignore[return-value]


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Ended at each of its calls in turn, it embeds nothing twice and finds the same."""
    expected = mine(Encoder(), None)
    calls: list[list[str]] = []
    for _ in range(20):
        encoder = Encoder(fails_at=2)
        try:
            found = mine(encoder, tmp_path / "work")
            break
        except KeyboardInterrupt:
            calls += encoder.calls[:-1]
    assert found == expected
    calls += encoder.calls
    texts = [text for call in calls for text in call]
    assert len(calls) == 14  # seven blocks of 21 documents, and seven of 19 queries
    assert sorted(texts) == sorted({*PAIRS["query"], *PAIRS["document"]})
    again = Encoder()
    assert mine(again, tmp_path / "work") == expected
    assert not again.calls


def test_what_is_chosen_may_change(tmp_path: Path) -> None:
    mine(Encoder(), tmp_path)
    other: dict[str, Any] = {"k": 2, "ranks": (1, 100), "ratio": 0.9, "near_copies": None}
    encoder = Encoder()
    assert mine(encoder, tmp_path, **other) == mine(Encoder(), None, **other)
    assert not encoder.calls


@pytest.mark.parametrize("harm", ["cut", "emptied", "scribbled", "deleted", "of another shape"])
def test_a_damaged_block_is_made_anew(harm: str, tmp_path: Path) -> None:
    expected = mine(Encoder(), tmp_path)
    blocks = sorted(tmp_path.glob("*.npz"))
    assert len(blocks) == 18  # seven of documents, seven of queries, four of what was found
    for block in blocks[::2]:
        content = block.read_bytes()
        if harm == "deleted":
            block.unlink()
        elif harm == "scribbled":
            middle = len(content) // 2
            block.write_bytes(content[:middle] + b"#" * 40 + content[middle + 40 :])
        elif harm == "of another shape":
            np.savez(block, vectors=np.ones((2, 2)), scores=np.ones((1, 1)), places=1, own=1)
        else:
            block.write_bytes(content[: 0 if harm == "emptied" else len(content) // 2])
    assert mine(Encoder(), tmp_path) == expected
    again = Encoder()
    assert mine(again, tmp_path) == expected
    assert not again.calls


class Another(Encoder):
    fingerprint = "version 2"


def changed(**columns: Any) -> dict[str, Any]:
    return {**PAIRS, **columns}


MOVED = changed(query=["q1", "q0", *PAIRS["query"][2:]])
OTHERS: dict[str, Any] = {
    "embedder": (Another(), {}, "`embedder` was Encoder .* and is Another"),
    "BM25": (BM25(), {}, r"`embedder` was Encoder .* and is BM25 of k1=1.5 and b=0.75"),
    "queries": (
        Encoder(),
        {"pairs": changed(query=[f"r{i % 19}" for i in range(23)])},
        r"`queries` was 19 texts \(\w+\) and is 19 texts",
    ),
    "pairs": (Encoder(), {"pairs": MOVED}, "`pairs` was 23 texts"),
    "corpus": (Encoder(), {"corpus": ["a", "b"]}, "`corpus` was 21 texts .* and is 2 texts"),
    "ranks": (Encoder(), {"ranks": (0, 5)}, "`ranks` was up to 21 and is up to 5"),
    "search": (Encoder(), {"search": "Flat"}, "`search` was exact and is Flat"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_work_of_another_call_is_refused(name: str, tmp_path: Path) -> None:
    mine(Encoder(), tmp_path)
    encoder, options, message = OTHERS[name]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        mine(encoder, tmp_path, **options)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bm25_is_kept_too(tmp_path: Path) -> None:
    texts = [" ".join(np.random.default_rng(i).choice(list("abcdef"), 4)) for i in range(30)]
    pairs = {"query": texts[:15], "document": texts[15:]}
    expected = mine(BM25(), None, pairs)
    for _ in range(2):
        assert mine(BM25(), tmp_path, pairs) == expected
    with pytest.raises(ValueError, match=r"`embedder` was BM25 of k1=1\.5"):
        mine(BM25(k1=1.2), tmp_path, pairs)
    with pytest.raises(ValueError, match="Give it a string attribute `fingerprint`"):
        mine(BM25(tokenize=str.split), tmp_path, pairs)


def test_folders_that_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="What this function computes with cannot be read"):
        mine(lambda texts: Encoder().encode_text(texts), tmp_path / "new")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"In .* are other files"):
        mine(Encoder(), tmp_path)
    for place in ("notes.txt", "notes.txt/below"):
        with pytest.raises(ValueError, match="where a file stands"):
            mine(Encoder(), tmp_path / place)
    with pytest.raises(TypeError, match="`folder` should be a path"):
        mine(Encoder(), 3)  # type: ignore[arg-type]
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "about.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        mine(Encoder(), tmp_path / "work")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    with pytest.raises(ValueError, match="Another process works in"):
        mine(Encoder(), tmp_path)
    lock.release()
    mine(Encoder(), tmp_path)


def test_what_a_killed_write_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".scratch-0123").write_bytes(b"half")
    with BlockFolder(tmp_path, {"a": "b"}):
        assert [path.name for path in tmp_path.iterdir()] == ["about.json"]


SCRIPT = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    import test_negatives_folder as tests
    from cptk import files
    from cptk.mining import nearest

    nearest.TEXTS, nearest.QUERIES = 3, 6
    left = int(sys.argv[3])
    replace = os.replace

    def killed(*paths):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    files.os.replace = killed
    print(tests.mine(tests.Encoder(), sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("writes", [4, 7])
def test_killed_while_it_writes(writes: int, tmp_path: Path) -> None:
    """SIGKILL between a block's writing and its renaming, until it comes through."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(here), str(tmp_path), str(writes)]
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1])}
    kills = 0
    while True:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        assert kills <= 20
    assert done.stdout.strip() == str(mine(Encoder(), None))
    assert kills == 19 // writes  # eighteen blocks and what the folder says of itself
    assert not list(tmp_path.glob(".scratch-*"))
