"""Batches of a store, for `fit` and for other loops: whole, in parts, by `tf.data` and by Grain."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

import cptk
from cptk.data import PairDataset
from cptk.data.batching import share_rows
from cptk.data.columns import SIDES
from cptk.data.store_batches import StoreBatches
from tests import toys
from tests.data.test_token_store import pairs_of, write

COLUMNS = ("score", "group", "negatives")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """61 pairs of 40 texts, with negatives of up to 3, scores, groups and weights."""
    pairs = pairs_of(
        61,
        40,
        score=lambda n: [i / n for i in range(n)],
        group=lambda n: [f"g{i % 3}" for i in range(n)],
        weight=lambda n: [1.0 + i for i in range(n)],
        negatives=lambda n: [["no", "never"][: i % 3] for i in range(n)],
    )
    return write(tmp_path_factory.mktemp("batches") / "s", pairs, toys.preprocessor())


def assert_equal(one: Any, other: Any) -> None:
    keras.tree.assert_same_structure(one, other)
    for mine, theirs in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert getattr(mine, "dtype", None) == getattr(theirs, "dtype", None)


def joined(parts: Any) -> Any:
    return keras.tree.map_structure(
        lambda *arrays: None if arrays[0] is None else np.concatenate(arrays), *parts
    )


# === Workers ===


@pytest.mark.parametrize("count", [1, 2, 3])
def test_workers_read_their_parts_of_the_same_batches(store, count):
    whole = store.batches(8, seed=3, columns=COLUMNS)
    workers = [store.batches(8, seed=3, columns=COLUMNS, part=(k, count)) for k in range(count)]
    seen = []
    for epoch in range(2):
        for data in (whole, *workers):
            data.epoch = epoch
        for step in range(len(whole)):
            parts = [data[step] for data in workers]
            assert_equal(joined(parts), whole[step])
            sizes = [len(part[2]) for part in parts]
            assert max(sizes) - min(sizes) <= 1
            seen += [weight for part in parts for weight in part[2].tolist()]
    assert sorted(seen[:61]) == sorted(seen[61:]) == [1.0 + i for i in range(61)]


def test_a_worker_may_have_nothing_of_a_small_batch(tmp_path):
    teacher, score = (lambda n: [[i / n, 0.5] for i in range(n)]), (lambda n: [0.5] * n)
    store = write(tmp_path / "s", pairs_of(5, teacher=teacher, score=score), toys.preprocessor())
    whole = store.batches(3, columns=("teacher", "score"))
    workers = [store.batches(3, columns=("teacher", "score"), part=(k, 3)) for k in range(3)]
    assert [len(data[1]["score"]) for data in workers] == [1, 1, 0]
    assert_equal(joined([data[1] for data in workers]), whole[1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_replicas_of_fit_share_an_epoch_out_exactly_once(store, count):
    """As `fit` cuts batches under a strategy: with rows that hold no token to fill up."""
    data = store.batches(8, seed=3)
    seen = []
    for step in range(len(data)):
        parts = [share_rows(data[step], count, k, 1) for k in range(count)]
        assert len({len(x["query"]["token_ids"]) for x, _, _ in parts}) == 1
        for x, _, weight in parts:
            seen += weight[x["query"]["padding_mask"].any(1)].tolist()
    assert sorted(seen) == [1.0 + i for i in range(61)]


@pytest.mark.slow
def test_a_batch_of_12288_has_no_text_twice_in_a_store_full_of_them(tmp_path):
    rng = np.random.default_rng(0)
    # Half of the pairs have texts that stand in two others each.
    twice = np.repeat(np.arange(12_000), 2)
    once = np.arange(12_000, 38_000)
    texts = {side: np.append(rng.permutation(twice), once) for side in SIDES}
    order = rng.permutation(50_000)
    texts = {side: numbers[order] for side, numbers in texts.items()}
    pairs = {side: [f"text {number}" for number in texts[side]] for side in SIDES}
    store = write(tmp_path / "s", pairs, toys.preprocessor(), rows_per_shard=4096)
    assert len(store.repeated()[0]) == 24_000
    data = store.batches(12_288, seed=0)
    passed = [data.rows_at(place) for place in range(data.batches_per_pass)]
    assert [*map(len, passed)] == [12_288] * 4 + [50_000 - 4 * 12_288]
    for rows in passed:
        for side in SIDES:
            assert len(np.unique(texts[side][rows])) == len(rows)
    assert sorted(np.concatenate(passed).tolist()) == list(range(50_000))


def test_negatives_are_as_many_in_every_batch(store):
    data = store.batches(2, shuffle=False, columns=("negatives",))
    assert {data[step][0]["negatives"]["token_ids"].shape[:2] for step in range(29)} == {(2, 2)}


# === Other loaders ===


def test_a_tf_dataset_is_the_same_batches(store):
    pytest.importorskip("tensorflow")
    data = store.batches(8, seed=3, columns=COLUMNS, steps_per_epoch=20)  # more than two passes
    found = cptk.data.tf_dataset(data)
    assert len(found) == 20
    for step, batch in enumerate(found.as_numpy_iterator()):
        assert_equal(batch, data[step])
    again = next(iter(found.skip(15).as_numpy_iterator()))  # resumed
    assert_equal(again, data[15])


def test_a_tf_dataset_of_pairs_in_memory():
    pytest.importorskip("tensorflow")
    tokens = {"token_ids": np.arange(21).reshape(7, 3), "padding_mask": np.ones((7, 3), bool)}
    data = PairDataset({"query": tokens, "document": tokens}, batch_size=3, seed=1)
    for step, batch in enumerate(cptk.data.tf_dataset(data).as_numpy_iterator()):
        assert_equal(batch, data[step])
    with pytest.raises(TypeError, match="`batches` should be a PairDataset"):
        cptk.data.tf_dataset([1])


def test_batches_go_to_another_process_as_a_path(store):
    data = store.batches(8, seed=3, columns=COLUMNS)
    sent = pickle.dumps(data)
    assert len(sent) < 20_000  # no ids, which a store holds by the gigabyte
    assert_equal(pickle.loads(sent)[4], data[4])  # noqa: S301


def test_grain_takes_batches_as_they_are(store):
    grain = pytest.importorskip("grain")
    data = store.batches(8, seed=3, columns=COLUMNS, steps_per_epoch=20)
    source = grain.MapDataset.source(data)
    assert len(source) == 20
    assert_equal(source[13], data[13])
    iterator = iter(source.to_iter_dataset())
    for step in range(6):
        assert_equal(next(iterator), data[step])
    state = iterator.get_state()
    again = iter(source.to_iter_dataset())
    again.set_state(state)
    assert_equal(next(again), data[6])


GRAIN_WORKERS = """
import sys
import grain, numpy as np
from absl import flags
from cptk.data import TokenStore

