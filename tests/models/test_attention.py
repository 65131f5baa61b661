"""`attention="bidirectional"` against transformers with a full mask, and against KerasHub's own."""

import functools
import json

import keras
import keras_hub
import numpy as np
import pytest
import st_folders
import toys

import cptk
from cptk.fingerprint import fingerprint
from cptk.models import GPT2TextEmbedder, TextEmbedder
from cptk.models.preset_hugging_face import check_bidirectional

ROWS = [[5, 9, 11, 2, 7, 30, 8], [4, 60, 21], [33, 6], [12, 13, 14, 15, 40]]
BOTH_WAYS = {"attention": "bidirectional"}


def padded(rows=ROWS, left=False):
    """Token ids and mask of the rows; the padding holds ids of tokens."""
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), 3, "int32"), np.zeros((len(rows), width), bool)
    for row, own in enumerate(rows):
        place = slice(width - len(own), width) if left else slice(len(own))
        ids[row, place], mask[row, place] = own, True
    return {"token_ids": ids, "padding_mask": mask}


def vectors(model, tokens):
    return keras.ops.convert_to_numpy(model(tokens, training=False))


def states(embedder, rows=ROWS, left=False):
    """The states at the tokens of each row, before the pooling, by the embedder's own graph."""
    before_pooling = keras.Model(embedder.inputs, embedder.get_layer("pooling").input[0])
    found = vectors(before_pooling, padded(rows, left))
    return [own[: len(row)] for own, row in zip(found, rows, strict=True)]


def by_hand(backbone, row):
    """The states of one text, layer by layer, by the argument that GPT-2's layers alone have."""
    x = backbone.token_embedding(np.array([row]))
    x = x + backbone.position_embedding(x)
    for layer in backbone.transformer_layers:
        x = layer(x, use_causal_mask=False)
    return keras.ops.convert_to_numpy(backbone.layer_norm(x))[0]


@pytest.mark.slow_on_jax
def test_gpt2_equals_its_layers_without_a_causal_mask():
    backbone = toys.backbone("GPT2", 2)
    expected = [by_hand(backbone, row) for row in ROWS]
    causal = TextEmbedder(backbone, pooling="cls")
    before = vectors(causal, padded())
    embedder = TextEmbedder(backbone, pooling="mean", **BOTH_WAYS)
    for found, want in zip(states(embedder), expected, strict=True):
        np.testing.assert_allclose(found, want, atol=1e-5)
    means = np.array([want.mean(0) / np.linalg.norm(want.mean(0)) for want in expected])
    np.testing.assert_allclose(vectors(embedder, padded()), means, atol=1e-5)
    np.testing.assert_allclose(embedder.predict_on_batch(padded(left=True)), means, atol=1e-5)
    # The backbone is shared, and the causal embedder computes what it did.
    np.testing.assert_array_equal(vectors(causal, padded()), before)
    first = np.array([want[0] / np.linalg.norm(want[0]) for want in expected])
    assert np.abs(before - first).max(axis=1).min() > 1e-2


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("name", ["Llama", "Llama3", "Qwen3"])
def test_the_first_token_sees_the_last_and_no_padding(name):
    backbone = toys.backbone(name, 1)
    other = [[*row[:-1], 50] for row in ROWS]
    for attention in ("causal", "bidirectional"):
        embedder = TextEmbedder(backbone, attention=attention)
        one, two = states(embedder), states(embedder, other)
        moved = {np.abs(a[0] - b[0]).max() > 1e-3 for a, b in zip(one, two, strict=True)}
        assert moved == {attention == "bidirectional"}
        alone = [states(embedder, [row])[0] for row in ROWS]
        for found, want in zip(one, alone, strict=True):
            np.testing.assert_allclose(found, want, atol=1e-5)
    # In the first layer, the last token of a text sees as much either way.
    ends = [vectors(TextEmbedder(backbone, attention=a), padded()) for a in ("causal", attention)]
    np.testing.assert_allclose(*ends, atol=1e-6)


