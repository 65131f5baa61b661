"""`encode(..., output=…)`: it goes on where it was, ends with the same bytes, and holds little."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import cptk
from cptk import quantization, vector_writing
from cptk.models import encode, encode_pipeline
from tests import toys
from tests.tiers import FULL

ROOT = Path(__file__).parents[2]
TEXTS = [f"{number % 33} thing " + "x" * (number % 11) for number in range(50)]


@pytest.fixture(scope="module")
def gpt2():
    return toys.gpt2_embedder(num_layers=1)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(encode, "BLOCK", 8)
    monkeypatch.setattr(vector_writing, "BETWEEN", 0.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def stop_after(batches):
    """A progress function that interrupts, as Ctrl-C does."""
    count = 0

    def told(done, total):
        nonlocal count
        count += 1
        if count == batches:
            raise KeyboardInterrupt

    return told


@pytest.mark.parametrize("dtype", quantization.DTYPES)
def test_interrupted_anywhere_it_ends_with_the_same_bytes(gpt2, tmp_path, dtype):
    options = {"dtype": dtype, "batch_tokens": 64, "role": "query", "truncate_dim": 11}
    whole = tmp_path / "whole.npy"
    gpt2.encode_text(TEXTS, output=whole, **options)
    path = tmp_path / "vectors.npy"
    for batches in (1, 3, 7, 12):
        with pytest.raises(KeyboardInterrupt):
            gpt2.encode_text(iter(TEXTS), output=path, progress=stop_after(batches), **options)
        assert not path.exists()
    found = gpt2.encode_text(iter(TEXTS), output=path, **options)
    assert path.read_bytes() == whole.read_bytes()
    beside = [Path(f"{place}.json").read_bytes() for place in (path, whole)]
    assert beside[0] == beside[1]
    stored = cptk.vectors.StoredVectors(path)
    np.testing.assert_array_equal(stored.codes, found)
    assert (stored.role, stored.dim, len(stored)) == ("query", 11, 50)
    assert stored.fingerprint == cptk.fingerprint.fingerprint(gpt2)
    plain = gpt2.encode_text(TEXTS, role="query", truncate_dim=11, verbose=0)
    if dtype == "int8":  # of the first block
        low = plain[:8].min(axis=0)
        np.testing.assert_allclose(stored.calibration.low, low, atol=1e-6)
    if dtype == "binary":
        agree = np.mean((stored.decode() > 0) == (plain > 0))
        assert agree > 0.99
    else:
        error = {"float32": 1e-6, "float16": 1e-3, "int8": 0.05}[dtype]
        within = np.abs(stored.decode() - plain) < error
        assert within[:8].all()
        assert within.mean() > (0.9 if dtype == "int8" else 0.9999)


def test_a_complete_file_is_compared_and_not_made_again(gpt2, tmp_path, monkeypatch):
    path = tmp_path / "vectors.npy"
    first = gpt2.encode_text(TEXTS, output=path).copy()
    monkeypatch.setattr(encode, "compiled_forward", lambda _: lambda _: pytest.fail("computed"))
    told = []
    again = gpt2.encode_text(TEXTS, output=path, progress=lambda *counts: told.append(counts))
    np.testing.assert_array_equal(first, again)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert told[-1] == (50, 50)
    for texts in (TEXTS[:-1], [*TEXTS, "x"], TEXTS[::-1]):
        with pytest.raises(ValueError, match="holds vectors of other texts"):
            gpt2.encode_text(texts, output=path)


def test_another_models_vectors_are_refused(gpt2, tmp_path):
    path = tmp_path / "vectors.npy"
    gpt2.encode_text(TEXTS, output=path)
    other = toys.gpt2_embedder(num_layers=1)
    gpt2_again = other.encode_text(TEXTS, output=path)
    assert len(gpt2_again) == 50  # equal weights: equal vectors
    norm = other.backbone.layer_norm.gamma
    norm.assign(norm + 0.01)
    with pytest.raises(ValueError, match="holds vectors of another embedder"):
        other.encode_text(TEXTS, output=path)
    for options, says in [
        ({"role": "query"}, "another role"),
        ({"dtype": "int8"}, "another `dtype`"),
        ({"truncate_dim": 8}, "another size"),
        ({"truncate_dim": 16}, "another `truncate_dim`"),
    ]:
        with pytest.raises(ValueError, match=says):
            gpt2.encode_text(TEXTS, output=path, **options)


def test_a_store_is_no_text_and_its_vectors_go_on_too(gpt2, tmp_path):
    pairs = [(text, f"{text} {number}") for number, text in enumerate(TEXTS)]
    store = cptk.data.TokenStore.write(tmp_path / "store", pairs, gpt2.preprocessor, verbose=0)
    path = tmp_path / "vectors.npy"
    options = {"output": path, "column": "document", "batch_tokens": 64}
    with pytest.raises(KeyboardInterrupt):
        gpt2.encode_text(store, progress=stop_after(9), **options)
    found = gpt2.encode_text(store, **options)
    texts = [document for _, document in pairs]
    np.testing.assert_allclose(found, gpt2.encode_text(texts, verbose=0), atol=1e-6)
    with pytest.raises(ValueError, match="another role: 'document', and now 'query'"):
        gpt2.encode_text(store, output=path, column="query")
    with pytest.raises(ValueError, match="holds vectors of other texts"):
        gpt2.encode_text(texts, output=path)


def test_a_generator_is_held_in_blocks(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_pipeline, "CHUNK", 8)
    read, ahead = 0, []

    def texts():
        nonlocal read
        for text in TEXTS * 10:
            read += 1
            yield text

    gpt2.encode_text(
        texts(), output=tmp_path / "v.npy", progress=lambda done, total: ahead.append(read - done)
    )
    assert read == 500
    assert max(ahead) <= 8 * 6


def test_a_bad_text_in_a_generator_leaves_what_was_before_it(gpt2, tmp_path):
    path = tmp_path / "vectors.npy"
    with pytest.raises(TypeError, match="Item 41 is None"):
        gpt2.encode_text(iter([*TEXTS[:41], None]), output=path)
    assert not path.exists()
    made = []
    gpt2.encode_text(TEXTS, output=path, progress=lambda done, total: made.append(done))
    assert len(gpt2.encode_text(TEXTS, output=path)) == 50


def test_a_vector_that_is_not_finite_is_named_by_its_number(tmp_path):
    embedder = toys.gpt2_embedder(1)
    table = np.array(embedder.backbone.token_embedding.embeddings)
    table[toys.vocabulary()["z"]] = np.nan
    embedder.backbone.token_embedding.embeddings.assign(table)
    with pytest.raises(ValueError, match="embedding of text 20, 'a zoo', is not finite"):
        embedder.encode_text([*TEXTS[:20], "a zoo"], output=tmp_path / "v.npy")


def test_threads_at_files_of_their_own(gpt2, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    expected = gpt2.encode_text(TEXTS, verbose=0)
    with ThreadPoolExecutor(3) as pool:
        calls = [
            pool.submit(gpt2.encode_text, TEXTS, output=tmp_path / f"{number}.npy", verbose=0)
            for number in range(3)
        ]
        for call in calls:
            np.testing.assert_allclose(call.result(), expected, atol=1e-6)


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, ROOT / "tests/models/encode_script.py", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path):
    whole = tmp_path / "whole.npy"
    done = run(whole, 1000, 0)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "vectors.npy"
    for kill in (3, 20, 25, 9, 14) if FULL else (3, 20):
        killed = run(path, 1000, kill)
        assert killed.returncode == -9, killed.stdout + killed.stderr
        assert not path.exists()
    last = run(path, 1000, 0)
    assert last.returncode == 0, last.stderr
    assert path.read_bytes() == whole.read_bytes()
    assert Path(f"{path}.json").read_bytes() == Path(f"{whole}.json").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(keras.config.backend() == "torch", reason="torch has one device")
def test_two_devices_share_each_batch():
    script = ROOT / "tests/models/encode_on_devices.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "devices 2" in done.stdout


def test_parts_that_end_with_blocks_have_the_bytes_of_one_process(gpt2, tmp_path):
    whole = gpt2.encode_text(TEXTS, output=tmp_path / "whole.npy")
    cuts = [(0, 16), (16, 40), (40, 50)]
    parts = [
        gpt2.encode_text(TEXTS[start:stop], output=tmp_path / f"{start}.npy")
        for start, stop in cuts
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
