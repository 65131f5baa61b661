"""The rotation onto principal axes: no cosine changes, and the first numbers hold most."""

import keras_hub
import numpy as np
import pytest

import cptk
from cptk.models import rotate_to_principal_axes
from tests import toys

TEXTS = [f"{word} the {n} thing{'s' * (n % 3)}" for word in "abcdé" for n in range(9)]
LAYERS = [None, {"units": 12, "activation": "tanh"}]


@pytest.mark.parametrize("projection", LAYERS, ids=["none", "tanh"])
def test_cosines_stay_and_the_first_numbers_are_the_best_subspace(projection):
    embedder = toys.embedder("GPT2", pooling="mean", projection=projection)
    before = embedder.encode_text(TEXTS, verbose=0).astype("float64")
    turned = rotate_to_principal_axes(embedder, before)
    after = turned.encode_text(TEXTS, verbose=0).astype("float64")
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    # Eckart and Young: the first d columns leave out the smallest eigenvalues of the moments.
    moments = np.linalg.eigvalsh(before.T @ before)[::-1]
    np.testing.assert_allclose((after**2).sum(0), moments, atol=1e-4)
    np.testing.assert_allclose(embedder.encode_text(TEXTS, verbose=0), before, atol=1e-6)


def test_it_is_in_the_preset_and_no_size_counts_as_trained(tmp_path):
    embedder = toys.embedder("GPT2", pooling="mean", trained_dims=[8])
    turned = rotate_to_principal_axes(embedder, embedder.encode_text(TEXTS, verbose=0))
    assert turned.trained_dims == ()
    turned.save_to_preset(str(tmp_path))
    loaded = keras_hub.models.TextEmbedder.from_preset(str(tmp_path))
    np.testing.assert_allclose(
        loaded.encode_text(TEXTS, verbose=0, truncate_dim=4),
        turned.encode_text(TEXTS, verbose=0, truncate_dim=4),
        atol=1e-6,
    )


def test_it_is_trained_with_the_rest():
    embedder = toys.embedder("GPT2", pooling="mean")
    turned = rotate_to_principal_axes(embedder, embedder.encode_text(TEXTS, verbose=0))
    trainer = cptk.ContrastiveTrainer(turned, seed=0)
    loss = cptk.losses.Matryoshka(cptk.losses.InfoNCE(), dims=[16, 4])
    trainer.compile("adam", loss=loss)
    kernel = turned.get_layer("projection_0").kernel
    before = np.asarray(kernel)
    trainer.fit({"query": TEXTS[:16], "document": TEXTS[16:32]}, batch_size=8, verbose=0)
    assert not np.array_equal(np.asarray(kernel), before)
    assert turned.trained_dims == (16, 4)


def test_what_cannot_be_turned():
    embedder = toys.embedder("GPT2", pooling="mean")
    vectors = embedder.encode_text(TEXTS, verbose=0)
    with pytest.raises(TypeError, match=r"`cptk.models.TextEmbedder`, which has projections"):
        rotate_to_principal_axes(toys.keras_hub_embedder(), vectors)
    for wrong in (vectors[:15], vectors[:, :8], vectors[0], vectors.astype(int), TEXTS, []):
        with pytest.raises(ValueError, match=r"of the shape \(n, 16\), floats, with n of 16"):
            rotate_to_principal_axes(embedder, wrong)
    with pytest.raises(ValueError, match="should be finite"):
        rotate_to_principal_axes(embedder, np.where(vectors > 0.1, np.nan, vectors))
