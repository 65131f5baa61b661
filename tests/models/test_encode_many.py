"""`encode` for every kind of texts, embedder and type of vector; files are in `…_files.py`."""

import threading

import keras
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cptk
from cptk import encoders, quantization
from cptk.data.token_shards import Ragged
from cptk.models import encode, encode_pipeline
from cptk.models.encode_plan import Plan, features
from tests import toys

TEXTS = ["the thing", "x", "def f(x): return x", "the thing", "a café in Zürich \U0001f600", "x"]


@pytest.fixture(scope="module")
def gpt2():
    return toys.gpt2_embedder(num_layers=1, sequence_length=32)


@pytest.fixture
def batches(monkeypatch):
    """Of each batch that is embedded its shape; vectors are of its ids, whatever the padding."""
    shapes = []

    def embed(tokens):
        shapes.append(tokens["token_ids"].shape)
        sums = (tokens["token_ids"] * tokens["padding_mask"]).sum(axis=1, dtype=float)
        vectors = np.zeros((len(sums), toys.HIDDEN_DIM))
        vectors[:, 0], vectors[:, 1] = tokens["padding_mask"].sum(axis=1), sums / 100
        return vectors

    monkeypatch.setattr(encode, "compiled_forward", lambda _: embed)
    return shapes


# === Texts of every kind ===


def kinds():
    table = pa.table({"id": range(6), "text": TEXTS})
    chunks = pa.chunked_array([TEXTS[:2], TEXTS[2:]])
    found = {
        "tuple": tuple(TEXTS),
        "strings of NumPy": np.array(TEXTS),
        "objects of NumPy": np.array(TEXTS, object),
        "NumPy's own strings": np.array(TEXTS, np.dtypes.StringDType()),
        "Arrow array": pa.array(TEXTS),
        "Arrow chunks": chunks,
        "Arrow dictionary": pa.array(TEXTS).dictionary_encode(),
        "generator": (text for text in TEXTS),
        "table of one column": table.select(["text"]),
        "strings of another type": [np.str_(text) for text in TEXTS],
    }
    return found, {"table": table, "mapping": {"text": TEXTS}}


@pytest.mark.parametrize("block", [None, 4])
def test_every_kind_of_texts(gpt2, batches, block, tmp_path, monkeypatch):
    expected = gpt2.encode_text(TEXTS, verbose=0)
    monkeypatch.setattr(encode, "BLOCK", block or encode.BLOCK)
    plain, with_column = kinds()
    for number, (name, texts) in enumerate({**plain, **with_column}.items()):
        output = tmp_path / f"{number}.npy" if block else None
        column = "text" if name in with_column else None
        found = gpt2.encode_text(texts, verbose=0, output=output, column=column)
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_columns_of_pandas(gpt2, batches):
    pandas = pytest.importorskip("pandas")
    expected = gpt2.encode_text(TEXTS, verbose=0)
    frame = pandas.DataFrame({"id": range(6), "text": TEXTS}, index=list("fedcba"))
    arrow = frame["text"].astype("string")
    for found in (
        gpt2.encode_text(frame["text"], verbose=0),
        gpt2.encode_text(arrow, verbose=0),
        gpt2.encode_text(frame, verbose=0, column="text"),
        gpt2.encode_text(frame[["text"]], verbose=0),
    ):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(TypeError, match="Item 1 is"):
        gpt2.encode_text(pandas.Series(["x", None]))


@pytest.mark.parametrize(
    ("texts", "column", "says"),
    [
        (pa.table({"a": ["x"]}), "b", r"no column 'b'. The columns are: \['a'\]"),
        (["x"], "a", "`column` is for a TokenStore, a frame or a table"),
        (iter(["x"]), "a", "`column` is for a TokenStore"),
        (pa.array(["x", None]), None, "Item 1 is None"),
        (pa.array([], pa.string()), None, "is empty"),
        (iter([]), None, "is empty"),
        (pa.table({"a": ["x"], "b": ["y"]}), None, "2 columns"),
    ],
)
def test_texts_that_are_none(gpt2, texts, column, says):
    with pytest.raises((ValueError, TypeError), match=says):
        gpt2.encode_text(texts, column=column)


