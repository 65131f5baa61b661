"""Files of vectors that grow block by block: what is kept, what is refused, who writes."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cptk import quantization, vector_writing
from cptk.vectors import HEADER, StoredVectors, about_of, part_of

DIM = 5
ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    """Three texts, or fewer."""

    texts: list

    def __len__(self):
        return len(self.texts)

    def bytes(self):
        return [text.encode() + b"\0" for text in self.texts]


@pytest.fixture(autouse=True)
def _noted_at_once(monkeypatch):
    monkeypatch.setattr(vector_writing, "BETWEEN", 0.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no test pulls the plug


def settings(**changes):
    known = {"fingerprint": "f", "role": "document", "dtype": "float32", "dim": DIM}
    return {**known, "truncate_dim": None, "block": 3, **changes}


def blocks_of(texts):
    return [Block(texts[start : start + 3]) for start in range(0, len(texts), 3)]


def vectors_of(texts):
    """Numbers that tell texts apart."""
    found = np.array([[float(len(text)), *map(ord, text.ljust(4)[:4])] for text in texts])
    return (found / 200 - 0.4).astype(np.float32)


def write(path, texts, stop=None, made=None, **changes):
    """What `encode` does, with vectors of letters; it stops before a block as if killed there."""
    asked = settings(**changes)
    with vector_writing.writing(path, asked) as writer:
        hashes = deque()
        blocks = writer.after_those_written(iter(blocks_of(texts)), hashes, lambda n: None)
        for number, block in enumerate(blocks):
            if number == stop:
                writer.close()
                return None
            if made is not None:
                made += block.texts
            vectors = vectors_of(block.texts)
            if asked["dtype"] == "int8" and writer.calibration is None:
                writer.calibration = quantization.calibrate(vectors)
            codes = quantization.quantize(vectors, asked["dtype"], writer.calibration)
            writer.add(codes, hashes.popleft())
        if not writer.is_complete:
            writer.finish()
        return writer.read()


TEXTS = [f"{number} text" for number in range(10)]


@pytest.mark.parametrize("dtype", quantization.DTYPES)
def test_what_is_written_is_read_by_numpy_and_decoded(tmp_path, dtype):
    path = tmp_path / "vectors.npy"
    mapped = write(path, TEXTS, dtype=dtype)
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    loaded = np.load(path, allow_pickle=False)
    np.testing.assert_array_equal(loaded, mapped)
    stored = StoredVectors(path)
    assert (len(stored), stored.dtype, stored.dim, stored.role) == (10, dtype, DIM, "document")
    sample = quantization.calibrate(vectors_of(TEXTS[:3])) if dtype == "int8" else None
    expected = quantization.quantize(vectors_of(TEXTS), dtype, sample)
    np.testing.assert_array_equal(loaded, expected)
    decoded = quantization.dequantize(expected, dtype, sample, DIM)
    np.testing.assert_array_equal(stored.decode(), decoded)
    np.testing.assert_array_equal(stored.decode([7, 2]), decoded[[7, 2]])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["vectors.npy", "vectors.npy.json"]


@pytest.mark.parametrize("dtype", quantization.DTYPES)
def test_stopped_after_any_block_it_ends_with_the_same_bytes(tmp_path, dtype):
    whole = tmp_path / "whole.npy"
    write(whole, TEXTS, dtype=dtype)
    for stop in range(4):
        path = tmp_path / f"stopped-{stop}.npy"
        assert write(path, TEXTS, stop=stop, dtype=dtype) is None
        assert not path.exists()
        if stop:  # what a killed process has written and not written down
            with part_of(path).open("ab") as file:
                file.write(b"torn")
        made = []
        write(path, TEXTS, made=made, dtype=dtype)
        assert made == TEXTS[3 * stop :]
        assert path.read_bytes() == whole.read_bytes()
        assert about_of(path).read_bytes() == about_of(whole).read_bytes()


def test_called_again_it_makes_nothing_and_returns_the_same(tmp_path):
    path = tmp_path / "vectors.npy"
    first = write(path, TEXTS)
    made = []
    again = write(path, TEXTS, made=made)
    assert not made
    np.testing.assert_array_equal(first, again)


OTHERS = {
    "one more": [*TEXTS, "11 text"],
    "one less": TEXTS[:-1],
    "a block less": TEXTS[:9],
    "a block more": [*TEXTS, "a", "b"],
    "another order": TEXTS[::-1],
    "another one": [*TEXTS[:4], "other", *TEXTS[5:]],
}


@pytest.mark.parametrize("stop", [2, None])
@pytest.mark.parametrize("name", OTHERS)
def test_other_texts_are_refused(tmp_path, name, stop):
    path = tmp_path / "vectors.npy"
    write(path, TEXTS, stop=stop)
    if stop and OTHERS[name][:6] == TEXTS[:6]:  # what differs was not written yet
        assert len(write(path, OTHERS[name])) == len(OTHERS[name])
        return
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="holds vectors of other texts"):
        write(path, OTHERS[name])
    assert before == {file: file.read_bytes() for file in tmp_path.iterdir()}


@pytest.mark.parametrize("stop", [2, None])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fingerprint": "g"}, "another embedder"),
        ({"role": "query"}, "another role: 'document', and now 'query'"),
        ({"dtype": "float16"}, "another `dtype`"),
        ({"dim": 4}, "vectors of another size: 5, and now 4"),
        ({"truncate_dim": 5}, "another `truncate_dim`"),
    ],
)
def test_vectors_of_something_else_are_refused(tmp_path, stop, change, says):
    path = tmp_path / "vectors.npy"
    write(path, TEXTS, stop=stop)
    with pytest.raises(ValueError, match=says):
        write(path, TEXTS, **change)


def test_another_calibration_is_refused(tmp_path):
    path = tmp_path / "vectors.npy"
    write(path, TEXTS, dtype="int8")
    with vector_writing.writing(path, settings(dtype="int8")) as writer:
        writer.take(quantization.calibrate(vectors_of(TEXTS[:3])))
        with pytest.raises(ValueError, match="another `calibration`"):
            writer.take(quantization.calibrate(vectors_of(TEXTS)))


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "vectors.npy"
    write(path, TEXTS)
    os.truncate(path, HEADER + 9 * 4 * DIM)
    for call in (lambda: write(path, TEXTS), lambda: StoredVectors(path)):
        with pytest.raises(ValueError, match=r"cut short or grown: 308 bytes, and 328 of 10"):
            call()


def test_a_file_of_another_form_is_refused(tmp_path):
    path = tmp_path / "vectors.npy"
    write(path, TEXTS)
    size = path.stat().st_size
    np.save(path, np.zeros((size - 128,), np.uint8))
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match="of another form"):
        StoredVectors(path)


def test_a_beginning_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "vectors.npy"
    write(path, TEXTS, stop=2)
    os.truncate(part_of(path), HEADER + 4 * DIM)
    with pytest.raises(ValueError, match=r"part' is cut short: 148 bytes, and 248 were written"):
        write(path, TEXTS)


def test_what_stands_beside_may_be_damaged(tmp_path):
    path = tmp_path / "vectors.npy"
    write(path, TEXTS)
    good = json.loads(about_of(path).read_text())
    wrong = [
        ("{", "cannot be read as JSON"),
        ("[]", "says nothing of vectors"),
        (json.dumps({**good, "version": 2}), "is of format"),
        (json.dumps({**good, "rows": -1}), "says nothing of vectors"),
        (json.dumps({**good, "dtype": "int4"}), "says nothing of vectors"),
        (json.dumps({**good, "calibration": {"low": [0.0]}}), "says nothing of vectors"),
        (json.dumps({k: v for k, v in good.items() if k != "texts"}), "says nothing of vectors"),
    ]
    for text, says in wrong:
        about_of(path).write_text(text)
        for call in (lambda: write(path, TEXTS), lambda: StoredVectors(path)):
            with pytest.raises(ValueError, match=says):
                call()


def test_files_that_are_not_there(tmp_path):
    path = tmp_path / "vectors.npy"
    with pytest.raises(FileNotFoundError, match="is missing"):
        StoredVectors(path)
    write(path, TEXTS, stop=1)
    with pytest.raises(FileNotFoundError, match="not written to their end"):
        StoredVectors(path)


def test_somebody_elses_file_is_left_alone(tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, np.zeros(3))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="would say of which texts it is, does not"):
        write(path, TEXTS)
    assert path.read_bytes() == before


def test_a_file_that_was_deleted_is_written_anew(tmp_path):
    path = tmp_path / "vectors.npy"
    first = write(path, TEXTS).copy()
    path.unlink()
    np.testing.assert_array_equal(write(path, TEXTS), first)


@pytest.mark.parametrize("output", ["vectors", "vectors.txt", "", 3, None, "folder.npy"])
def test_no_place_for_vectors(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises((ValueError, TypeError), match="`output` should be a"):
        vector_writing.output_path(output)


def test_a_file_stands_where_a_folder_should(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="above which a file stands"):
        write(tmp_path / "file" / "vectors.npy", TEXTS)


def test_folders_are_made(tmp_path):
    assert len(write(tmp_path / "new" / "folder" / "vectors.npy", TEXTS)) == 10


def test_two_writers(tmp_path):
    """Another process has the file; another thread of this one, too."""
    path = tmp_path / "vectors.npy"
    with (
        vector_writing.writing(path, settings()),
        pytest.raises(ValueError, match="another call of this one, writes"),
    ):
        write(path, TEXTS)
    script = (
        "import sys; from cptk import vector_writing as v\n"
        f"with v.writing({str(path)!r}, {settings()!r}):\n    print('has it', flush=True)\n"
        "    sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert other.stdout.readline() == "has it\n"
    with pytest.raises(ValueError, match="Another process"):
        write(path, TEXTS)
    with other:
        other.kill()
    assert len(write(path, TEXTS)) == 10


def test_many_threads_at_one_file_leave_it_whole(tmp_path):
    """Each writes all of it, finds it complete, or is refused; no lock outlives the file's move."""
    path = tmp_path / "vectors.npy"
    done, refused, wrong = [], [], []

    def call():
        try:
            done.append(len(write(path, TEXTS)))
        except ValueError as error:
            refused.append(str(error))
        except BaseException as error:
            wrong.append(error)

    for _ in range(20):
        threads = [threading.Thread(target=call) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        for file in tmp_path.iterdir():
            file.unlink()
    assert not wrong
    assert set(done) == {10}
    assert all("another call of this one" in text for text in refused)


def test_a_full_disk_is_said_before_work_where_the_number_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with (
        pytest.raises(OSError, match="Nothing was written") as caught,
        vector_writing.writing(tmp_path / "vectors.npy", settings()) as writer,
    ):
        writer.check_room(1000)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("at", ["write", "fsync"])
def test_a_disk_that_fills_up_keeps_what_was_written_down(tmp_path, monkeypatch, at):
    whole = tmp_path / "whole.npy"
    write(whole, TEXTS)
    path = tmp_path / "vectors.npy"
    calls = []

    def full(*args):
        calls.append(1)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    original = vector_writing.VectorWriter.add if at == "write" else os.fsync
    owner = vector_writing.VectorWriter if at == "write" else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, "add" if at == "write" else "fsync", full)
        with pytest.raises(OSError, match="make room and call again") as caught:
            write(path, TEXTS)
    assert caught.value.errno == errno.ENOSPC
    assert not path.exists()
    made = []
    write(path, TEXTS, made=made)
    assert 0 < len(made) < 10
    assert path.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".scratch*"))


def test_deleted_and_killed_before_anything_is_noted_it_begins_anew(tmp_path, monkeypatch):
    path = tmp_path / "v.npy"
    settings = {"fingerprint": "f", "role": "r", "dtype": "float32", "dim": DIM}
    with vector_writing.writing(path, settings) as writer:
        writer.add(np.ones((3, DIM), np.float32), "texts")
        writer.finish()
    path.unlink()
    monkeypatch.setattr(vector_writing, "BETWEEN", 1e9)
    with vector_writing.writing(path, settings) as writer:  # ends without a note, as a kill does
        writer.add(np.ones((1, DIM), np.float32), "other texts")
    with vector_writing.writing(path, settings) as writer:
        assert writer.rows == 0
