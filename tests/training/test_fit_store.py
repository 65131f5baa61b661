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
    made = cptk.ContrastiveTrainer(toys.embedder(), seed=3, **options)
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
