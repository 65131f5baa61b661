"""Gradient caching on torch: plain loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import keras
import torch

from cptk.distribution.torch_step import apply_gradients
from cptk.models.keras_hub_embedders import embed as embed_tokens
from cptk.training.gradient_cache.first_pass import first_pass
from cptk.training.gradient_cache.memory import host_memory
from cptk.training.gradient_cache.options import STEP, MicroBatches, seed_states, too_long
from cptk.training.gradient_cache.step import CachedTrainable
from cptk.training.text_columns import text_columns
from cptk.types import KerasBatch, Model, Tensor, TokenBatch


def train_step(trainer: CachedTrainable, data: KerasBatch) -> dict[str, Tensor]:
    """As `train_step` of Keras on torch: the logs."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    # `train_on_batch` of Keras leaves arrays as they are on torch.
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    texts = text_columns(x)
    cuts = {side: list(_cut(trainer.micro_batches, tokens)) for side, tokens in texts.items()}
    drawn_from = _random_state(trainer.embedder)
    vectors = {}
    with torch.no_grad():
        for side, cut in cuts.items():
            with first_pass(trainer.embedder, trainer.first_pass_dtype):
                vectors[side] = _embed(trainer.embedder, cut, training=True)
            bad = (~torch.isfinite(vectors[side]).all(1)).nonzero()
            if len(bad):
                ids = torch.where(texts[side]["padding_mask"].bool(), texts[side]["token_ids"], -1)
                trainer.not_finite.note(side, ids[bad[0, 0]].tolist())
                trainer.not_finite.raise_if_any(trainer)
    for own in vectors.values():
        own.requires_grad_()
    trainer.zero_grad()
    loss = trainer._compute_loss(x, y, vectors, sample_weight, training=True)
    trainer._loss_tracker.update_state(loss, sample_weight=len(vectors["query"]))
    trainer.optimizer.scale_loss(loss).backward()
    _set_random_state(drawn_from)
    for side, cut in cuts.items():
        upstream = vectors[side].grad
        if upstream is None or not trainer.embedder.trainable_weights:
            continue
        for rows, tokens in cut:
            embed_tokens(trainer.embedder, tokens, True).backward(upstream[rows])
    apply_gradients(trainer)
    return trainer.compute_metrics(x, y, vectors, sample_weight)


def attempt(trainer: CachedTrainable, tokens: TokenBatch) -> Callable[[], None]:
    """One micro-batch forward and back; what is returned does it again."""

    def run() -> None:
        state = _random_state(trainer.embedder)
        total = embed_tokens(trainer.embedder, tokens, True).sum()
        if total.requires_grad:
            total.backward()
        trainer.zero_grad()
        _set_random_state(state)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    run()
    return run


def embed(trainer: CachedTrainable, x: Mapping[str, TokenBatch]) -> dict[str, Tensor]:
    """Embeddings of each side, by micro-batch, as `call` gives them outside of training."""
    return {
        side: _embed(trainer.embedder, list(_cut(trainer.micro_batches, tokens)), training=False)
        for side, tokens in text_columns(x).items()
    }


def embed_by_length(embedder: Model, x: Mapping[str, TokenBatch], slices: int) -> dict[str, Tensor]:
    """Embeddings of each side in training: of all texts, by length, in so many slices."""
    # `train_on_batch` of Keras leaves arrays as they are on torch.
    texts = text_columns(keras.tree.map_structure(keras.ops.convert_to_tensor, x))
    longest = max(tokens["token_ids"].shape[1] for tokens in texts.values())

    def below_one_another(columns: Iterable[Tensor]) -> Tensor:
        pad = torch.nn.functional.pad
        return torch.cat([pad(column, (0, longest - column.shape[1])) for column in columns])

    ids = below_one_another(tokens["token_ids"] for tokens in texts.values())
    mask = below_one_another(tokens["padding_mask"] for tokens in texts.values())
    tokens = TokenBatch(token_ids=ids, padding_mask=mask)
    cut = list(_cut(MicroBatches(-(-len(ids) // slices)), tokens))
    vectors = _embed(embedder, cut, training=True)
    sizes = [len(tokens["token_ids"]) for tokens in texts.values()]
    return dict(zip(texts, torch.split(vectors, sizes), strict=True))


def _embed(embedder: Model, cut: list[tuple[Tensor, TokenBatch]], training: bool) -> Tensor:
    """Embeddings `(n, dim)` of a side, in its own order."""
    found = torch.cat([embed_tokens(embedder, tokens, training) for _, tokens in cut])
    order = torch.cat([rows for rows, _ in cut])
    return torch.empty_like(found).index_copy(0, order, found)


def free_memory() -> float:
    """Bytes that are free, on the GPU if there is one."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    return host_memory()


def _cut(micro_batches: MicroBatches, tokens: TokenBatch) -> Iterator[tuple[Tensor, TokenBatch]]:
    """Rows and tokens of each micro-batch, longest texts first."""
    ids, mask = tokens["token_ids"], tokens["padding_mask"].bool()
    texts, longest = ids.shape
    if micro_batches.tokens is not None and micro_batches.tokens < longest:
        raise ValueError(too_long(longest, micro_batches.tokens))
    places = torch.arange(1, longest + 1, device=ids.device)
    lengths = torch.where(mask, places, 0).amax(1)
    if micro_batches.rows(longest) >= texts:
        # All at once are left in their order: then dropout too is that of the plain step.
        yield torch.arange(texts, device=ids.device), {"token_ids": ids, "padding_mask": mask}
        return
    order = torch.argsort(-lengths, stable=True)
    start = 0
    while start < texts:
        length = min(-(-max(int(lengths[order[start]]), 1) // STEP) * STEP, longest)
        rows = order[start : start + max(micro_batches.rows(length), 1)]
        start += len(rows)
        yield rows, {"token_ids": ids[rows, :length], "padding_mask": mask[rows, :length]}


def _random_state(embedder: Model) -> list[tuple[Callable[[Tensor], None], Tensor]]:
    """What dropout is drawn from: torch's generators and, with a seed of its own, Keras's."""
    state = [(torch.set_rng_state, torch.get_rng_state())]
    if torch.cuda.is_available():
        state.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        state.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
    return state + [(seed.assign, seed.value.clone()) for seed in seed_states(embedder)]


def _set_random_state(state: list[tuple[Callable[[Tensor], None], Tensor]]) -> None:
    for setter, value in state:
        setter(value)