def config_of(family, transformers):
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "head_dim": 8}
    sizes |= {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    if family == "gpt2":
        sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}
        return transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    return getattr(transformers, f"{family.title()}Config")(**sizes)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
def test_states_are_those_of_transformers_with_a_full_mask(family, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", reason="pip install cptk[compare]")
    torch.manual_seed(0)
    body = transformers.AutoModel.from_config(config_of(family, transformers)).eval()
    with torch.no_grad():
        for weight in body.parameters():
            weight.add_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.2))
    body.save_pretrained(tmp_path / "body")
    (tmp_path / "body" / "tokenizer.json").write_text(json.dumps(st_folders.tokenizer_json()))

    tokens = padded()
    ids, mask = (torch.tensor(each) for each in tokens.values())
    full = torch.zeros(len(ROWS), 1, *[ids.shape[1]] * 2)
    full = full.masked_fill(~mask[:, None, None, :], torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = body(input_ids=ids.long(), attention_mask=full).last_hidden_state.numpy()
        causal = body(input_ids=ids.long(), attention_mask=mask.long()).last_hidden_state.numpy()
    expected, causal = (
        [x[: len(r)] for x, r in zip(e, ROWS, strict=True)] for e in (expected, causal)
    )

    load = functools.partial(
        TextEmbedder.from_preset, tmp_path / "body", roles={"text": ("", "")}, pooling="mean"
    )
    embedder = load(**BOTH_WAYS)
    for left in (False, True):
        for found, want in zip(states(embedder, left=left), expected, strict=True):
            np.testing.assert_allclose(found, want, atol=1e-5)
    want = np.array([row.astype("float64").mean(0) for row in expected])
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.predict_on_batch(tokens), want, atol=1e-5)

    # The same backbone, and the same folder, without being asked for it.
    for other in (TextEmbedder(embedder.backbone, pooling="mean"), load()):
        for found, want in zip(states(other), causal, strict=True):
            np.testing.assert_allclose(found, want, atol=1e-5)
    # transformers' own way to say it, in config.json.
    st_folders.edit(tmp_path / "body" / "config.json", is_causal=False)
    embedder = load()
    assert embedder.attention == "bidirectional"
    embedder.save_to_preset(tmp_path / "saved")
    for found, want in zip(
        states(TextEmbedder.from_preset(tmp_path / "saved")), expected, strict=True
    ):
        np.testing.assert_allclose(found, want, atol=1e-5)


def test_it_is_saved_and_can_be_changed(tmp_path):
    embedder = toys.gpt2_embedder(2, pooling="mean", **BOTH_WAYS)
    expected = vectors(embedder, padded())
    embedder.save_to_preset(tmp_path / "saved")
    loaded = GPT2TextEmbedder.from_preset(tmp_path / "saved")
    assert loaded.attention == "bidirectional"
    np.testing.assert_allclose(vectors(loaded, padded()), expected, atol=1e-6)
    short = TextEmbedder.from_preset(tmp_path / "saved", num_layers=1, sequence_length=8)
    assert (short.attention, short.pooling) == ("bidirectional", "mean")
    causal = TextEmbedder.from_preset(tmp_path / "saved", attention="causal")
    assert np.abs(vectors(causal, padded()) - expected).max() > 1e-2
    assert causal.attention == "causal"
    assert "attention" not in causal.get_config()  # as an older cptk reads it
    assert fingerprint(causal) != fingerprint(embedder) == fingerprint(loaded)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 5e-2)])
