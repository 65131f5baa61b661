"""InfoNCE from embeddings, tile by tile: the (n, m) matrix of logits is never in memory.

The logits of one tile of rows and columns are a matrix product, used and forgotten. In the
forward pass each row and each column keeps five running numbers (see `_merged`); the gradient,
written by hand, computes every tile again. So the memory needed beside embeddings and gradients
grows with n + m and the tile, and the time is that of four matrix products of the (n, m) matrix,
one forward and three back, and little more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import keras
from keras import ops

from cptk.losses.masks import LEFT_OUT, TIE, equal_ids
from cptk.losses.rows import (
    add_rows,
    close_sum,
    divides,
    larger,
    open_sum,
    slice_rows,
    smaller,
    write_rows,
)
from cptk.ops import (
    dimension,
    float32_or_higher,
)
from cptk.types import Size, Tensor, Tree

DEFAULT_TILE_SIZE = 1024
"""Rows and columns of a tile. Measured on two CPU cores: with twice as many, 16 MiB a tile, the
passes over a tile cost more than larger matrix products save."""


def streamed_info_nce(
    query: Tensor,
    document: Tensor,
    scale: Tensor,
    row_ids: tuple[Tensor, ...] | None = None,
    column_ids: tuple[Tensor, ...] | None = None,
    keep: Tensor | None = None,
    symmetric: bool = True,
    tile_size: int | None = None,
    text_ids: tuple[Tensor, ...] = (),
    label_smoothing: float = 0.0,
    margin: float | None = None,
    guide: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Losses and in-batch scores of rows and columns, with gradients of all that is a float.

    Args:
        query: (n, d), of unit length.
        document: (m, d), of unit length, m >= n.
        scale: positive scalar; the logits are scale * query @ document^T.
        row_ids: vectors (n,) of integers.
        column_ids: as many vectors (m,). Entry (i, j), i != j, is left out where any of the
            vectors has row_ids[i] = column_ids[j].
        keep: (m,) boolean, False at places that hold no real pair: they are nobody's negatives,
            and their own losses are finite and mean nothing.
        symmetric: whether to compute columns.
        tile_size: rows and columns of a tile.
        text_ids: integers that are equal where texts are: (m,) of the documents and, if
            symmetric, (n,) of the queries. In the scores, a candidate of the positive's own text
            ties with it, whatever rounding made of its logit. For texts that are not left out by
            `row_ids` and `column_ids`; left out, they do not compete at all.
        label_smoothing: as in `info_nce`.
        margin: how far the cosine of a negative may be above that of the row's, or column's,
            positive. Beyond, it is left out of the loss, and stays in the scores.
        guide: vectors (n, e) and (m, e) of unit length, whose cosines are those of the margin; by
            default `query` and `document` are. Without gradient.

    Returns:
        (row_losses, column_losses, row_scores, column_scores), each (n,): losses neither
        weighted nor reduced; scores as `cptk.metrics.in_batch_scores` gives, without gradient.
        The columns' are None if not symmetric.
    """
    query, document = float32_or_higher(query), float32_or_higher(document)
    dtype = keras.backend.standardize_dtype(query.dtype)
    scale = ops.cast(scale, dtype)
    tile = DEFAULT_TILE_SIZE if tile_size is None else tile_size
    ids = [vector for pair in zip(row_ids or (), column_ids or (), strict=True) for vector in pair]
    # Arguments and no closure: on JAX `forward` may run again where an outer trace has ended.
    masks = [*ids, *text_ids, *(() if keep is None else (keep,)), *(guide or ())]

    def forward(
        query: Tensor, document: Tensor, scale: Tensor, *masks: Tensor
    ) -> tuple[Tensor, Callable[..., tuple[Tensor | None, ...]]]:
        inputs = (query, document, scale)
        query, document, scale = map(ops.stop_gradient, inputs)
        pairs = tuple(zip(masks[: len(ids) : 2], masks[1 : len(ids) : 2], strict=True))
        of_texts = masks[len(ids) : len(ids) + len(text_ids)]
        known = None if keep is None else masks[len(ids) + len(text_ids)]
        judge = None if guide is None else (masks[-2], masks[-1])
        limits = None
        if margin is not None:
            limits = _limits(*(judge or (query, document)), margin)
            limits = limits * scale if judge is None else limits
        tiles = _Tiles(query, document, scale, pairs, known, tile, limits, judge)
        states = _states(tiles, symmetric, of_texts, smooth=label_smoothing > 0)

        def backward(
            *arguments: Tensor, upstream: Tensor | None = None
        ) -> tuple[Tensor | None, ...]:
            # TensorFlow and JAX pass the upstream gradient alone, torch the arguments as well.
            upstream = arguments[0] if upstream is None else upstream
            of_losses = [ops.stop_gradient(upstream[2 * side]) for side in range(len(states))]
            gradients = _gradients(tiles, states, of_losses, label_smoothing)
            once = [_differentiable_once(x, *inputs, upstream) for x in gradients]
            return (*once, *(None for _ in masks))

        results = [
            vector for state in states for vector in _losses_and_scores(state, label_smoothing)
        ]
        return ops.stack(results), backward

    results = ops.custom_gradient(forward)(query, document, scale, *masks)
    columns = (results[2], ops.stop_gradient(results[3])) if symmetric else (None, None)
    return results[0], columns[0], ops.stop_gradient(results[1]), columns[1]


