"""Blocks of texts through an embedder: tokenised on one thread, embedded on others, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cptk import checks
from cptk.data.token_shards import Ragged
from cptk.models.encode_plan import Plan, features
from cptk.models.encode_texts import Block, Items, distinct, picked, sizes
from cptk.models.forward import Embed
from cptk.types import Preprocessor, TokenBatch, Vectors

CHUNK = 1024
"""Texts that are tokenised at once."""
_CHUNKS_AHEAD = 2
_CHARACTERS = 256
"""Of a text, for each token that is kept: more than any token has. What follows is tokenised only
where tokens are still missing; of a text of 100 MB the tokens would take 10 GB."""


class Pipeline(NamedTuple):
    """What turns texts into vectors."""

    reader: Preprocessor
    role: str
    embed: Embed
    plan: Plan
    truncate_dim: int | None
    """How many numbers of a vector are kept."""
    normalize: bool
    """Whether what is kept is brought to unit length."""
    in_flight: int
    """Batches that are embedded at the same time."""
    step: Callable[[int], None]
    """Called after each batch with how many texts, repeated ones included, are done."""
    start_thread: Callable[[], None]
    """Called first in each thread."""

    def run(self, blocks: Iterator[Block]) -> Generator[tuple[Block, Vectors]]:
        """Each block with its vectors `(n, dim)`, in order."""
        reading = ThreadPoolExecutor(1, "cptk-tokenise", self.start_thread)
        embedding = ThreadPoolExecutor(self.in_flight, "cptk-embed", self.start_thread)
        try:
            chunks = self._tokenised(blocks, reading)
            yield from self._embedded(chunks, embedding if self.in_flight > 1 else None)
        finally:
            reading.shutdown(cancel_futures=True)
            embedding.shutdown(cancel_futures=True)

    # === Tokens ===

    def _tokenised(
        self, blocks: Iterator[Block], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[_Work, NDArray[np.int64], Ragged]]:
        """Chunks of blocks as tokens, the longest texts of a block first; some ahead of time.

        The blocks are read here, on the caller's thread: a generator may have to be.
        """
        waiting: deque[tuple[_Work, NDArray[np.int64], Future[Ragged]]] = deque()
        for block in blocks:
            work = _Work.of(block)
            order = np.argsort(-sizes(work.items), kind="stable")
            for start in range(0, len(order), CHUNK):
                rows = order[start : start + CHUNK]
                work.chunks += 1
                waiting.append((work, rows, pool.submit(self._tokenise, picked(work.items, rows))))
                if len(waiting) > _CHUNKS_AHEAD:
                    first, places, tokens = waiting.popleft()
                    yield first, places, tokens.result()
            work.is_read = True
        for work, places, tokens in waiting:
            yield work, places, tokens.result()

    def _tokenise(self, items: Items) -> Ragged:
        if isinstance(items, Ragged):
            return items
        longest = self.reader.sequence_length
        size = _CHARACTERS * longest
        rows = [*self.reader.tokenize([_head(text, size) for text in items], self.role)]
        for place, text in enumerate(items):
            some = size
            while some < len(text) and len(rows[place]) < longest:
                some *= 8
                (rows[place],) = self.reader.tokenize([_head(text, some)], self.role)
        return Ragged.of(rows, "int32")

    # === Vectors ===

    def _embedded(
        self,
        chunks: Iterator[tuple[_Work, NDArray[np.int64], Ragged]],
        pool: ThreadPoolExecutor | None,
    ) -> Iterator[tuple[Block, Vectors]]:
        """Without a pool the caller's own thread embeds."""
        pending: deque[tuple[_Work, NDArray[np.int64], bool, Callable[[], Vectors]]] = deque()

        def settle() -> Iterator[tuple[Block, Vectors]]:
            work, rows, last, vectors = pending.popleft()
            self.step(work.put(rows, vectors()))
            if last:
                yield work.block, work.whole()

        left: tuple[NDArray[np.int64], Ragged] | None = None
        for work, rows, tokens in chunks:
            work.chunks -= 1
            last = work.is_read and not work.chunks
            if left is not None:
                rows, tokens = np.concatenate([left[0], rows]), _joined(left[1], tokens)
            lengths = np.diff(tokens.offsets).astype(np.int64)
            order = np.argsort(-lengths, kind="stable")
            batches = self.plan.batches(lengths[order], last)
            end = 0
            for batch in batches:
                end = batch.stop
                some = order[batch]
                is_end = last and end == len(order)
                own = partial(self._embed, features(tokens, some, self.plan), len(some))
                vectors = own if pool is None else pool.submit(own).result
                pending.append((work, rows[some], is_end, vectors))
                while len(pending) > self.in_flight:
                    yield from settle()
            rest = order[end:]
            left = (rows[rest], _picked(tokens, rest)) if len(rest) else None
        while pending:
            yield from settle()

    def _embed(self, tokens: TokenBatch, rows: int) -> Vectors:
        vectors = np.asarray(self.embed(tokens), np.float32)[:rows]
        if self.truncate_dim is None:
            return vectors
        vectors = vectors[:, : self.truncate_dim]
        if not self.normalize:
            return vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(lengths == 0, 1.0, lengths), np.float32)


class _Work:
    """A block whose vectors are being made."""

    def __init__(
        self,
        block: Block,
        items: Items,
        firsts: NDArray[np.int64],
        inverse: NDArray[np.int64] | None,
    ) -> None:
        self.block, self.items, self.firsts, self.inverse = block, items, firsts, inverse
        self.repeats = np.ones(len(firsts), int) if inverse is None else np.bincount(inverse)
        self.vectors: Vectors | None = None
        self.chunks = 0
        """Given out to be tokenised, and not embedded yet."""
        self.is_read = False

    @classmethod
    def of(cls, block: Block) -> _Work:
        return cls(block, *distinct(block.items))

    def put(self, rows: NDArray[np.int64], vectors: Vectors) -> int:
        """Take the vectors of some of its different texts; how many texts they are of."""
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            self._refuse(int(self.firsts[rows[bad]].min()))
        if self.vectors is None:
            self.vectors = np.empty((len(self.firsts), vectors.shape[1]), np.float32)
        self.vectors[rows] = vectors
        return int(self.repeats[rows].sum())

    def whole(self) -> Vectors:
        """The vectors of all its texts."""
        assert self.vectors is not None
        vectors, self.vectors = self.vectors, None
        return vectors if self.inverse is None else vectors[self.inverse]

    def _refuse(self, index: int) -> None:
        items = self.block.items
        text = "" if isinstance(items, Ragged) else f", {checks.shown(items[index])},"
        raise ValueError(
            f"The embedding of text {self.block.first + index}{text} is not finite. Weights may be "
            "broken, by a damaged file or by training at too high a learning rate: load them "
            "again. In float16 a layer may overflow: load the backbone in bfloat16 or float32."
        )


def _head(text: str, size: int) -> str:
    """The beginning of a text; all of it where that is white space."""
    head = text[:size]
    return text if head.isspace() else head


def _picked(tokens: Ragged, rows: NDArray[np.int64]) -> Ragged:
    found = picked(tokens, rows)
    assert isinstance(found, Ragged)
    return found


def _joined(first: Ragged, second: Ragged) -> Ragged:
    offsets = np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]])
    return Ragged(offsets, np.concatenate([first.values, second.values]))
