"""`fit` on a token store: the steps of the same pairs as text."""

import keras
import numpy as np
import pytest

import cptk
from cptk.data import Pairs, TokenStore
from tests import toys

SIZE = 8


@pytest.fixture(scope="module")
def pairs():
    texts = [f"{number} {'the ' * (number % 5)}thing" for number in range(40)]
    return Pairs({
        "query": texts,
        "document": texts[1:] + texts[:1],
        "negatives": [[texts[number - 3]] * (number % 3) for number in range(40)],
    })  # fmt: skip


@pytest.fixture(scope="module")
def store(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "store"
    options = {"rows_per_shard": 16, "verbose": 0}
    return TokenStore.write(folder, pairs, toys.preprocessor(), **options)


def trainer(**options):
    keras.utils.set_random_seed(0)
    embedder = toys.embedder()
    for layer in embedder._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # its masks depend on the shapes of batches
    made = cptk.ContrastiveTrainer(embedder, seed=3, **options)
    made.compile(keras.optimizers.SGD(0.1))
    return made


def weights(model):
    return np.concatenate([np.ravel(w) for w in model.embedder.get_weights()])


def test_its_steps_are_those_of_the_same_pairs_as_text(pairs, store):
    stored, by_hand = trainer(), trainer()
    stored.fit(store, batch_size=SIZE, epochs=2, verbose=0)
    order = cptk.data.store_batches.StoreBatches(store, SIZE, seed=3)
    for place in range(2 * len(order)):
        rows = order.rows_at(place).tolist()
        batch = {name: [pairs[name][row] for row in rows] for name in pairs.columns}
        by_hand.train_on_batch(batch)
    np.testing.assert_allclose(weights(stored), weights(by_hand), atol=1e-6)


def test_two_fits_are_one(store):
    once, twice = trainer(), trainer()
    once.fit(store, batch_size=SIZE, epochs=2, verbose=0)
    for _ in range(2):
        twice.fit(store, batch_size=SIZE, epochs=1, verbose=0)
    np.testing.assert_allclose(weights(once), weights(twice), atol=1e-6)


def test_it_is_evaluated_in_its_order_with_all_that_fit_knows(pairs, store):
    model = trainer(micro_batch_size=4)
    history = model.fit(store, batch_size=SIZE, validation_data=store, verbose=0).history
    found = model.evaluate(store, batch_size=SIZE, verbose=0, return_dict=True)
    expected = model.evaluate(pairs, batch_size=SIZE, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert history["val_loss"][0] == pytest.approx(
        model.evaluate(pairs, verbose=0, return_dict=True)["loss"], abs=1e-5
    )


def test_what_does_not_go_with_a_store(store):
    model = trainer()
    with pytest.raises(ValueError, match="column `weight`"):
        model.fit(store, sample_weight=np.ones(40), verbose=0)
    keras.utils.set_random_seed(0)
    other = cptk.ContrastiveTrainer(toys.embedder("Llama3"))
    other.compile("sgd")
    with pytest.raises(ValueError, match="written for another embedder"):
        other.fit(store, verbose=0)
    scored = trainer()
    scored.compile("sgd", loss=cptk.losses.CoSENT())
    with pytest.raises(ValueError, match=r"columns \['score'\]"):
        scored.fit(store, verbose=0)


def rows_of(tokens):
    """The texts of a batch, by which its pairs are told."""
    rows = zip(tokens["token_ids"], tokens["padding_mask"], strict=True)
    return sorted(tuple(ids[mask].tolist()) for ids, mask in rows)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two sources as text, and each as a store: one with negatives, one with weights."""
    folder = tmp_path_factory.mktemp("sources")
    words = [f"{number} {'the ' * (number % 4)}word" for number in range(24)]
    first = {"query": words[:16], "document": words[1:17]}
    first["negatives"] = [[words[number - 5]] * (number % 3) for number in range(16)]
    second = {"query": words[10:20], "document": words[12:22], "weight": [1.0, 2.0] * 5}
    pairs = {"first": Pairs(first), "second": Pairs(second)}
    options = {"rows_per_shard": 6, "verbose": 0}
    write = TokenStore.write
    stores = {k: write(folder / k, x, toys.preprocessor(), **options) for k, x in pairs.items()}
    return pairs, stores


@pytest.mark.slow
def test_stores_mix_as_their_pairs_do(sources):
    pairs, stores = sources
    half = {"first": stores["first"], "second": pairs["second"]}
    found = []
    for data in (pairs, stores, half):
        model = trainer()
        options = {"batch_size": 6, "shuffle": False, "epochs": 2, "verbose": 0}
        model.fit(data, **options)
        found.append(weights(model))
        found[-1] = np.append(found[-1], model.evaluate(data, batch_size=6, verbose=0))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)


def test_a_pass_of_mixed_stores_is_each_of_them_once(sources):
    _, stores = sources
    model = trainer()
    reader = model._reader()
    data = reader.batches(
        cptk.data.Mixture(stores), None, 6, shuffle=True, seed=3, replicas=1, least=2
    )
    seen = [rows_of(x["query"]) for x, _, _ in (data.batch_at(i) for i in range(len(data)))]
    assert len({len(batch) for batch in seen}) > 1  # the last of a source is smaller
    expected = []
    for store in stores.values():
        expected += rows_of(store.tokens("query", np.arange(len(store))))
    assert sorted(row for batch in seen for row in batch) == sorted(expected)


@pytest.fixture(scope="module")
def one_store(sources, tmp_path_factory):
    """The pairs of both sources in turn, in one store, with a column that says of which each is."""
    pairs, _ = sources
    names = ["first" if number % 3 else "second" for number in range(24)]
    rows = {name: iter(range(24)) for name in pairs}
    places = [(name, next(rows[name])) for name in names]
    columns = {side: [pairs[n][side][i] for n, i in places] for side in ("query", "document")}
    columns["negatives"] = [pairs[n]["negatives"][i] if n == "first" else [] for n, i in places]
    folder = tmp_path_factory.mktemp("one") / "store"
    data = Pairs({**columns, "source": names})
    return data, TokenStore.write(folder, data, toys.preprocessor(), rows_per_shard=7, verbose=0)


def test_one_store_mixes_by_its_column_of_sources(sources, one_store):
    pairs, store = one_store
    mixture = cptk.data.Mixture(store)
    assert list(mixture) == list(cptk.data.Mixture(pairs)) == ["second", "first"]
    assert [len(mixture[name]) for name in mixture] == [8, 16]
    results = []
    for data in (cptk.data.Mixture(pairs), mixture):
        model = trainer()
        results.append(model.evaluate(data, batch_size=6, verbose=0, return_dict=True)["loss"])
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    batches = trainer()._reader().batches(mixture, None, 6, True, 3, 1, least=2)
    seen = []
    for x in (batches.batch_at(place) for place in range(len(batches))):
        texts = rows_of(x["query"])
        assert len(set(texts)) == len(texts)
        seen.append(texts)
    whole = rows_of(store.tokens("query", np.arange(24)))
    assert sorted(text for texts in seen for text in texts) == whole
    views = [rows_of(mixture[n].tokens("query", np.arange(len(mixture[n])))) for n in mixture]
    assert all(any(set(texts) <= set(view) for view in views) for texts in seen)
    digests = {mixture[name].digest for name in mixture} | {store.digest}
    assert len(digests) == 3


def test_one_store_with_an_objective_for_each_source(one_store):
    pairs, store = one_store
    losses = []
    for data in (pairs, store):
        model = trainer()
        loss = {"first": cptk.losses.InfoNCE(), "second": cptk.losses.InfoNCE(symmetric=False)}
        model.compile("sgd", loss=loss)
        losses.append(model.evaluate(data, batch_size=6, verbose=0, return_dict=True)["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_store_that_does_not_say_of_which_source_each_pair_is(tmp_path):
    pairs = Pairs({"query": ["a", "b"], "document": ["c", "d"], "source": ["x", None]})
    store = TokenStore.write(tmp_path / "s", pairs, toys.preprocessor(), verbose=0)
    with pytest.raises(ValueError, match=r"That of pair 1 of TokenStore.* is missing"):
        cptk.data.Mixture(store)


@pytest.mark.slow
def test_a_killed_run_on_mixed_stores_goes_on(sources, tmp_path):
    x = cptk.data.Mixture(sources[1], alpha=0.5)
    options = {"batch_size": 4, "steps_per_epoch": 3, "verbose": 0}
    whole = trainer()
    whole.fit(x, epochs=4, **options)
    backup = cptk.training.ExactBackupAndRestore
    trainer().fit(x, epochs=2, callbacks=[backup(tmp_path, delete_checkpoint=False)], **options)
    again = trainer()
    again.fit(x, epochs=4, callbacks=[backup(tmp_path)], **options)
    np.testing.assert_allclose(weights(again), weights(whole), atol=1e-6)


def test_each_stored_source_may_have_its_objective(sources):
    loss = {"first": cptk.losses.InfoNCE(), "second": cptk.losses.InfoNCE(symmetric=False)}
    values = []
    for data in sources:
        model = trainer()
        model.compile("sgd", loss=loss)
        values.append(model.evaluate(data, batch_size=6, verbose=0, return_dict=True)["loss"])
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_another_embedders_store_among_the_sources_is_named(sources):
    keras.utils.set_random_seed(0)
    other = cptk.ContrastiveTrainer(toys.embedder("Llama3"))
    other.compile("sgd")
    with pytest.raises(ValueError, match=r"Source 'first'.*written for another embedder"):
        other.fit(sources[1], verbose=0)
    with pytest.raises(ValueError, match="needs its column 'source'"):
        cptk.data.Mixture(sources[1]["first"])
