"""`TokenStore`: pairs tokenised once, on disk, in Arrow shards that are read by memory map."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from cptk import checks, files
from cptk.data import store_locks, store_parts, store_writing
from cptk.data.columns import SIDES
from cptk.data.pairs import Pairs
from cptk.data.store_batches import StoreBatches
from cptk.data.stored_pairs import StoredPairs
from cptk.data.tables import counted
from cptk.data.token_shards import Shard
from cptk.progress import Progress, is_terminal, progress
from cptk.types import Path, Preprocessor


class TokenStore(StoredPairs):
    """Pairs tokenised once, in a folder of Arrow IPC shards, read without being loaded.

    A folder holds `manifest.json` (tokenizer, roles, columns, counts, SHA-256 of each shard),
    `shard-000000.arrow` and so on, which pyarrow, `datasets`, polars and DuckDB open, and
    `repeated.npy`, which texts occur in several pairs. A shard's columns are the ids `query` and
    `document` (lists of uint16, or int32 for vocabularies above 65,536), `negatives` (lists of
    such), a digest of each side, and all others that the pairs had; the texts themselves
    (`query_text`, …) if asked.

    `trainer.fit(store, batch_size=12288)` takes a store as it is: batches are a function of (seed,
    epoch, step), shuffled over the whole store without an order in memory, and no text occurs twice
    in a batch.

    Args:
        folder: A store that `write` has made.

    Raises:
        FileNotFoundError: There is no store, or one that was not written to its end.
        ValueError: The manifest or a shard is damaged, or was written by another version.

    Example:

    ```pycon
    >>> import cptk
    >>> pairs = cptk.data.Pairs([("sort", "sorted(x)"), ("open", "open(path)")])
    >>> store = cptk.data.TokenStore.write("my_store", pairs, embedder.preprocessor, verbose=0)
    >>> store
    TokenStore('my_store', 2 pairs; query, document)
    >>> store.tokens("query", [1])["token_ids"].shape
    (1, 6)
    >>> store.decode([1], embedder.preprocessor)["document"]
    ['{open(path)}']

    ```
    """

    @classmethod
    def write(
        cls,
        folder: Path,
        pairs: object,
        preprocessor: Preprocessor,
        *,
        rows_per_shard: int = 65_536,
        keep_text: bool = False,
        part: tuple[int, int] = (0, 1),
        verbose: Literal["auto"] | int = "auto",
    ) -> Self | None:
        """Tokenise pairs into a folder, or go on where an earlier call was killed.

        Shards are written one by one, each whole or not at all; those that are there are compared
        with the pairs, not made again. The files are the same bytes however often it was killed,
        and by however many processes they were written.

        Args:
            folder: Where; it is made where there is none.
            pairs: Pairs in any form that `fit` takes, or an iterable of such, which is read once
                and never held: `Pairs` of a file at a time, say. The same on each call.
            preprocessor: The embedder's (`embedder.preprocessor`); of a KerasHub embedder
                `cptk.models.text_reader(embedder)`. Texts are cut at its `sequence_length`.
            rows_per_shard: Pairs in a shard.
            keep_text: Whether to keep the texts beside the ids.
            part: `(k, n)`: this process is number k of n, and writes every n-th shard. All of them
                read all pairs; the one that ends last writes the manifest.
            verbose: 1 shows progress, 0 none, "auto" only in a terminal or notebook.

        Returns:
            The store; None where other processes have not written their parts yet.

        Raises:
            TypeError: Pairs, or a preprocessor, that are none.
            ValueError: Bad pairs; or the folder holds other pairs', another embedder's or other
                columns' shards, or another process is at it.
            OSError: The disk is full: what was written is kept.

        Example:

        ```pycon
        >>> import cptk
        >>> pairs = [("sort", "sorted(x)"), ("open", "open(path)"), ("add", "a + b")]
        >>> write = cptk.data.TokenStore.write
        >>> options = {"rows_per_shard": 2, "verbose": 0}
        >>> write("in_parts", pairs, embedder.preprocessor, part=(1, 2), **options) is None
        True
        >>> len(write("in_parts", pairs, embedder.preprocessor, part=(0, 2), **options))
        3

        ```
        """
        place = checks.path(folder, "folder")
        plan = store_writing.Plan(
            store_writing.settings_of(preprocessor),
            checks.integer("rows_per_shard", rows_per_shard, 1),
            checks.switch("keep_text", keep_text),
        )
        part = store_locks.checked_part(part)
        bar = _bar(pairs, verbose)
        with store_locks.writing(place, part):
            count = store_writing.write_shards(place, pairs, preprocessor, plan, 0, part, bar)
            extra = place / store_writing.shard_name(count)
            if extra.exists():
                raise ValueError(
                    f"{str(place)!r} holds more shards than these pairs have: it was written of "
                    "other pairs. Choose another folder, or delete this one."
                )
            complete = store_writing.write_manifest(place, count)
        return cls(place) if complete else None

    def append(
        self,
        pairs: object,
        preprocessor: Preprocessor,
        *,
        rows_per_shard: int = 65_536,
        verbose: Literal["auto"] | int = "auto",
    ) -> TokenStore:
        """The store with more pairs after its own. Killed and called again, it goes on.

        Args:
            pairs: As of `write`, with the columns of the store.
            preprocessor: The one that the store was written with, or an equal one.
            rows_per_shard: As of `write`.
            verbose: As of `write`.

        Returns:
            The store, opened anew.

        Raises:
            TypeError, ValueError, OSError: As `write` says; or the columns are others.

        Example:

        ```pycon
        >>> import cptk
        >>> write = cptk.data.TokenStore.write
        >>> store = write("grows", [("sort", "sorted(x)")], embedder.preprocessor, verbose=0)
        >>> len(store.append([("open", "open(path)")], embedder.preprocessor, verbose=0))
        2

        ```
        """
        settings = store_writing.settings_of(preprocessor)
        self._check_settings(settings)
        size = checks.integer("rows_per_shard", rows_per_shard, 1)
        plan = store_writing.Plan(settings, size, bool(self.manifest["text"]))
        first = len(self.shards)
        bar = _bar(pairs, verbose)
        with store_locks.writing(self.folder, (0, 1)):
            count = store_writing.write_shards(
                self.folder, pairs, preprocessor, plan, first, (0, 1), bar
            )
            added = Shard(self.folder / store_writing.shard_name(first)).batch.schema
            mine = self.shards[0].batch.schema
            if not added.equals(mine, check_metadata=False):
                for number in range(first, count):
                    os.unlink(self.folder / store_writing.shard_name(number))
                raise ValueError(
                    f"The store has the columns {mine.names}, and these pairs would have "
                    f"{added.names}, or other types in them. Nothing was added."
                )
            store_writing.write_manifest(self.folder, count)
        return TokenStore(self.folder)

    # === Other stores of it ===

    @classmethod
    def merge(cls, folder: Path, stores: Iterable[TokenStore]) -> Self:
        """Several stores as one, their pairs one after another, without tokenising again.

        Shards are hard links where the disk has them, else copies. Killed and called again, it
        goes on.

        Args:
            folder: Where; it is made where there is none.
            stores: Written for one embedder, with the same columns.

        Returns:
            The new store. The others stay as they are.

        Raises:
            TypeError: Something else than stores.
            ValueError: They are of several embedders, or have other columns; or the folder holds
                another store.
            OSError: The disk is full: what was written is kept.

        Example:

        ```pycon
        >>> import cptk
        >>> write, options = cptk.data.TokenStore.write, {"verbose": 0}
        >>> text = write("text", [("how?", "so.")], embedder.preprocessor, **options)
        >>> code = write("code", [("add", "a + b")], embedder.preprocessor, **options)
        >>> len(cptk.data.TokenStore.merge("both", [text, code]))
        2

        ```
        """
        place = checks.path(folder, "folder")
        several = list(checks.iterated(stores, "stores", "token stores"))
        for store in several:
            if not isinstance(store, TokenStore):
                raise TypeError(
                    f"`stores` should hold token stores. Received: {checks.shown(store)}. Open "
                    "one by TokenStore(folder)."
                )
        if not several:
            raise ValueError("`stores` is empty. Pass at least one store.")
        store_parts.merge(place, several)
        return cls(place)

    def subset(self, folder: Path, rows: ArrayLike) -> TokenStore:
        """Some pairs as a store of its own. Killed and called again, it goes on.

        Args:
            folder: Where; it is made where there is none.
            rows: (m,) numbers of pairs, each once, in the order in which they will stand.

        Raises:
            TypeError: No integers.
            IndexError: No such pair.
            ValueError: None, or one twice; or the folder holds another store.

        Example:

        ```pycon
        >>> import cptk, numpy as np
        >>> pairs = [("sort", "sorted(x)"), ("open", "open(path)"), ("add", "a + b")]
        >>> store = cptk.data.TokenStore.write("all", pairs, embedder.preprocessor, verbose=0)
        >>> short = store.lengths("document", np.arange(3)) < 12
        >>> store.subset("short", np.flatnonzero(short)).decode([0], embedder.preprocessor)
        {'query': ['[sort]'], 'document': ['{sorted(x)}']}

        ```
        """
        wanted = self._rows(rows)
        if not len(wanted) or len(np.unique(wanted)) < len(wanted):
            raise ValueError(
                "`rows` should be numbers of pairs, one or more, each once. Received: "
                f"{checks.shown(rows)}."
            )
        place = checks.path(folder, "folder")
        store_parts.write_rows(place, self, wanted)
        return TokenStore(place)

    def sample(self, folder: Path, n: int, seed: int = 0) -> TokenStore:
        """`n` different pairs, drawn at random, as a store of its own, in the order of this one.

        Args:
            folder: Where.
            n: How many; at most as many as there are.
            seed: Of the draw.

        Raises:
            TypeError: No integer.
            ValueError: Less than 1, or more than there are; or the folder holds another store.
        """
        return self.subset(folder, store_parts.drawn(self, n, seed))

    def split(
        self, folders: tuple[Path, Path], size: float, seed: int = 0
    ) -> tuple[TokenStore, TokenStore]:
        """Draw some pairs at random, for validation, say; and the others: two stores.

        No text of one, query or document, is a query or a document of the other. Pairs that hang
        together by texts that they share are drawn together where all of them fit, so that a few
        less than `size` may be drawn.

        Args:
            folders: Where both will stand.
            size: How many to draw: an integer, or a share between 0 and 1.
            seed: Of the draw.

        Returns:
            `(drawn, others)`, both in the order of these pairs, which all are in one of them.

        Raises:
            TypeError: No number, or no two folders.
            ValueError: As many as there are, or none; all pairs hang together; or a folder holds
                another store.

        Example:

        ```pycon
        >>> import cptk
        >>> pairs = [("sort", "sorted(x)"), ("sort", "x.sort()"), ("add", "a + b")]
        >>> store = cptk.data.TokenStore.write("whole", pairs, embedder.preprocessor, verbose=0)
        >>> held_out, training = store.split(("held_out", "training"), 1, seed=0)
        >>> held_out.decode([0], embedder.preprocessor)["query"], len(training)
        (['[add]'], 2)

        ```
        """
        if not isinstance(folders, list | tuple) or len(folders) != 2:
            raise TypeError(
                "`folders` should be two folders, of the pairs that are drawn and of the others. "
                f"Received: {checks.shown(folders)}."
            )
        first, second = (checks.path(folder, "folders") for folder in folders)
        if first.resolve() == second.resolve():
            raise ValueError(f"`folders` should differ. Received twice: {str(first)!r}.")
        parts = store_parts.split(self, size, seed)
        return self.subset(first, parts.drawn), self.subset(second, parts.others)

    # === What is known of it ===

    def batches(
        self,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        columns: Sequence[str] = (),
        part: tuple[int, int] = (0, 1),
    ) -> StoreBatches:
        """Batches as `fit` takes them of the store, for loops and loaders of your own.

        A `keras.utils.PyDataset` whose batch `i` of epoch `e` (its attribute `epoch`) is a function
        of `seed`, `e` and `i` alone. So it is a source for Grain as it is,
        `grain.MapDataset.source(batches)`, and `cptk.data.tf_dataset(batches)` is the
        `tf.data.Dataset` of it. To these an epoch is all there is: pass as `steps_per_epoch` the
        steps of the whole training, over which each pass is shuffled anew.

        Args:
            batch_size: Pairs in a batch, 2 or more.
            shuffle: Whether each pass has an order of its own. If not, pairs come as they stand,
                with texts that repeat.
            seed: Of the orders.
            steps_per_epoch: Batches in an epoch; by default those of a pass.
            columns: Columns beside the two sides: of numbers, or "negatives".
            part: `(k, n)`: of each batch the pairs of worker k of n alone, as long as the others'.
                Worker counts do not change what the whole batch is.

        Raises:
            ValueError: Too few pairs, a column that is not there, or a bad number.

        Example:

        ```pycon
        >>> import cptk
        >>> pairs = [(f"how {number}?", f"so {number}.") for number in range(10)]
        >>> store = cptk.data.TokenStore.write("ten", pairs, embedder.preprocessor, verbose=0)
        >>> workers = [store.batches(5, seed=0, part=(k, 2)) for k in range(2)]
        >>> [len(batches[1]["query"]["token_ids"]) for batches in workers]
        [3, 2]

        ```
        """
        return StoreBatches(
            self,
            batch_size,
            checks.switch("shuffle", shuffle),
            seed,
            steps_per_epoch,
            columns=tuple(checks.items(columns, "columns", "names")),
            part=store_locks.checked_part(part),
        )

    def verify(self) -> None:
        """Read every shard and compare its SHA-256 with the manifest's.

        Raises:
            ValueError: Some differ; the message names them.
        """
        damaged = [
            each["file"]
            for each in self.manifest["shards"]
            if files.sha256_of(self.folder / each["file"]) != each["sha256"]
        ]
        if damaged:
            raise ValueError(
                f"Damaged shards in {str(self.folder)!r}: {', '.join(damaged)}. Delete them and "
                "write the store again: the others are kept."
            )

    def describe(self) -> dict[str, object]:
        """Counts of pairs, tokens and bytes, and of pairs whose texts occur several times."""
        shards = self.manifest["shards"]
        tokens = self.manifest["tokens"]
        return {
            "pairs": len(self),
            "shards": len(shards),
            "bytes": sum(each["bytes"] for each in shards),
            "tokens": dict(tokens),
            "mean_tokens": {side: tokens[side] / len(self) for side in SIDES},
            "repeated": self.manifest["repeated"],
            "columns": self.columns,
            "tokenizer": self.manifest["tokenizer"],
            "sequence_length": self.sequence_length,
        }

    def __repr__(self) -> str:
        return f"TokenStore({str(self.folder)!r}, {counted(len(self))}; {', '.join(self.columns)})"


def _bar(pairs: object, verbose: str | int) -> Progress | None:
    """What shows the progress; None where nobody looks on, or their number is not known."""
    shows = is_terminal() if verbose == "auto" else bool(verbose)
    known = len(pairs) if isinstance(pairs, Sequence | Pairs) else 0
    return progress(known, "pair") if known and shows else None