def test_a_generator_is_read_on_the_callers_thread(gpt2):
    threads = set()

    def texts():
        for number in range(5):
            threads.add(threading.get_ident())
            yield f"text {number}"

    assert len(gpt2.encode_text(texts(), verbose=0)) == 5
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("output", [None, "vectors.npy"])
def test_a_store_is_embedded_as_it_is(gpt2, tmp_path, output):
    pairs = [("sort", "sorted(x)"), ("open", "open(path)"), ("sort", "x.sort()"), ("x", "x" * 90)]
    store = cptk.data.TokenStore.write(
        tmp_path / "store", pairs, gpt2.preprocessor, rows_per_shard=3, verbose=0
    )
    output = output and tmp_path / output
    for number, side in enumerate(("query", "document")):
        expected = gpt2.encode_text([pair[number] for pair in pairs], role=side, verbose=0)
        place = output and output.with_name(f"{side}.npy")
        found = gpt2.encode_text(store, column=side, verbose=0, output=place)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    gpt2.encode_text(store, column="query", role="query", verbose=0)
    for column, role, says in [
        (None, None, r"one of \['query', 'document'\]. Received: None"),
        ("text", None, "Received: 'text'"),
        ("query", "document", "texts in the role 'query'"),
    ]:
        with pytest.raises(ValueError, match=says):
            gpt2.encode_text(store, column=column, role=role)
    other = toys.gpt2_embedder(1, sequence_length=16)
    with pytest.raises(
        ValueError, match=r"written for another embedder\. They differ in sequence_length"
    ):
        other.encode_text(store, column="query")
    with pytest.raises(ValueError, match="written for another embedder"):
        toys.embedder("Llama3", 1).encode_text(store, column="query")


# === Batches ===


def test_equal_texts_are_embedded_once(gpt2, batches):
    texts = [f"text {number % 7}" for number in range(1000)]
    found = gpt2.encode_text(texts, verbose=0)
    assert sum(rows for rows, _ in batches) < 30
    np.testing.assert_array_equal(found, found[np.arange(1000) % 7])


@pytest.mark.parametrize("any_shape", [True, False])
def test_batches_hold_no_more_tokens_than_asked_for(gpt2, batches, monkeypatch, any_shape):
    monkeypatch.setattr(encode, "takes_any_shape", lambda _: any_shape)
    monkeypatch.setattr(encode_pipeline, "CHUNK", 50)
    texts = [f"{number}" + "x" * (number % 23) for number in range(300)]
    expected = gpt2.encode_text(texts, verbose=0)
    for tokens in (1, 64, 100, 5000):
        batches.clear()
        np.testing.assert_array_equal(
            gpt2.encode_text(texts, batch_tokens=tokens, verbose=0), expected
        )
        assert all(rows == 1 or rows * length <= tokens for rows, length in batches)
        assert tokens < 5000 or len(batches) < 8
    batches.clear()
    gpt2.encode_text(texts, batch_tokens=100, batch_size=2, verbose=0)
    assert max(rows for rows, _ in batches) == 2


def test_few_programs_for_many_lengths(gpt2, batches, monkeypatch):
    """What JAX compiles: of 20,000 texts in files of blocks, a program for each shape."""
    monkeypatch.setattr(encode, "takes_any_shape", lambda _: False)
    plan = Plan(longest=512, tokens=2048)
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(5):
        lengths = np.clip(rng.lognormal(3.5, 1.0, 4096), 3, 512).astype(int)
        order = np.sort(lengths)[::-1]
        cuts = plan.batches(order, last=True)
        for cut in cuts:
            length = plan.length(int(order[cut.start]))
            shapes.add((plan.padded_rows(cut.stop - cut.start, length), length))
        padded = sum(
            plan.padded_rows(c.stop - c.start, plan.length(int(order[c.start])))
            * plan.length(int(order[c.start]))
            for c in cuts
        )
        assert padded < 1.35 * lengths.sum()
    assert len(shapes) <= 24
    assert len({length for _, length in shapes}) <= 11


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=80),
    st.integers(1, 90),
    st.one_of(st.none(), st.integers(1, 9)),
    st.booleans(),
    st.booleans(),
)
def test_a_plan_takes_each_text_once_and_keeps_to_its_bounds(lengths, tokens, rows, exact, last):
    plan = Plan(40, tokens, rows, exact)
    ordered = np.sort(np.array(lengths))[::-1]
    cuts = plan.batches(ordered, last)
    ends = [0, *(cut.stop for cut in cuts)]
    assert [cut.start for cut in cuts] == ends[:-1]
    assert all(cut.stop > cut.start for cut in cuts)
    if last:
        assert ends[-1] == len(lengths)
    for cut in cuts:
        length = plan.length(int(ordered[cut.start]))
        padded = plan.padded_rows(cut.stop - cut.start, length)
        assert length >= ordered[cut.start]
        assert padded >= cut.stop - cut.start
        assert padded == 1 or padded * length <= tokens
        assert padded <= (rows or padded)


