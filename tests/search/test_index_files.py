"""An index on the disk: read back, killed while it is written, damaged, and written by two."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiers import FULL

from cptk import files
from cptk.search import Index, index_files

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(1)
VECTORS = RNG.normal(size=(60, 16))
KINDS: list[dict[str, Any]] = [
    {}, {"dtype": "int8"}, {"dtype": "binary"}, {"factory": "HNSW8"},
    {"factory": "IVF2,PQ4x4", "search_parameters": "nprobe=2"},
]  # fmt: skip


def fingerprinted(name: str) -> Any:
    class Encoder:
        fingerprint = name

        def encode_text(self, texts: list[str]) -> Any:
            return [[len(text), 1.0, text.count("a")] for text in texts]

    return Encoder()


def made(kind: dict[str, Any], folder: Path | None = None) -> Index:
    if "factory" in kind:
        pytest.importorskip("faiss", reason="pip install cptk[faiss]")
    names = [f"é{i}" for i in range(60)]
    index = Index(**kind).add(VECTORS, ids=names, metadata={"n": range(60), "text": names})
    if folder is not None:
        index.save(folder)
    return index


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_loaded_index_goes_on_where_it_was(kind: dict[str, Any], tmp_path: Path) -> None:
    index = made(kind)
    before = index.search(VECTORS[:9], 5, oversample=12)
    index.save(tmp_path / "index")
    for again in (index, Index.load(tmp_path / "index")):
        after = again.search(VECTORS[:9], 5, oversample=12)
        assert [hits.ids for hits in after] == [hits.ids for hits in before]
        np.testing.assert_array_equal(after[0].scores, before[0].scores)
        assert after[0][0].text == "é0"
        assert repr(again) == repr(index)
    again.delete(["é0", "é59"])
    again.add(VECTORS[:1] + 9, ["new"], [{"n": -1, "text": "n"}])
    changed = again.search(VECTORS[0], 3, oversample=20).ids
    again.save(tmp_path / "index")
    assert Index.load(tmp_path / "index").search(VECTORS[0], 3, oversample=20).ids == changed
    last = Index.load(tmp_path / "index")
    assert last.rows["id"].to_pylist() == [*(f"é{i}" for i in range(1, 59)), "new"]
    assert last.search(VECTORS[0] + 9, 1).ids == ["new"]
    assert len(os.listdir(tmp_path / "index")) == (3 if not kind else 4)


def test_any_tool_reads_the_rows_and_the_vectors(tmp_path: Path) -> None:
    made({}, tmp_path / "index")
    (vectors,) = (tmp_path / "index").glob("vectors-*.npy")
    (rows,) = (tmp_path / "index").glob("rows-*.arrow")
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(vectors, allow_pickle=False), unit, atol=1e-7)
    assert pa.ipc.open_file(rows).read_all()["n"].to_pylist() == [*range(60)]


def test_vectors_are_mapped_and_not_read(tmp_path: Path) -> None:
    made({}, tmp_path / "index")
    base = Index.load(tmp_path / "index")._contents.vectors.base  # type: ignore[union-attr]
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base  # type: ignore[assignment]
    assert isinstance(base, np.memmap)


def test_all_rows_may_be_deleted(tmp_path: Path) -> None:
    for kind in KINDS[:4]:
        index = made(kind).delete([f"é{i}" for i in range(60)])
        index.save(tmp_path / "index", overwrite=True)
        again = Index.load(tmp_path / "index")
        assert len(again) == 0
        again.add(VECTORS, [f"x{i}" for i in range(60)], {"n": range(60), "text": ["b"] * 60})
        again.save(tmp_path / "index")
        assert Index.load(tmp_path / "index").search(VECTORS[3], 1).ids == ["x3"]


def test_integers_count_on_after_loading(tmp_path: Path) -> None:
    index = Index().add(VECTORS[:3]).delete([2])
    index.save(tmp_path / "index")
    assert Index.load(tmp_path / "index").add(VECTORS[:1]).rows["id"].to_pylist() == [0, 1, 3]


def test_of_too_few_rows_faiss_writes_no_file(tmp_path: Path) -> None:
    index = made({"factory": "IVF32,Flat"}, tmp_path)
    index.delete([f"é{i}" for i in range(50)]).save(tmp_path)
    for each in (index, Index.load(tmp_path)):
        assert each.search(VECTORS[55], 1).ids == ["é55"]
    assert sorted(json.loads((tmp_path / "index.json").read_text())["files"]) == ["rows", "vectors"]
    again = Index.load(tmp_path)
    again.add(VECTORS[:50], [f"x{i}" for i in range(50)], {"n": range(50), "text": ["b"] * 50})
    again.save(tmp_path)
    assert "faiss" in json.loads((tmp_path / "index.json").read_text())["files"]
    assert Index.load(tmp_path).search(VECTORS[3], 1).ids == ["x3"]


def test_faiss_is_read_from_another_folder_or_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made({"factory": "HNSW8"}, Path("index"))
    moved, late = Index.load("index"), Index.load("index")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    with monkeypatch.context() as patch:
        patch.setattr("cptk.search.approximate.made_index", lambda *_: 1 / 0)
        assert moved.search(VECTORS[7], 1).ids == ["é7"]
    Index.load(tmp_path / "index").delete(["é0"]).save(tmp_path / "index")
    assert late.search(VECTORS[0], 1).ids == ["é0"]  # whose file another save has removed


# === Embedders ===


def test_another_embedder_is_refused(tmp_path: Path) -> None:
    Index(fingerprinted("one")).add(["a", "bb"]).save(tmp_path)
    assert Index.load(tmp_path, fingerprinted("one")).search("a", 1).ids == [0]
    with pytest.raises(ValueError, match=r"another embedder\. What differs: its weights"):
        Index.load(tmp_path, fingerprinted("two"))
    about = json.loads((tmp_path / "index.json").read_text())
    about["embedder"]["pooling"] = "mean"
    (tmp_path / "index.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"What differs: pooling was 'mean' and is None\. Load"):
        Index.load(tmp_path, fingerprinted("two"))
    with pytest.raises(ValueError, match="`queries` are texts, and this index has no embedder"):
        Index.load(tmp_path).search("a")
    assert Index.load(tmp_path).search([1.0, 1.0, 1.0], 1).ids == [0]


def test_an_embedder_that_nothing_is_known_of(tmp_path: Path) -> None:
    Index(lambda texts: [[len(text), 1.0] for text in texts]).add(["a", "bbb"]).save(tmp_path)
    index = Index.load(tmp_path, lambda texts: [[len(text), 1.0] for text in texts])
    assert index.search("cc", 2).ids == [1, 0]
    wide = Index.load(tmp_path, lambda texts: [[len(text), 1.0, 2.0] for text in texts])
    with pytest.raises(ValueError, match=r"vectors of 2 numbers, as this index has. Received .* 3"):
        wide.search("cc")


# === Two writers ===


def test_another_index_is_not_written_over(tmp_path: Path) -> None:
    made({}, tmp_path)
    with pytest.raises(ValueError, match=r"holds another index. Name another folder"):
        made({}).save(tmp_path)
    made({"dtype": "int8"}).save(tmp_path, overwrite=True)
    assert Index.load(tmp_path)._settings.dtype == "int8"


def test_the_second_of_two_writers_is_told(tmp_path: Path) -> None:
    made({}, tmp_path)
    first, second = Index.load(tmp_path), Index.load(tmp_path)
    first.delete(["é1"]).save(tmp_path)
    first.delete(["é2"]).save(tmp_path)  # who has saved may save again
    with pytest.raises(ValueError, match=r"Another process has saved the index .* since"):
        second.delete(["é3"]).save(tmp_path)
    assert len(Index.load(tmp_path)) == 58
    assert second.search(VECTORS[5], 1).ids == ["é5"]  # its files are gone, and mapped still
    second.save(tmp_path / "elsewhere")
    assert len(Index.load(tmp_path / "elsewhere")) == 59
    lock = files.Lock(tmp_path)
    with pytest.raises(ValueError, match="Another process is saving the index"):
        first.save(tmp_path)
    lock.release()
    first.save(tmp_path)


def test_a_reader_meets_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = made({}, tmp_path)
    read = index_files.read
    seen = []

    def read_slowly(folder: Path) -> index_files.Generation:
        generation = read(folder)
        if not seen:
            seen.append(generation.name)
            index.delete(["é0"]).save(folder)
        return generation

    monkeypatch.setattr(index_files, "read", read_slowly)
    assert len(Index.load(tmp_path)) == 59


def test_a_file_that_is_replaced_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = made({}, tmp_path)
    check, waiting = index_files.check_sizes, ["é0", "é1", "é2"]

    def check_slowly(generation: index_files.Generation) -> None:
        check(generation)
        if waiting:
            monkeypatch.setattr(index_files, "check_sizes", check)  # `save` reads too
            index.delete([waiting.pop()]).save(tmp_path)
            monkeypatch.setattr(index_files, "check_sizes", check_slowly)

    monkeypatch.setattr(index_files, "check_sizes", check_slowly)
    assert len(Index.load(tmp_path)) == 57


# === Bad folders and damaged files ===


def test_nothing_of_a_folder_that_is_refused_is_removed(tmp_path: Path) -> None:
    theirs = [".scratch-abc", "letter.txt", "vectors-0123456789ab.npy"]
    for name in theirs:
        (tmp_path / name).write_text("theirs")
    with pytest.raises(ValueError, match="holds other things than an index"):
        made({}, tmp_path)
    assert sorted(os.listdir(tmp_path)) == theirs


def test_folders_that_hold_no_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        Index.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"holds no index: it has no index.json"):
        Index.load(tmp_path)
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(ValueError, match=r"holds other things than an index: 'letter\.txt'"):
        made({}, tmp_path)
    with pytest.raises(ValueError, match="where a file stands"):
        made({}, tmp_path / "letter.txt")
    with pytest.raises(ValueError, match="This index is empty"):
        Index(dim=3).save(tmp_path / "new")
    with pytest.raises(TypeError, match="`folder` should be a path"):
        Index.load(5)  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path)) == ["letter.txt"]


@pytest.mark.parametrize("kind", [{"dtype": "int8"}, {"factory": "HNSW8"}], ids=str)
def test_every_file_that_is_cut_short_or_missing_is_named(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    made(kind, tmp_path / "good")
    names = sorted(os.listdir(tmp_path / "good"))
    assert len(names) == 4
    for name in names:
        bad = tmp_path / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(tmp_path / "good", bad)
        whole = (bad / name).read_bytes()
        for kept in (0, len(whole) // 2, len(whole) - 1):
            (bad / name).write_bytes(whole[:kept])
            if name == "index.json" and kept == len(whole) - 1:
                continue  # the last line's end
            with pytest.raises(ValueError, match=rf"{name}.*(is cut short|cannot be read)"):
                Index.load(bad)
        (bad / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            Index.load(bad)


def test_files_that_say_something_else(tmp_path: Path) -> None:
    made({}, tmp_path)
    place = tmp_path / "index.json"
    about = json.loads(place.read_text())

    def refused(match: str, **changes: Any) -> None:
        place.write_text(json.dumps({**about, **changes}))
        with pytest.raises(ValueError, match=match):
            Index.load(tmp_path)

    refused("is no index of cptk's", format="something")
    refused("written in version 99", version=99)
    refused("is no index of cptk's", files={"vectors": {"name": "../x.npy", "bytes": 1}})
    refused("is no index of cptk's", files=[])
    refused("should hold 61 rows with an id. It holds 60|shape", rows=61)
    refused("should hold float32 of shape", dim=8)
    refused("`dtype` should be one of", dtype="float99")
    short = {key: value for key, value in about.items() if key != "dim"}
    place.write_text(json.dumps(short))
    with pytest.raises(ValueError, match="says nothing of 'dim'"):
        Index.load(tmp_path)
    place.write_text(json.dumps(about))
    size = about["files"]["vectors"]["bytes"]
    (tmp_path / about["files"]["vectors"]["name"]).write_bytes(b"\x80\x04" + bytes(size - 2))
    with pytest.raises(ValueError, match=r"vectors-.* is damaged"):
        Index.load(tmp_path)  # and nothing is unpickled


def test_a_full_disk_leaves_the_index_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = made({"dtype": "int8"}, tmp_path)
    before = sorted(os.listdir(tmp_path))
    index.delete(["é0"])

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("os.fsync", "cptk.files.check_free_space"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(OSError, match=r"The disk is full.*that was there is whole"):
                index.save(tmp_path)
        assert sorted(os.listdir(tmp_path)) == before
        assert len(Index.load(tmp_path)) == 60
    index.save(tmp_path)
    assert len(Index.load(tmp_path)) == 59


def test_a_save_that_fails_leaves_the_index_in_memory_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, kind in enumerate(KINDS):
        index = made(kind).delete(["é0", "é1"])
        before = [hits.ids for hits in index.search(VECTORS, 5, oversample=12)]
        with monkeypatch.context() as patch:
            patch.setattr(index_files.Writer, "commit", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                index.save(tmp_path / str(number))
        assert [hits.ids for hits in index.search(VECTORS, 5, oversample=12)] == before
        assert not (tmp_path / str(number)).exists()
        index.save(tmp_path / str(number))


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_an_index(tmp_path: Path) -> None:
    script = """
        import sys, numpy as np
        from cptk.search import Index
        vectors = np.random.default_rng(0).normal(size=(20_000, 64))
        index = Index(dtype="int8").add(vectors)
        index.save(sys.argv[1], overwrite=True)
        print("saved", flush=True)
        while True:
            index.delete([int(index.rows["id"][0].as_py())]).save(sys.argv[1])
    """
    moments = np.random.default_rng(3).uniform(0, 0.5, 20 if FULL else 4)
    for moment in moments:
        run = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "index")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        assert run.stdout is not None
        assert run.stdout.readline() == b"saved\n"
        time.sleep(moment)
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        index = Index.load(tmp_path / "index")
        first = index.rows["id"][0].as_py()
        assert index.rows["id"].to_pylist() == [*range(first, 20_000)]
        vector = np.random.default_rng(0).normal(size=(20_000, 64))[first]
        assert index.search(vector, 1).ids == [first]
    index.save(tmp_path / "index")
    assert len(os.listdir(tmp_path / "index")) == 4
