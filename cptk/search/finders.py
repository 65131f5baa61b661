"""Three ways to find the nearest rows: exactly, by codes of fewer bytes, by an index of FAISS's."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cptk.quantization import Calibration, VectorDType, calibrate, code_shape, quantize
from cptk.search import approximate
from cptk.search.codes import Codes, nearest_codes
from cptk.search.exact import Collection, Floats, Integers, nearest
from cptk.search.selection import best_rows, vector_blocks
from cptk.search.vectors import Vectors

Mask = NDArray[np.bool_]

LONGEST = 1.0 + 1e-5
"""No row is longer: they have unit length, up to the rounding of float32."""
EXACT_BELOW = 20_000
"""Of so few rows the exact search costs no more than one of FAISS's that leaves the others out."""
FEW = 8
"""So few queries are multiplied with one row after another: BLAS's threads would wait for each
other longer than they compute."""
CUT_OFF = 8
"""Roundings of int8's by which a later row may be cut to the steps before all are made anew."""
_ROWS_OF_FEW = 2048
_BLOCK = 65_536
_TRAINED_ON = 400_000


class Finder(Protocol):
    """Finds the nearest rows of some vectors."""

    def nearest(
        self, queries: Floats, k: int, mask: Mask | None, oversample: int
    ) -> tuple[Floats, Integers]:
        """The k best rows of each query, or as many as there are.

        Args:
            queries: (n, d) float32 of unit length.
            k: 1 or more.
            mask: (m,) which rows may be found, at least one; None for all.
            oversample: How many candidates for each row that is wanted are scored exactly.

        Returns:
            Cosines (n, c), descending, and rows (n, c), of equal cosines the lower first; c is k or
            less. `-inf` and -1 where fewer were found.
        """


