"""Which texts an anchor is compared with, and which of these are no negatives of it."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from cptk.losses.masks import equal_ids
from cptk.losses.objective import Batch
from cptk.ops import dimension
from cptk.types import Tensor


class NegativeRules(NamedTuple):
    """Which texts of a batch are negatives, beside the other pairs'."""

    mask_equal_texts: bool = False
    """Whether a text that repeats the positive, or whose anchor repeats the anchor, is none."""
    mask_groups: bool = False
    """Whether pairs of one number in the column "group" are none to each other."""
    hard_negatives: str | None = "all"
    """Whose the texts of the column "negatives" are: "all" queries', their "own", or nobody's."""
    same_side: bool = False
    """Whether the other anchors are negatives too."""
    margin: float | None = None
    """How far the cosine of a negative may be above the positive's; beyond, it is none."""
    guide: bool = False
    """Whether these cosines are those of the column "guide", and not of the embeddings."""


OTHER_PAIRS = NegativeRules(hard_negatives=None)


class Candidates(NamedTuple):
    """The m' texts among which n local anchors look for theirs; the positives come first."""

    extra: Tensor | None
    """`(m' - m, dim)`, what comes after the m texts of the pairs; None if nothing does."""
    keep: Tensor | None
    """`(m',)` booleans, False where there is no text; None if there is one everywhere."""
    ids: list[tuple[Tensor, Tensor]]
    """Integers `(n,)` and `(m',)`: where they are equal, the text is no negative of the anchor."""
    texts: Tensor | None
    """`(m',)` integers, equal where the texts are, for ties; None if not known."""

    def after(self, vectors: Tensor) -> Tensor:
        """`(m', dim)`: the `(m, dim)` vectors of the pairs' own texts, and then the extra ones."""
        return vectors if self.extra is None else ops.concatenate([vectors, self.extra], axis=0)

    def left_out(self) -> Tensor | None:
        """`(n, m')` booleans, True where a text is no negative; None if nowhere."""
        mask = None
        for rows, columns in self.ids:
            equal = equal_ids(rows, columns)
            mask = equal if mask is None else ops.logical_or(mask, equal)
        if self.keep is not None:
            absent = ops.expand_dims(ops.logical_not(self.keep), 0)
            mask = absent if mask is None else ops.logical_or(mask, absent)
        return mask


def candidates_of(batch: Batch, anchors: str, side: str, rules: NegativeRules) -> Candidates:
    """The texts of `side` as candidates of the anchors, and all that the rules add."""
    m = dimension(batch.gathered[side], 0)
    known = dict(batch.text_ids) if rules.mask_equal_texts else {}
    if rules.mask_groups:
        known["group"] = ops.cast(batch.gathered["group"], "int32")
    keep = ops.ones((m,), "bool") if batch.is_pair is None else batch.is_pair
    known.pop("negatives", None)
    columns = {name: [ids] for name, ids in known.items()}
    extra, kept, texts = [], [keep], [batch.text_ids.get(side)]
    if rules.hard_negatives == "all" and side == "document" and "negatives" in batch.gathered:
        negatives = batch.gathered["negatives"]
        count = m * dimension(negatives, 1)
        extra.append(ops.reshape(negatives, (count, dimension(negatives, 2))))
        kept.append(ops.reshape(batch.has_negative, (count,)))
        none = ops.full((count,), -1, "int32")
        ids = batch.text_ids.get("negatives")
        numbers = none if ids is None else ops.reshape(ids, (count,))
        texts.append(numbers)
        for name, parts in columns.items():
            parts.append(numbers if name == "document" else none)
    if rules.same_side:
        extra.append(batch.gathered[anchors])
        kept.append(keep)
        texts.append(ops.full((m,), -1, "int32"))
        for name, parts in columns.items():
            parts.append(known[name])
    pairs = [(batch.local_ids(known[name]), _joined(parts)) for name, parts in columns.items()]
    if rules.same_side:  # An anchor is no candidate of its own.
        places = ops.arange(m, dtype="int32")
        before = sum(dimension(part, 0) for part in kept[:-1])
        pairs.append((batch.local_ids(places), _joined([ops.full((before,), -1, "int32"), places])))
    return Candidates(
        _joined(extra) if extra else None,
        None if batch.is_pair is None and not extra else _joined(kept),
        pairs,
        None if texts[0] is None else _joined(texts),
    )


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=0)