if __name__ == "__main__":
    flags.FLAGS(sys.argv[:1])  # Grain's workers read flags, which absl.app.run parses elsewhere
    data = TokenStore(sys.argv[1]).batches(8, seed=3, steps_per_epoch=12)
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=2)
    found = list(grain.MapDataset.source(data).to_iter_dataset().mp_prefetch(options))
    assert len(found) == 12
    for step, batch in enumerate(found):
        mine, other = (x[0]["query"]["token_ids"] for x in (batch, data[step]))
        np.testing.assert_array_equal(mine, other)
    print("the same")
"""


@pytest.mark.slow
@pytest.mark.once
def test_grains_worker_processes_give_the_same_batches(store, tmp_path):
    pytest.importorskip("grain")
    (tmp_path / "main.py").write_text(GRAIN_WORKERS)
    command = [sys.executable, str(tmp_path / "main.py"), str(store.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "the same"


# === Into fit ===


class Recorder(cptk.ContrastiveTrainer):
    """Writes down the queries that `fit` brings, and trains on none."""

    def train_step(self, *args: Any) -> Any:
        x = args[-1][0] if isinstance(args[-1], tuple) else args[-1]
        ids, mask = (np.array(x["query"][name]) for name in ("token_ids", "padding_mask"))
        self.seen.append(
            [row[real.astype(bool)].tolist() for row, real in zip(ids, mask, strict=True)]
        )
        logs = {"loss": keras.ops.convert_to_tensor(0.0)}
        return (logs, args[0]) if keras.config.backend() == "jax" else logs


def test_fit_goes_through_batches_by_their_own_seed(store):
    model = Recorder(toys.embedder(), seed=99)
    model.compile("sgd", run_eagerly=True)
    for seed in (3, 4):
        model.seen = []
        data = store.batches(8, seed=seed, columns=("negatives",))
        model.fit(data, epochs=2, verbose=0)
        model.fit(data, epochs=1, verbose=0)  # goes on
        expected = []
        for place in range(3 * len(data)):
            tokens = store.tokens("query", data.rows_at(place))
            pairs = zip(tokens["token_ids"], tokens["padding_mask"], strict=True)
            expected.append([row[real].tolist() for row, real in pairs])
        assert model.seen == expected


def test_what_batches_do_not_go_with(store):
    model = cptk.ContrastiveTrainer(toys.embedder())
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"\['negatives'\].*columns=\('negatives',\)"):
        model.fit(store.batches(8), verbose=0)
    parts = store.batches(8, columns=("negatives",), part=(0, 2))
    with pytest.raises(ValueError, match=r"without `part`.*part=\(0, 2\)"):
        model.fit(parts, verbose=0)
    whole = functools.partial(model.fit, store.batches(8, columns=("negatives",)), verbose=0)
    with pytest.raises(ValueError, match="`steps_per_epoch` to the StoreBatches"):
        whole(steps_per_epoch=2)
    with pytest.raises(ValueError, match="StoreBatches has its own: leave `batch_size` out"):
        whole(batch_size=2)
    with pytest.raises(ValueError, match=r"`part` should be \(k, n\)"):
        store.batches(8, part=(3, 3))
    with pytest.raises(ValueError, match="should be 3 or more for 3 parts"):
        store.batches(2, part=(0, 3))
    other = cptk.ContrastiveTrainer(toys.embedder("Llama3"))
    other.compile("sgd")
    with pytest.raises(ValueError, match="written for another embedder"):
        other.fit(store.batches(8, columns=("negatives",)), verbose=0)
    assert isinstance(store.batches(8), StoreBatches)