@pytest.mark.parametrize("name", ["GPT2", "Llama3"])
def test_micro_batches_and_lora_train_as_the_plain_step(name, dtype, tolerance):
    texts = [f"{letter} how is it spelt?"[: 3 + 2 * k] for k, letter in enumerate("abcdefgh")]
    pairs = {"query": texts, "document": [text.upper() for text in texts[::-1]]}
    trained = {}
    for attention, micro in (("bidirectional", None), ("bidirectional", 3), ("causal", None)):
        keras.utils.set_random_seed(0)
        dropout = {"dropout": 0.0} if name == "GPT2" else {}
        reader = toys.preprocessor("gpt2" if name == "GPT2" else "llama3")
        backbone = toys.backbone(name, 2, dtype=dtype, **dropout)
        embedder = TextEmbedder(backbone, reader, "mean", attention=attention)
        cptk.training.enable_lora(embedder, 2)
        trainer = cptk.ContrastiveTrainer(embedder, micro_batch_size=micro, seed=0)
        trainer.compile(keras.optimizers.SGD(0.1))
        trainer.fit(pairs, batch_size=8, epochs=2, verbose=0)
        trained[attention, micro] = embedder.encode_text(texts, "query", verbose=0)
        assert np.isfinite(trained[attention, micro]).all()
    plain, pieces, causal = trained.values()
    np.testing.assert_allclose(pieces, plain, atol=tolerance)
    assert np.abs(causal - plain).max() > 1e-1


# === What is refused ===


@pytest.mark.parametrize("attention", ["full", "Causal", 1, ["causal"]])
def test_unknown_attention(attention):
    with pytest.raises(ValueError, match=r"`attention` should be one of \['bidirectional', 'cau"):
        TextEmbedder(toys.backbone("GPT2", 1), attention=attention)


@pytest.mark.parametrize("name", ["OPT", "Gemma3"])
def test_backbones_that_cannot_have_it(name):
    backbone = toys.backbone(name, 1)
    known = "GPT2Backbone, LlamaBackbone, QwenBackbone, Qwen3Backbone"
    with pytest.raises(ValueError, match=rf"works on {known}.*Received: a {name}Backbone"):
        TextEmbedder(backbone, **BOTH_WAYS)
    with pytest.raises(ValueError, match=r"config.json has is_causal = False"):
        check_bidirectional(backbone)


def test_encoders_and_gemmas_that_are_bidirectional_anyway():
    bert = toys.keras_hub_embedder("Bert").backbone
    embedder = TextEmbedder(bert, pooling="mean", **BOTH_WAYS)
    assert embedder.attention == TextEmbedder(bert, pooling="mean").attention == "bidirectional"
    assert "attention" not in embedder.get_config()
    with pytest.raises(ValueError, match=r"'causal'` is for decoders: every token of BertBackbone"):
        TextEmbedder(bert, pooling="mean", attention="causal")
    gemma = toys.backbone("Gemma3", 1, use_bidirectional_attention=True)
    assert TextEmbedder(gemma).attention == "bidirectional"


def test_what_a_hugging_face_config_says(hugging_face_copy):
    folder = hugging_face_copy("smollm")
    st_folders.edit(folder / "config.json", is_causal=False)
    assert TextEmbedder.from_preset(folder, load_weights=False).attention == "bidirectional"
    given = TextEmbedder.from_preset(folder, load_weights=False, attention="causal")
    assert given.attention == "causal"
    st_folders.edit(folder / "config.json", use_bidirectional_attention=True)
    with pytest.raises(ValueError, match="use_bidirectional_attention = True"):
        TextEmbedder.from_preset(folder)


def test_a_language_model_goes_on_generating():
    """The layers' cache comes without a padding mask."""
    backbone = toys.backbone("GPT2", 1)
    reader = keras_hub.models.GPT2CausalLMPreprocessor(toys.tokenizer(), sequence_length=8)
    model = keras_hub.models.GPT2CausalLM(backbone, reader)
    before = vectors(model, padded())
    TextEmbedder(backbone, **BOTH_WAYS)
    np.testing.assert_array_equal(vectors(model, padded()), before)
    cache = keras.ops.zeros((1, 1, 2, 4, 2, toys.HIDDEN_DIM // 2))
    logits, _, _ = model.call_with_cache(np.array([[5, 9, 11, 2]]), cache, 0)
    whole = vectors(model, padded([ROWS[0][:4]]))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(logits), whole, atol=1e-5)
