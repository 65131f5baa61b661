"""`Index`: vectors with ids, texts and metadata; searched, saved, and kept to one embedder.

More than 400 lines, most of them what its eight public methods say of themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self, TypeAlias, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from cptk import checks
from cptk.encoders import TextEncoder
from cptk.quantization import VectorDType
from cptk.search import index_files, saved
from cptk.search import rows as row_tables
from cptk.search.contents import Contents, checked_settings
from cptk.search.embedding import OneEmbedder
from cptk.search.exact import Floats, Integers
from cptk.search.finders import Approximate
from cptk.search.fusion import reciprocal_rank_fusion
from cptk.search.hits import Hits
from cptk.search.rows import ID, TEXT, Ids, Metadata
from cptk.search.vectors import texts_or_array, unit_vectors
from cptk.types import Path as StrPath

FUSED = 100
"""Ranks of each ranking that `hybrid` fuses, at least; ours."""

Documents: TypeAlias = Iterable[str] | ArrayLike
Filter: TypeAlias = pc.Expression


class Index:
    """Vectors with ids, texts and metadata, nearest first by cosine.

    Rows are texts, embedded by the index's embedder in the role "document", or vectors. A search
    embeds its texts in the role "query" (each role where the embedder has it). What is found is
    scored by float32 vectors, each pair alone, as `top_k` scores it, whatever found it:

    | | finds | how |
    |---|---|---|
    | default | the nearest | every row is scored, in blocks |
    | `dtype="int8"`, `"binary"` | nearly all of them | candidates by codes of fewer bytes |
    | `factory="HNSW32"`, … | most of them | candidates by an index of FAISS's (extra `faiss`) |

    The float32 vectors stay on the disk once the index is saved, and are read from there by memory
    map. Rows of different threads may be searched at once; who adds or deletes must be alone.

    Args:
        embedder: Anything that embeds text (`cptk.evaluation.embed`). Without one, the index takes
            vectors alone.
        dim: Numbers of a vector; by default those of the first vectors that come.
        dtype: What candidates are found by: `"float32"`, `"int8"` or `"binary"`.
        factory: What `faiss.index_factory` takes: `"HNSW32"`, `"IVF1024,Flat"`, `"IVF256,PQ48"`, ….
        search_parameters: What FAISS's search depends on, as `faiss.ParameterSpace` reads it:
            `"efSearch=64"`, `"nprobe=16"`. It may be set anew at any time.

    Raises:
        TypeError: Something that is no embedder, or `dim` no integer.
        ValueError: An unknown `dtype` or `factory`, or both a `dtype` and a `factory`.
        ImportError: FAISS is not installed, and a `factory` is given.

    Example:

    ```pycon
    >>> from cptk.search import Index
    >>> index = Index(embedder).add(
    ...     ["open(path)", "sorted(x)", "a + b"], metadata={"line": [7, 9, 30]}
    ... )
    >>> index.save("my_index")
    >>> index = Index.load("my_index", embedder)
    >>> len(index.search("how do I open a file?", k=2))
    2
    >>> import pyarrow.compute as pc
    >>> [hit.id for hit in index.search("open", filter=pc.field("line") > 10)]
    [2]

    ```
    """

    def __init__(
        self,
        embedder: TextEncoder | None = None,
        *,
        dim: int | None = None,
        dtype: VectorDType = "float32",
        factory: str | None = None,
        search_parameters: str | None = None,
    ) -> None:
        self._embedder = OneEmbedder(embedder)
        self._dim = None if dim is None else checks.integer("dim", dim, 1)
        self._settings = checked_settings(dtype, factory, search_parameters, self._dim)
        self._contents: Contents | None = None
        self._home: tuple[Path, str] | None = None
        """The folder and generation that this index was last saved in or loaded from."""

    # === What is in it ===

    def __len__(self) -> int:
        return 0 if self._contents is None else len(self._contents)

    def __contains__(self, id: object) -> bool:  # noqa: A002
        return self._contents is not None and id in self._contents.places

    @property
    def dim(self) -> int | None:
        """Numbers of a vector; None before the first came."""
        return self._dim

    @property
    def dtype(self) -> VectorDType:
        """What candidates are found by."""
        return self._settings.dtype

    @property
    def factory(self) -> str | None:
        """The index of FAISS's that candidates are found by, if there is one."""
        return self._settings.factory

    @property
    def rows(self) -> pa.Table:
        """Ids, texts and metadata of all rows, in the order in which they came."""
        empty = pa.table({ID: pa.array([], pa.int64())})
        return empty if self._contents is None else self._contents.rows

    @property
    def search_parameters(self) -> str | None:
        """What FAISS's search depends on."""
        return self._settings.parameters

    @search_parameters.setter
    def search_parameters(self, parameters: str) -> None:
        if parameters is None:
            raise TypeError(
                "`search_parameters` should be a string, such as 'nprobe=16'. Received: None, and "
                "FAISS cannot go back to its own."
            )
        dtype, factory, _ = self._settings
        self._settings = checked_settings(dtype, factory, parameters, self._dim)
        if self._contents is not None and isinstance(self._contents.finder, Approximate):
            self._contents.finder.parameters = parameters

    def __repr__(self) -> str:
        size = "" if self._dim is None else f" of {self._dim} numbers"
        embedder = self._embedder.embedder
        by = "" if embedder is None else f"; {type(embedder).__name__}"
        how = self._settings.factory or self._settings.dtype
        return f"Index({len(self):,} rows{size}; {how}{by})"

    # === Changing it ===

    def add(
        self,
        documents: Documents,
        ids: Ids | None = None,
        metadata: Metadata | None = None,
        *,
        replace: bool = False,
    ) -> Self:
        """Add rows, or put some in the place of those with the same ids.

        Args:
            documents: n texts, or (n, d) vectors of any length, which are made unit vectors.
            ids: n strings, or n integers, each once. Default: integers, counted on from 0.
            metadata: Columns by name, a dictionary for each row, or a frame or Arrow table. Every
                row of an index has the same columns. Vectors may have a column "text", which then
                is what `hybrid` searches and hits show.
            replace: Whether rows whose ids are there are taken out first; otherwise such ids are
                refused. The new rows stand at the end.

        Returns:
            Itself. Where it raises, nothing has changed.

        Raises:
            TypeError: No texts or vectors; ids that are neither strings nor integers, or both.
            ValueError: Nothing, NaN, vectors of another size; ids that are there, or one twice;
                metadata of another length or with other columns; or another embedder than the
                rows that are there were embedded by.

        Example:

        ```pycon
        >>> from cptk.search import Index
        >>> index = Index().add([[1.0, 0.0], [0.0, 1.0]], ids=["x", "y"])
        >>> index.add([[1.0, 1.0]], ids=["y"], replace=True)
        Index(2 rows of 2 numbers; float32)

        ```
        """
        checks.switch("replace", replace)
        given = self._embedder.read(documents, "documents", self._dim)
        contents, count = self._contents, len(given)
        held = None if contents is None else contents.table.schema.field(ID).type
        if ids is not None:
            found = row_tables.checked_ids(ids)
        elif held is not None and held != pa.int64():
            raise ValueError("`ids` should be given: those of the rows in this index are strings.")
        else:
            first = 0 if contents is None else contents.next_id
            if first + count - 1 > row_tables.LARGEST_INTEGER:
                raise ValueError(
                    "`ids` should be given: they count on from the largest in this index, "
                    f"{first - 1}, and there is none above it."
                )
            found = [*range(first, first + count)]
        if len(found) != count:
            raise ValueError(
                f"`ids` should have an id for each of the {count} documents. Received {len(found)}."
            )
        rows = row_tables.as_rows(found, given if isinstance(given, list) else None, metadata)
        if held is not None and rows.schema.field(ID).type != held:
            kind = "integers" if held == pa.int64() else "strings"
            raise TypeError(
                f"`ids` should be {kind}, as those in this index are. Received: "
                f"{checks.shown(found[0])}."
            )
        known = [] if contents is None else [each for each in found if each in contents.places]
        if known and not replace:
            raise ValueError(
                f"`ids` should be new. {len(known)} are there already: {checks.shown(known)}. Pass "
                "replace=True to put these rows in their place."
            )
        table = rows if contents is None else row_tables.joined(contents.table, rows)
        about = self._embedder.check()
        if self._settings.factory is not None and self._dim is None:
            # A factory that is refused is refused before all texts are embedded.
            first_one = self._embedder.embed(given[:1], "document", None)
            checked_settings(*self._settings, first_one.shape[1])
        vectors = self._embedder.embed(given, "document", self._dim)
        # Nothing is refused from here on.
        self._embedder.about = about
        if contents is None:
            nothing = np.empty((0, vectors.shape[1]), np.float32)
            self._contents = contents = Contents(self._settings, nothing, rows.slice(0, 0))
        self._dim = vectors.shape[1]
        contents.append(vectors, found, table)
        return self

    def delete(self, ids: Ids) -> Self:
        """Take rows out.

        Args:
            ids: Which.

        Returns:
            Itself. Where it raises, nothing has changed.

        Raises:
            TypeError: Ids that are neither strings nor integers.
            ValueError: An id that is not there.

        Example:

        ```pycon
        >>> from cptk.search import Index
        >>> len(Index().add([[1.0, 0.0], [0.0, 1.0]], ids=["x", "y"]).delete(["x"]))
        1

        ```
        """
        found = row_tables.checked_ids(ids)
        missing = [each for each in found if each not in self]
        if missing:
            raise ValueError(
                f"`ids` should be in the index. {len(missing)} are not: {checks.shown(missing)}."
            )
        if self._contents is not None:
            self._contents.remove(found)
        return self

    # === Searching ===

    @overload
    def search(
        self, queries: str, k: int = ..., *, filter: Filter | None = ..., hybrid: bool = ...,
        oversample: int = ...,
    ) -> Hits: ...  # fmt: skip
    @overload
    def search(
        self, queries: Iterable[str] | ArrayLike, k: int = ..., *, filter: Filter | None = ...,
        hybrid: bool = ..., oversample: int = ...,
    ) -> Hits | list[Hits]: ...  # fmt: skip
    def search(
        self,
        queries: str | Iterable[str] | ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,  # noqa: A002
        hybrid: bool = False,
        oversample: int = 4,
    ) -> Hits | list[Hits]:
        """The nearest rows of one query, or of each of several.

        Args:
            queries: A text or several, or a vector (d,) or several, (n, d).
            k: How many rows to find; where fewer are there, or pass the filter, all of them.
            filter: Which rows may be found: an expression of pyarrow.compute's over the columns
                `id`, `text` and those of the metadata, `pyarrow.compute.field("year") > 2020`. A
                comparison with a value that is missing passes none; `is_null()` finds it.
            hybrid: Whether to search by words too: BM25's ranking and that by vectors are fused
                by reciprocal ranks (`reciprocal_rank_fusion`). It finds names and rare words. The
                first such search after a change counts the words of all rows.
            oversample: Candidates for each row that is wanted, of which the best by float32 are
                kept; of a `dtype` or `factory` alone. More find more, and take longer.

        Returns:
            `Hits` of one query; a list of them of several.

        Raises:
            TypeError: Queries that are neither texts nor vectors; a filter that is no expression.
            ValueError: An empty index; an empty text, NaN, another size of vectors; `k` below 1;
                a filter on a column that is not there; `hybrid` without texts.

        Example:

        ```pycon
        >>> from cptk.search import Index
        >>> index = Index().add([[1.0, 0.0], [0.0, 1.0]], ids=["x", "y"])
        >>> index.search([[0.6, 0.8], [0.8, 0.6]], k=1)[1].ids
        ['x']

        ```
        """
        k, oversample = checks.integer("k", k, 1), checks.integer("oversample", oversample, 1)
        checks.switch("hybrid", hybrid)
        contents = self._some_contents()
        mask = None if filter is None else row_tables.chosen(contents.table, filter)
        mask = None if mask is None else mask & contents.alive
        asked = [queries] if isinstance(queries, str) else texts_or_array(queries)
        single = isinstance(queries, str) or (isinstance(asked, np.ndarray) and asked.ndim == 1)
        asked = asked[None] if isinstance(asked, np.ndarray) and single else asked
        given = self._embedder.read(asked, "queries", self._dim)
        texts = given if isinstance(given, list) else None
        if hybrid and (texts is None or TEXT not in contents.table.column_names):
            what = "the queries" if texts is None else "the rows of this index"
            raise ValueError(f"`hybrid` searches by words, and {what} are vectors alone.")
        vectors = self._embedder.embed(given, "query", self._dim)
        wanted = max(k, FUSED) if hybrid else k
        scores, places = contents.nearest(vectors, wanted, mask, oversample, fill=True)
        if hybrid and texts is not None:
            rankings = [places, contents.by_words(texts, wanted, mask)]
            fused, places = reciprocal_rank_fusion(rankings, min(k, len(contents)))
            scores = fused.astype(np.float32)
        found = [
            Hits(contents.table, row[row >= 0], score[row >= 0])
            for row, score in zip(places, scores, strict=True)
        ]
        return found[0] if single else found

    def nearest(
        self, vectors: ArrayLike, k: int, *, oversample: int = 4
    ) -> tuple[Floats, Integers]:
        """What `search` finds, as arrays, for programs with many queries.

        Args:
            vectors: (n, d) of any length.
            k: How many rows to find, 1 or more.
            oversample: As of `search`.

        Returns:
            Cosines (n, c) float32, descending, and places in `rows` (n, c) int64; c is k, or how
            many rows there are. `-inf` and -1 where fewer were found.

        Raises:
            TypeError, ValueError: As of `search`.

        Example:

        ```pycon
        >>> from cptk.search import Index
        >>> index = Index().add([[1.0, 0.0], [0.0, 1.0]], ids=["x", "y"])
        >>> scores, places = index.nearest([[3.0, 4.0], [4.0, 3.0]], k=1)
        >>> places.tolist(), index.rows["id"].take(places[:, 0]).to_pylist()
        ([[1], [0]], ['y', 'x'])

        ```
        """
        k, oversample = checks.integer("k", k, 1), checks.integer("oversample", oversample, 1)
        contents = self._some_contents()
        asked = unit_vectors(vectors, "vectors", self._dim)
        scores, places = contents.nearest(asked, k, None, oversample)
        if not contents.whole:
            before = np.cumsum(contents.alive) - 1
            places = np.where(places >= 0, before[places], -1)
        return scores, places

    # === Files ===

    def save(self, folder: StrPath, *, overwrite: bool = False) -> None:
        """Write the index into a folder, whole or not at all.

        An index that is there stays as it is until the new one is complete, also where this process
        is killed. Rows that were deleted are not written. Afterwards the vectors are read from the
        files. An index of FAISS's that has lost rows is built anew.

        Args:
            folder: A new one, or that of this index.
            overwrite: Whether to write over another index, or over what another process has saved.

        Raises:
            ValueError: Nothing was ever added; the folder holds other things, or another index,
                or what another process has saved since this one was loaded; or a process saves.
            OSError: The disk is full.

        Example:

        ```pycon
        >>> from cptk.search import Index
        >>> index = Index().add([[1.0, 0.0]])
        >>> index.save("one_row")
        >>> Index().add([[0.0, 1.0]]).save("one_row")
        Traceback (most recent call last):
            ...
        ValueError: 'one_row' holds another index. Name another folder, or pass overwrite=True.

        ```
        """
        place = checks.path(folder, "folder")
        checks.switch("overwrite", overwrite)
        contents = self._contents
        if contents is None:
            raise ValueError("This index is empty. Add rows to it first: index.add(documents).")
        with index_files.writing(place) as there:
            home = place.resolve()
            if there is not None and not overwrite and self._home != (home, there.name):
                raise ValueError(
                    f"Another process has saved the index {str(place)!r} since it was loaded here. "
                    "Load it and make your changes again, or pass overwrite=True."
                    if self._home is not None and self._home[0] == home
                    else f"{str(place)!r} holds another index. Name another folder, or pass "
                    "overwrite=True."
                )
            writer = index_files.Writer(place)
            of_faiss = saved.write(writer, contents, self._settings, self._embedder.about)
            fresh = saved.read(index_files.read(place), self._settings)
        if isinstance(fresh.finder, Approximate):
            fresh.finder.index = of_faiss  # which need not be read again
        self._contents, self._home = fresh, (home, writer.name)

    @classmethod
    def load(cls, folder: StrPath, embedder: TextEncoder | None = None) -> Self:
        """An index out of a folder. Its vectors are mapped into memory, not read.

        Args:
            folder: Where `save` has written it.
            embedder: The one that its rows were embedded by; without one it is searched by vectors
                alone.

        Raises:
            FileNotFoundError: There is no index, or a file of it is missing.
            ValueError: A file is cut short or damaged; or the rows are another embedder's.
            ImportError: It needs FAISS, which is not installed.

        Example:

        ```pycon
        >>> from cptk.search import Index
        >>> Index().add([[1.0, 0.0]]).save("vectors_alone")
        >>> Index.load("vectors_alone")
        Index(1 rows of 2 numbers; float32)

        ```
        """
        place = checks.path(folder, "folder")
        generation = index_files.read(place)
        while True:
            try:
                return cls._of(generation, embedder)
            except FileNotFoundError:  # another process may have saved a new one in the meantime
                again = index_files.read(place)
                if again.name == generation.name:
                    raise
                generation = again

    def _some_contents(self) -> Contents:
        if self._contents is None or not len(self._contents):
            raise ValueError("This index is empty. Add rows to it first: index.add(documents).")
        return self._contents

    @classmethod
    def _of(cls, generation: index_files.Generation, embedder: TextEncoder | None) -> Self:
        dtype, factory, parameters = saved.settings_of(generation)
        index = cls(embedder, dtype=dtype, factory=factory, search_parameters=parameters)
        index._contents = saved.read(generation, index._settings)
        index._dim = index._contents.vectors.dim
        index._embedder.about = generation.about.get("embedder")
        if index._embedder.about is not None:
            index._embedder.check()
        index._home = (generation.folder.resolve(), generation.name)
        return index