def test_a_batch_is_padded_on_the_right_and_filled_up_with_its_first_text():
    tokens = Ragged.of([[5, 6, 7], [1], [2, 3]], "int32")
    batch = features(tokens, np.array([0, 2]), Plan(16, 64, None))
    assert batch["token_ids"].shape == (4, 16)
    first, second = [5, 6, 7, 0], [2, 3, 0, 0]
    np.testing.assert_array_equal(batch["token_ids"][:, :4], [first, second, first, first])
    np.testing.assert_array_equal(batch["padding_mask"].sum(axis=1), [3, 2, 3, 3])


def test_batches_in_flight_change_nothing(gpt2, monkeypatch):
    texts = [f"{number} " + "thing " * (number % 5) for number in range(60)]
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(encode, "_IN_FLIGHT", {keras.config.backend(): count})
        found.append(gpt2.encode_text(texts, batch_size=8, verbose=0))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.fixture
def longest(gpt2, monkeypatch):
    """Of each call of the tokenizer the characters of its longest text."""
    found = []
    tokenize = gpt2.preprocessor.tokenize

    def spy(texts, role=None):
        found.append(max(map(len, texts)))
        return tokenize(texts, role)

    monkeypatch.setattr(gpt2.preprocessor, "tokenize", spy)
    return found


@pytest.mark.parametrize("characters", [1, 2, 256])
def test_the_end_of_a_long_text_is_tokenised_where_tokens_are_missing(
    gpt2, monkeypatch, characters
):
    texts = ["the thing in a text " * 40, " " * 60 + "x" * 60, "a" * 500, "short", "é" * 300]
    expected = gpt2.encode_text(texts, verbose=0)
    monkeypatch.setattr(encode_pipeline, "_CHARACTERS", characters)
    np.testing.assert_allclose(gpt2.encode_text(texts, verbose=0), expected, atol=1e-6)


def test_a_text_of_many_megabytes_is_not_tokenised_whole(gpt2, longest):
    words = "the thing in a text "
    found = gpt2.encode_text([words * 1_000_000, words * 100], verbose=0)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert max(longest) == 256 * 32
    # Where nothing stands for megabytes but white space, there is no other way.
    gpt2.encode_text([" " * 100_000 + "x"], verbose=0)


def test_progress_as_a_function(gpt2):
    told = []
    gpt2.encode_text(TEXTS, batch_size=1, progress=lambda *counts: told.append(counts))
    assert told[-1] == (6, 6)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    told.clear()
    gpt2.encode_text(iter(TEXTS), progress=lambda *counts: told.append(counts))
    assert told[-1] == (6, None)


@pytest.mark.parametrize(("shown", "lines"), [(True, 1), (False, 0), ("auto", 0)])
def test_progress_as_a_switch(gpt2, capsys, shown, lines):
    gpt2.encode_text(TEXTS, progress=shown)
    assert ("6/6 texts" in capsys.readouterr().out) == bool(lines)


