"""Some pairs of a store, read as a store is, without writing one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from cptk.data.columns import SIDES
from cptk.data.stored_pairs import StoredPairs


class StoreView(StoredPairs):
    """Some pairs of a store, in their order there.

    Args:
        store: Where they are.
        own: (n,) their numbers, ascending, each once.

    Example:

    ```pycon
    >>> import cptk, numpy as np
    >>> from cptk.data.store_view import StoreView
    >>> pairs = [("sort", "sorted(x)"), ("open", "open(path)"), ("add", "a + b")]
    >>> store = cptk.data.TokenStore.write("whole", pairs, embedder.preprocessor, verbose=0)
    >>> view = StoreView(store, np.array([0, 2]))
    >>> len(view), view.decode([1], embedder.preprocessor)["query"]
    (2, ['[add]'])

    ```
    """

    def __init__(self, store: StoredPairs, own: NDArray[np.int64]) -> None:
        self.own = own
        vars(self).update({name: value for name, value in vars(store).items() if name != "own"})

    def __len__(self) -> int:
        return len(self.own)

    def __repr__(self) -> str:
        return f"{len(self):,} pairs of the store {str(self.folder)!r}"

    @property
    def digest(self) -> str:
        whole = super().digest.encode() + self.own.astype("<i8").tobytes()
        return hashlib.blake2b(whole, digest_size=16).hexdigest()

    def repeated(self) -> tuple[NDArray[np.int64], Mapping[str, NDArray[np.int64]]]:
        rows, groups = super().repeated()
        here = np.isin(rows, self.own)
        rows = np.searchsorted(self.own, rows[here])
        texts = np.stack([groups[side][here] for side in SIDES], axis=1)
        counts = np.bincount(texts[:, 0], minlength=int(texts.max(initial=-1)) + 1)
        counts += np.bincount(texts[texts[:, 0] != texts[:, 1], 1], minlength=len(counts))
        several = (counts[texts] > 1).any(1)
        return rows[several], dict(zip(SIDES, texts[several].T, strict=True))

    def _rows(self, rows: ArrayLike) -> NDArray[np.int64]:
        return self.own[super()._rows(rows)]


def by_source(store: StoredPairs) -> dict[str, StoreView]:
    """The pairs of a store by what its column `source` says, in the order in which names come.

    Raises:
        ValueError: There is no such column, or a gap in it.
    """
    if "source" not in store.columns:
        raise ValueError(
            "A mixture of one store needs its column 'source', with a name for each pair, or pass "
            f'{{"name": store, …}}. The columns of {store} are {store.columns}.'
        )
    rows: dict[str, list[NDArray[np.int64]]] = {}
    begin = 0
    for shard in store.shards:
        column: Any = shard.batch.column("source")
        if column.null_count:
            row = begin + pc.index(column.is_null(), True).as_py()
            raise ValueError(
                f"`source` should have a name for each pair. That of pair {row} of {store} is "
                "missing: write the store again with it."
            )
        encoded = column.dictionary_encode()
        numbers = encoded.indices.to_numpy()
        for number, name in enumerate(encoded.dictionary.to_pylist()):
            rows.setdefault(name, []).append(begin + np.flatnonzero(numbers == number))
        begin += len(shard)
    return {name: StoreView(store, np.concatenate(parts)) for name, parts in rows.items()}