class _Tiles:
    """The matrix of logits, cut into tiles: row tile i and column tile j start at i, j * tile.

    All tiles are of one shape, which loops of JAX need: the last ones start early enough to
    end with the matrix, and what the tile before has seen already is left out of them.
    """

    def __init__(
        self,
        query: Tensor,
        document: Tensor,
        scale: Tensor,
        ids: tuple[tuple[Tensor, Tensor], ...],
        keep: Tensor | None,
        tile: int,
        limits: Tensor | None = None,
        judge: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.query, self.document, self.scale = query, document, scale
        self.ids, self.keep, self.tile = ids, keep, tile
        self.limits, self.judge = limits, judge
        self.rows, self.columns = dimension(query, 0), dimension(document, 0)
        self.height, self.width = smaller(tile, self.rows), smaller(tile, self.columns)

    def walk(self, visit: Callable[[_Tile, Tree], Tree], carry: Tree) -> Tree:
        """The last of carry = visit(tile, carry) over all tiles, those with the diagonal first."""
        down, across = -(-self.rows // self.tile), -(-self.columns // self.tile)
        carry = ops.fori_loop(0, down, lambda i, c: visit(self._at(i, i, True), c), carry)
        others = across - 1
        if isinstance(others, int) and others <= 0:
            return carry

        def visit_other(step: Size, carry: Tree) -> Tree:
            i = step // others
            return visit(self._at(i, (i + 1 + step % others) % across, False), carry)

        return ops.fori_loop(0, down * others, visit_other, carry)

    def _at(self, i: Size, j: Size, diagonal: bool) -> _Tile:
        top, left = i * self.tile, j * self.tile
        row = smaller(top, self.rows - self.height)
        column = smaller(left, self.columns - self.width)
        return _Tile(row, column, top, left, diagonal)

    def row_slice(self, array: Tensor, tile: _Tile) -> Tensor:
        return slice_rows(array, tile.row, self.height)

    def column_slice(self, array: Tensor, tile: _Tile) -> Tensor:
        return slice_rows(array, tile.column, self.width)

    def all_logits(self, tile: _Tile) -> Tensor:
        query = ops.multiply(self.row_slice(self.query, tile), self.scale)
        return query @ ops.transpose(self.column_slice(self.document, tile))

    def indices(self, tile: _Tile) -> tuple[Tensor, Tensor]:
        """Those of the rows, (height, 1), and of the columns, (1, width)."""
        rows, columns = ops.arange(self.height) + tile.row, ops.arange(self.width) + tile.column
        return ops.expand_dims(rows, 1), ops.expand_dims(columns, 0)

    def positives(self, tile: _Tile) -> Tensor:
        """Boolean, True where the diagonal runs through what no tile before has seen."""
        rows, columns = self.indices(tile)
        return ops.logical_and(ops.equal(rows, columns), ops.greater_equal(rows, tile.top))

    def negatives(self, tile: _Tile, logits: Tensor) -> Tensor:
        """The logits with all that is no negative at -1e30: the diagonal, masked and seen."""
        rows, columns = self.indices(tile)
        left_out = [ops.equal(rows, columns)] if tile.diagonal else []
        for row_ids, column_ids in self.ids:
            first, second = self.row_slice(row_ids, tile), self.column_slice(column_ids, tile)
            left_out.append(equal_ids(first, second))
        if self.keep is not None:
            drop = ops.logical_not(self.keep)
            left_out.append(ops.expand_dims(self.row_slice(drop, tile), 1))
            left_out.append(ops.expand_dims(self.column_slice(drop, tile), 0))
        if left_out:
            logits = ops.where(functools.reduce(ops.logical_or, left_out), LEFT_OUT, logits)
        if divides(self.height, self.rows) and divides(self.width, self.columns):
            return logits

        def unseen() -> Tensor:
            seen = ops.logical_or(ops.less(rows, tile.top), ops.less(columns, tile.left))
            return ops.where(seen, LEFT_OUT, logits)

        return ops.cond((tile.row < tile.top) | (tile.column < tile.left), unseen, lambda: logits)

    def judged(self, tile: _Tile, negatives: Tensor) -> Tensor:
        """What is held against the limits: these logits, or the cosines of a guide."""
        if self.judge is None:
            return negatives
        query, document = self.judge
        return self.row_slice(query, tile) @ ops.transpose(self.column_slice(document, tile))

    def within_limits(self, tile: _Tile, negatives: Tensor, judged: Tensor, axis: int) -> Tensor:
        """The negatives, -1e30 at those above the limit of their row (axis 1) or column (0)."""
        if self.limits is None:
            return negatives
        limits = (self.row_slice if axis == 1 else self.column_slice)(self.limits, tile)
        above = ops.greater(judged, ops.expand_dims(limits, axis))
        return ops.where(above, LEFT_OUT, negatives)


def _limits(query: Tensor, document: Tensor, margin: float) -> Tensor:
    """`(m,)` cosines of the n positives with the margin on top, and 1e30 for extra negatives."""
    rows = dimension(query, 0)
    limits = ops.sum(query * document[:rows], axis=1) + (margin + TIE)
    return ops.pad(limits, [[0, dimension(document, 0) - rows]], constant_values=-LEFT_OUT)


class _Tile(NamedTuple):
    row: Size
    column: Size
    """Of its first entry."""
    top: Size
    left: Size
    """Of its first entry that no tile before has seen."""
    diagonal: bool
    """Whether it lies on the diagonal."""


def _states(
    tiles: _Tiles, symmetric: bool, text_ids: tuple[Tensor, ...], smooth: bool
) -> list[Tensor]:
    """The numbers of `_merged`, (n, 5), if smooth (n, 7): of rows, and of the first n columns."""
    anchors = (tiles.rows, tiles.columns) if symmetric else (tiles.rows,)
    texts = [_texts(*pair) for pair in zip(text_ids, anchors, strict=False)]

    def start(size: Size, own: _Texts | None) -> Tensor:
        zeros = ops.zeros((size,), dtype=tiles.query.dtype)
        ties = zeros if own is None else ops.cast(own.others, zeros.dtype)
        more = [zeros, zeros] if smooth else []
        return ops.stack([zeros, zeros + LEFT_OUT, zeros, ties, zeros, *more], axis=1)

    def visit(tile: _Tile, carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        logits = tiles.all_logits(tile)
        negatives = tiles.negatives(tile, logits)
        judged = tiles.judged(tile, negatives)
        starts = (tile.row, tile.column)
        sizes = (tiles.height, tiles.width)
        merged = []
        for axis, state in zip((1, 0), carry, strict=False):
            part = slice_rows(state, starts[1 - axis], sizes[1 - axis])
            if tile.diagonal:
                part = _with_positives(part, tiles, tile, logits, axis)
            of_tile = None
            if texts:
                own = texts[1 - axis]
                of_tile = [slice_rows(x, starts[1 - axis], sizes[1 - axis]) for x in own[:2]]
                of_tile.append(slice_rows(own.candidates, starts[axis], sizes[axis]))
            summed = tiles.within_limits(tile, negatives, judged, axis)
            part = _merged(part, negatives, summed, axis, of_tile)
            merged.append(write_rows(state, starts[1 - axis], part))
        return tuple(merged)

    begin = [start(*pair) for pair in zip(anchors, texts or (None, None), strict=False)]
    return [state[: tiles.rows] for state in tiles.walk(visit, tuple(begin))]


class _Texts(NamedTuple):
    positives: Tensor
    """The number of the text that each anchor looks for."""
    others: Tensor
    """How many further candidates have it."""
    candidates: Tensor


def _texts(ids: Tensor, anchors: Size) -> _Texts:
    """Of the candidates' numbers, where the first are the positives of so many anchors."""
    order = ops.sort(ids)
    counts = [ops.searchsorted(order, ids, side=side) for side in ("left", "right")]
    others = ops.cast(counts[1] - counts[0] - 1, "int32")
    # Extra negatives are no anchors of columns, though each has a place there.
    missing = [[0, anchors - smaller(anchors, dimension(ids, 0))]]
    positives, others = (ops.pad(vector, missing)[:anchors] for vector in (ids, others))
    return _Texts(positives, others, ids)


def _with_positives(part: Tensor, tiles: _Tiles, tile: _Tile, logits: Tensor, axis: int) -> Tensor:
    positives = ops.sum(ops.where(tiles.positives(tile), logits, 0.0), axis=axis)
    return ops.concatenate([part[:, :1] + ops.expand_dims(positives, 1), part[:, 1:]], axis=1)


def _merged(
    state: Tensor, negatives: Tensor, summed: Tensor, axis: int, texts: list[Tensor] | None
) -> Tensor:
    """The state of rows (axis 1) or columns (axis 0) after one more tile of negatives.

    The `summed` are those that are in the loss; all are in the scores.

    It is, side by side: the logit of the positive; the highest logit so far, t; the sum of
    exp(l - t) over negatives; the number of negatives that tie with the positive; 1 if one of
    another text is above it, else 0. And where labels are smoothed: the sum of the negatives'
    logits, and their number.
    """
    positive, top, total, ties, above, *of_negatives = ops.unstack(state, num=_width(state), axis=1)
    highest = ops.max(negatives, axis=axis)
    of_summed = highest if summed is negatives else ops.max(summed, axis=axis)
    new_top = larger(larger(top, positive), of_summed)
    sums = ops.sum(ops.exp(summed - ops.expand_dims(new_top, axis)), axis=axis)
    total = total * ops.exp(top - new_top) + sums

    wins = ops.less_equal(highest, positive)
    doubtful = ops.equal(highest, positive)
    if texts is not None:  # The one above may be the positive's own text.
        doubtful = ops.logical_or(
            doubtful, ops.logical_and(ops.greater(texts[1], 0), ops.logical_not(wins))
        )

    def one_by_one() -> Tensor:
        own, others = ops.expand_dims(positive, axis), negatives
        if texts is not None:
            same = equal_ids(texts[0], texts[2])
            others = ops.where(same if axis == 1 else ops.transpose(same), LEFT_OUT, others)
        equal = ops.sum(ops.cast(ops.equal(others, own), ties.dtype), axis=axis)
        lost = ops.logical_not(ops.all(ops.less_equal(others, own), axis=axis))
        return ops.stack([ties + equal, ops.where(lost, 1.0, above)])

    def at_once() -> Tensor:
        return ops.stack([ties, ops.where(wins, above, 1.0)])

    ties, above = ops.unstack(ops.cond(ops.any(doubtful), one_by_one, at_once), num=2, axis=0)
    if of_negatives:
        kept = _kept(summed)
        more = (ops.where(kept, summed, 0.0), ops.cast(kept, total.dtype))
        of_negatives = [
            sum_ + ops.sum(of_tile, axis=axis)
            for sum_, of_tile in zip(of_negatives, more, strict=True)
        ]
    return ops.stack([positive, new_top, total, ties, above, *of_negatives], axis=1)


def _width(state: Tensor) -> int:
    return int(state.shape[1])


def _kept(negatives: Tensor) -> Tensor:
    """Boolean, True at negatives that are not left out."""
    return ops.greater(negatives, LEFT_OUT / 2)


def _losses_and_scores(state: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    positive, top, total, ties, above, *of_negatives = ops.unstack(state, num=_width(state), axis=1)
    # log(1 + exp(x)), where x = log sum_{negatives} exp(l - positive), -inf without any.
    x = ops.log(total) + (top - positive)
    losses = ops.where(ops.less(x, 0.0), 0.0, x) + ops.log1p(ops.exp(-ops.abs(x)))
    if of_negatives:  # Less e times the mean, over all that are kept, of l - positive.
        sum_, count = of_negatives
        losses = losses - label_smoothing * (sum_ - count * positive) / (count + 1.0)
    # A NaN positive equals nothing, itself included, and scores 0.
    right = ops.logical_and(ops.equal(above, 0.0), ops.equal(positive, positive))
    scores = ops.where(right, 1.0 / (1.0 + ties), 0.0)
    return losses, scores


def _gradients(
    tiles: _Tiles, states: list[Tensor], upstream: list[Tensor], label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, document and scale, for the upstream gradients of the rows' and columns' losses.

    A softmax is exp(l - t) / z with t the highest logit and z = total + exp(positive - t), and
    the gradient of its loss is the softmax, less 1 at the positive. That difference is
    -total / z there, exact where the loss is nearly 0. Smoothed labels take e / k more from each of
    the k logits that are kept, and give e to the positive.
    """
    own = 0.0
    sides = []
    for state, weights in zip(states, upstream, strict=True):
        positive, top, total, _, _, *of_negatives = ops.unstack(state, num=_width(state), axis=1)
        weights = weights * tiles.scale
        side = [top, weights / (total + ops.exp(positive - top))]
        own = own - side[1] * total
        if of_negatives:
            count = of_negatives[1]
            side.append(label_smoothing * weights / (count + 1.0))
            own = own + side[2] * count
        sides.append(side)
    extra = [[0, tiles.columns - tiles.rows]]
    if len(sides) == 2:  # Extra negatives have no loss of their own: exp(l - 1e30) is 0.
        top, *others = sides[1]
        top = ops.pad(top, extra, constant_values=-LEFT_OUT)
        sides[1] = [top, *(ops.pad(vector, extra) for vector in others)]

    def visit(tile: _Tile, carry: list[Any]) -> list[Any]:
        negatives = tiles.negatives(tile, tiles.all_logits(tile))
        judged = tiles.judged(tile, negatives)
        parts = []
        cuts = ((1, tiles.row_slice), (0, tiles.column_slice))
        for (axis, cut), side in zip(cuts, sides, strict=False):
            top, weights, *smooth = (ops.expand_dims(cut(vector, tile), axis) for vector in side)
            summed = tiles.within_limits(tile, negatives, judged, axis)
            parts.append(weights * ops.exp(summed - top))
            if smooth:
                parts.append(ops.where(_kept(summed), -smooth[0], 0.0))
        gradient = functools.reduce(ops.add, parts)
        if tile.diagonal:
            of_positives = ops.expand_dims(tiles.row_slice(own, tile), 1)
            gradient = ops.where(tiles.positives(tile), of_positives, gradient)
        of_query, of_document = carry
        by_query = gradient @ tiles.column_slice(tiles.document, tile)
        by_document = ops.transpose(gradient) @ tiles.row_slice(tiles.query, tile)
        return [
            add_rows(of_query, tile.row, tile.top // tiles.tile, by_query),
            add_rows(of_document, tile.column, tile.left // tiles.tile, by_document),
        ]

    sums = tiles.walk(visit, [open_sum(x, tiles.tile) for x in (tiles.query, tiles.document)])
    of_query = close_sum(sums[0], tiles.rows, tiles.tile)
    of_document = close_sum(sums[1], tiles.columns, tiles.tile)
    of_scale = ops.sum(ops.sum(tiles.query * of_query, axis=1)) / tiles.scale
    return of_query, of_document, of_scale


def _differentiable_once(gradient: Tensor, *inputs: Tensor) -> Tensor:
    """The gradient, tied to what it depends on, so as to refuse being differentiated."""

    def refuse(*arguments: Tensor, upstream: Tensor | None = None) -> NoReturn:
        raise NotImplementedError(
            "The tiled InfoNCE can be differentiated once. Received: a request for its second "
            "derivative. Take cptk.losses.symmetric_info_nce of cptk.losses.cosine_logits "
            "there, which holds the matrix of logits."
        )

    return ops.custom_gradient(lambda gradient, *inputs: (gradient, refuse))(gradient, *inputs)