def test_progress_of_an_unknown_number(gpt2, batches, capsys):
    gpt2.encode_text((f"{n}" for n in range(9000)), batch_size=100, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1,000 texts"
    assert 3 <= len(lines) <= 6


# === Types of vectors ===


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
@pytest.mark.parametrize("dim", [None, 5])
def test_vectors_in_fewer_bytes(gpt2, dtype, dim):
    plain = gpt2.encode_text(TEXTS, truncate_dim=dim, verbose=0)
    known = quantization.calibrate(plain) if dtype == "int8" else None
    found = gpt2.encode_text(TEXTS, truncate_dim=dim, dtype=dtype, calibration=known, verbose=0)
    np.testing.assert_array_equal(found, quantization.quantize(plain, dtype, known))


def test_types_that_there_are_not(gpt2):
    with pytest.raises(ValueError, match=r"`dtype` should be one of .*Received: 'int4'"):
        gpt2.encode_text(["x"], dtype="int4")
    with pytest.raises(TypeError, match='dtype="int8" in memory needs a `calibration`'):
        gpt2.encode_text(["x"], dtype="int8")


def test_a_calibration_is_checked_before_the_work(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr("cptk.models.encode.Pipeline.run", None)  # nothing may be embedded
    known = quantization.calibrate(np.eye(3, dtype="float32"))
    for output in (None, tmp_path / "v.npy"):
        options = {"output": output, "verbose": 0}
        with pytest.raises(ValueError, match="should be of 16 dimensions"):
            gpt2.encode_text(TEXTS, dtype="int8", calibration=known, **options)
        with pytest.raises(TypeError, match="A calibration is what `calibrate` returns"):
            gpt2.encode_text(TEXTS, dtype="int8", calibration={"low": [0]}, **options)
        with pytest.raises(ValueError, match='is for dtype="int8"'):
            gpt2.encode_text(TEXTS, dtype="float16", calibration=known, **options)
    assert not [*tmp_path.iterdir()]


def cosines(first, second):
    return (first * second).sum(axis=1)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_layers(dtype):
    plain = toys.gpt2_embedder(2)
    narrow = toys.gpt2_embedder(2)
    narrow.backbone.set_weights(plain.backbone.get_weights())
    for layer in narrow.backbone._flatten_layers():
        layer.dtype_policy = keras.DTypePolicy(f"mixed_{dtype}")
    narrow = cptk.models.GPT2TextEmbedder(narrow.backbone, narrow.preprocessor)
    found, expected = (each.encode_text(TEXTS, verbose=0) for each in (narrow, plain))
    assert found.dtype == np.float32
    assert cosines(found, expected).min() > 0.995
    np.testing.assert_array_equal(found, narrow.encode_text(TEXTS, verbose=0))


@pytest.mark.slow_on_jax
def test_quantized_weights_are_seen_by_the_next_call_and_the_one_after_it():
    embedder = toys.gpt2_embedder(2)
    before = embedder.encode_text(TEXTS, verbose=0)
    embedder.quantize("int8")
    first = embedder.encode_text(TEXTS, verbose=0)
    second = embedder.encode_text(TEXTS, verbose=0)
    np.testing.assert_array_equal(first, second)
    assert cosines(first, before).min() > 0.98
    assert np.abs(first - before).max() > 1e-6
    # The same as what has never been compiled for anything else.
    fresh = cptk.models.GPT2TextEmbedder(embedder.backbone, embedder.preprocessor)
    np.testing.assert_allclose(fresh.encode_text(TEXTS, verbose=0), first, atol=1e-6)


# === Embedders of every kind ===


@pytest.mark.parametrize("name", ["Bert", "Qwen3"])
def test_keras_hubs_own_embedders(name):
    embedder = toys.keras_hub_embedder(name)
    texts = ["a b c is just it", "how is it spelt ?", "a"]
    expected = np.asarray(embedder.encode_text(texts))
    found = cptk.encode(embedder, texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="no role 'query'"):
        cptk.encode(embedder, texts, role="query")


def test_evaluation_takes_the_fast_path_of_keras_hubs_own(monkeypatch):
    embedder = toys.keras_hub_embedder("Bert")
    monkeypatch.setattr(embedder, "predict", lambda *_, **__: pytest.fail("the slow path"))
    found = cptk.evaluation.embed(embedder, ["a b c", "it"])
    np.testing.assert_array_equal(found, cptk.encode(embedder, ["a b c", "it"]))
    silent = encoders.quiet(embedder)  # as within `fit`, where tasks ask for roles
    asked = cptk.evaluation.embed(silent, ["a b c", "it"], role="query")
    np.testing.assert_array_equal(asked, found)


def test_a_trainer(gpt2):
    trainer = cptk.ContrastiveTrainer(gpt2)
    expected = gpt2.encode_text(TEXTS, role="query", verbose=0)
    np.testing.assert_array_equal(cptk.encode(trainer, TEXTS, role="query"), expected)
    halves = trainer.encode_text(TEXTS, role="query", dtype="float16", batch_tokens=64)
    np.testing.assert_allclose(halves, expected, atol=1e-3)


@pytest.mark.parametrize("embedder", [None, "smollm2", len, cptk.models.TextEmbedder])
def test_what_is_no_embedder(embedder):
    with pytest.raises(TypeError, match="`embedder` should be an embedder of cptk or KerasHub"):
        cptk.encode(embedder, ["x"])


def test_an_embedder_without_a_preprocessor():
    with pytest.raises(ValueError, match="has no preprocessor"):
        cptk.encode(cptk.models.TextEmbedder(toys.backbone("GPT2", 1)), ["x"])
