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
from cptk.search.exact import Collection, Floats, Integers, in_order, nearest
from cptk.search.vectors import Vectors

Mask = NDArray[np.bool_]

LONGEST = 1.0 + 1e-5
"""No row is longer: they have unit length, up to the rounding of float32."""
EXACT_BELOW = 20_000
"""Of so few rows the exact search costs no more than one of FAISS's that leaves the others out."""
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
        size = min(max(2048, (1 << 22) // len(queries)), 16_384)
        scores = [np.empty((len(queries), 0), np.float32)]
        rows = [np.empty((len(queries), 0), np.int64)]
        first = 0
        for part in (self.vectors.base, self.vectors.tail):
            among = None if mask is None else np.flatnonzero(mask[first : first + len(part)])
            there = len(part) if among is None else len(among)
            if there:
                among = None if there == len(part) else among
                collection = Collection(np.asarray(part), LONGEST, part.shape[1])
                found = nearest(queries, collection, min(k, there), (2048, size), rows=among)
                scores.append(found[0])
                rows.append(found[1] + first)
            first += len(part)
        all_scores, all_rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
        order = in_order(all_scores, all_rows)[:, :k]
        return np.take_along_axis(all_scores, order, 1), np.take_along_axis(all_rows, order, 1)


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
            if self.dtype == "int8" and count >= 2 * self.calibrated_on:
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
        self.trained_on = 0
        """How many rows it was trained on; 0 where it needs no training."""
        self._preparing = threading.Lock()

    def prepare(self) -> None:
        """Build the index, or add the rows that it has not got yet.

        Raises:
            ValueError: FAISS cannot build it of these rows.
        """
        with self._preparing:
            count = len(self.vectors)
            if self.index is None and self.file is not None:
                held = len(self.vectors.base)
                self.index = approximate.read_index(self.file, held, self.vectors.dim)
            # Cells that were found in few rows serve badly for many times as many.
            if self.index is None or 0 < 4 * self.trained_on <= count:
                sample = np.linspace(0, count - 1, min(count, _TRAINED_ON)).astype(np.int64)
                untrained = approximate.needs_training(self.factory, self.vectors.dim)
                vectors = self.vectors.gather(sample if untrained else sample[:1])
                self.index = approximate.made_index(self.factory, vectors)
                self.trained_on = count if untrained else 0
            for start in range(self.index.ntotal, count, _BLOCK):
                rows = np.arange(start, min(start + _BLOCK, count))
                approximate.add_to(self.index, self.vectors.gather(rows))
            if self.parameters is not None:
                approximate.set_parameters(self.index, self.parameters)

    def write(self, path: str) -> None:
        """Write FAISS's index of all rows into a file."""
        self.prepare()
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
            found = approximate.search_among(self.index, queries, wanted, mask)
        if found is None:
            return Exact(self.vectors).nearest(queries, k, mask, oversample)
        return approximate.rescored(queries, self.vectors.gather, found, k)