class Exact:
    """Every row is scored.

    Args:
        vectors: The rows.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def nearest(
        self, queries: Floats, k: int, mask: Mask | None, oversample: int
    ) -> tuple[Floats, Integers]:
        found = []
        first = 0
        for part in (self.vectors.base, self.vectors.tail):
            rows = None if mask is None else np.flatnonzero(mask[first : first + len(part)])
            there = len(part) if rows is None else len(rows)
            if there:
                rows = None if there == len(part) else rows
                found.append(_of_part(queries, part, min(k, there), rows) + first)
            first += len(part)
        return approximate.rescored(queries, self.vectors.gather, np.concatenate(found, axis=1), k)


def _of_part(queries: Floats, vectors: Floats, k: int, rows: Integers | None) -> Integers:
    """(n, k) the nearest rows of one array."""
    if len(queries) <= FEW:
        blocks = vector_blocks(queries, vectors, rows, _ROWS_OF_FEW)
        total = len(vectors) if rows is None else len(rows)
        return best_rows(blocks, total, len(queries), k)
    collection = Collection(vectors, LONGEST, vectors.shape[1])
    return nearest(queries, collection, k, (2048, 2048), rows=rows)[1]


class Coded:
    """Candidates by int8 or binary codes, whose float32 vectors are then scored.

    Args:
        vectors: The rows.
        dtype: `"int8"` or `"binary"`.
    """

    def __init__(self, vectors: Vectors, dtype: VectorDType) -> None:
        self.vectors = vectors
        self.dtype = dtype
        of_type, width = code_shape(dtype, vectors.dim)
        self.codes: Codes = np.empty((0, width), of_type)
        """Those of the first rows."""
        self.calibration: Calibration | None = None
        self.calibrated_on = 0
        """How many rows the calibration was made of."""
        self._preparing = threading.Lock()

    def prepare(self) -> None:
        """Make the codes of rows that have none yet."""
        with self._preparing:
            count = len(self.vectors)
            # Of few rows the steps are too narrow for those that come later.
            if self.dtype == "int8" and (
                count >= 2 * self.calibrated_on or self._cut_off(len(self.codes), count)
            ):
                self.calibration, self.calibrated_on = self._calibrated(count), count
                self.codes = self.codes[:0]
            first = len(self.codes)
            if first < count:
                parts = [self.codes]
                for start in range(first, count, _BLOCK):
                    rows = np.arange(start, min(start + _BLOCK, count))
                    block = self.vectors.gather(rows)
                    parts.append(quantize(block, self.dtype, self.calibration))
                self.codes = np.concatenate(parts)

    def nearest(
        self, queries: Floats, k: int, mask: Mask | None, oversample: int
    ) -> tuple[Floats, Integers]:
        self.prepare()
        codes = np.asarray(self.codes)
        rows = None if mask is None else np.flatnonzero(mask)
        count = min(k * oversample, len(codes) if rows is None else len(rows))
        found = nearest_codes(queries, codes, self.calibration, count, rows)
        return approximate.rescored(queries, self.vectors.gather, found, k)

    def _cut_off(self, first: int, count: int) -> bool:
        """Whether one of some rows lies so far outside of the steps that it would not be found."""
        assert self.calibration is not None
        low, high = self.calibration
        rounding = float(np.linalg.norm(high - low)) / 255 / np.sqrt(12)
        for start in range(first, count, _BLOCK):
            block = self.vectors.gather(np.arange(start, min(start + _BLOCK, count)))
            outside = np.linalg.norm(block - np.clip(block, low, high), axis=1)
            if outside.max() > CUT_OFF * rounding:
                return True
        return False

    def _calibrated(self, count: int) -> Calibration:
        parts = [
            calibrate(self.vectors.gather(np.arange(start, min(start + _BLOCK, count))))
            for start in range(0, count, _BLOCK)
        ]
        lows, highs = zip(*parts, strict=True)
        return Calibration(np.minimum.reduce(lows), np.maximum.reduce(highs))


class Approximate:
    """Candidates by an index of FAISS's, whose float32 vectors are then scored.

    Args:
        vectors: The rows.
        factory: What `faiss.index_factory` takes.
        parameters: What a search depends on, as `faiss.ParameterSpace` reads it.
    """

    def __init__(self, vectors: Vectors, factory: str, parameters: str | None = None) -> None:
        approximate.load_faiss()
        self.vectors = vectors
        self.factory = factory
        self.parameters = parameters
        self.file: Path | None = None
        """Where FAISS's index of the first rows is kept, to be read when it is needed."""
        self.index: approximate.FaissIndex | None = None
        """None before the first search, and where the rows are too few to train it on."""
        self.trained_on = 0
        """How many rows it was trained on; 0 where it needs no training."""
        self._too_few = 0
        """Of so many rows it could not be trained."""
        self._preparing = threading.Lock()

    def prepare(self) -> None:
        """Build the index, or add the rows that it has not got yet; none of too few rows.

        Raises:
            ValueError: FAISS cannot build it of these rows.
        """
        with self._preparing:
            count = len(self.vectors)
            if self.index is None and self.file is not None:
                held = len(self.vectors.base)
                try:
                    self.index = approximate.read_index(self.file, held, self.vectors.dim)
                except ValueError:
                    # Another process that has saved removes it: it is built of the vectors.
                    if self.file.exists():
                        raise
                self.file = None
            if self.index is None and count <= self._too_few:
                return
            # Cells that were found in few rows serve badly for many times as many.
            if self.index is None or 0 < 4 * self.trained_on <= count:
                sample = np.linspace(0, count - 1, min(count, _TRAINED_ON)).astype(np.int64)
                untrained = approximate.needs_training(self.factory, self.vectors.dim)
                vectors = self.vectors.gather(sample if untrained else sample[:1])
                try:
                    self.index = approximate.made_index(self.factory, vectors)
                except approximate.TooFewRowsError:
                    self._too_few = count
                    return
                self.trained_on = count if untrained else 0
            for start in range(self.index.ntotal, count, _BLOCK):
                rows = np.arange(start, min(start + _BLOCK, count))
                approximate.add_to(self.index, self.vectors.gather(rows))
            if self.parameters is not None:
                approximate.set_parameters(self.index, self.parameters)

    def write(self, path: str) -> None:
        """Write FAISS's index, which `prepare` has made, into a file."""
        approximate.write_index(self.index, path)

    def nearest(
        self, queries: Floats, k: int, mask: Mask | None, oversample: int
    ) -> tuple[Floats, Integers]:
        wanted = k * oversample
        allowed = len(self.vectors) if mask is None else int(np.count_nonzero(mask))
        found = None
        if mask is None or allowed > max(EXACT_BELOW, wanted):
            self.prepare()
            wanted = min(wanted, len(self.vectors))
            if self.index is not None:
                found = approximate.search_among(self.index, queries, wanted, mask)
        if found is None:
            return Exact(self.vectors).nearest(queries, k, mask, oversample)
        return approximate.rescored(queries, self.vectors.gather, found, k)
