"""The contents of an index into the files of a generation, and out of them."""

from __future__ import annotations

from cptk import checks
from cptk.quantization import Calibration
from cptk.search import index_files
from cptk.search.approximate import FaissIndex
from cptk.search.contents import Contents, Settings
from cptk.search.finders import Approximate, Coded
from cptk.search.index_files import Generation, Writer
from cptk.search.vectors import Vectors
from cptk.types import Config


def write(
    writer: Writer, contents: Contents, settings: Settings, embedder: Config | None
) -> FaissIndex | None:
    """Write what is there, and make it the index; returns that of FAISS's, to be used on."""
    index = None
    count, dim, whole = len(contents), contents.vectors.dim, contents.whole
    first, alive = len(contents.vectors.base), contents.alive
    masks = (None, None) if whole else (alive[:first], alive[first:])
    parts = zip((contents.vectors.base, contents.vectors.tail), masks, strict=True)
    path = writer.vectors(list(parts), dim)
    writer.rows(contents.rows)
    about: Config = {
        "rows": count,
        "dim": dim,
        "dtype": settings.dtype,
        "factory": settings.factory,
        "search_parameters": settings.parameters,
        "embedder": embedder,
        "next_id": contents.next_id,
    }
    finder = contents.finder
    if isinstance(finder, Coded) and count:
        finder.prepare()
        writer.codes(finder.codes if whole else finder.codes[alive])
        known = finder.calibration
        about["calibration"] = None if known is None else known.to_json()
        about["calibrated_on"] = finder.calibrated_on
    elif isinstance(finder, Approximate) and count:
        if not whole:  # few of FAISS's indices can forget a row
            written = index_files.read_floats(path, count, dim)
            finder = Approximate(Vectors(written), finder.factory, finder.parameters)
        finder.prepare()
        if finder.index is not None:  # of too few rows there is none
            with writer.faiss() as file:
                finder.write(file)
            about["trained_on"], index = finder.trained_on, finder.index
    writer.commit(about)
    return index


def settings_of(generation: Generation) -> Settings:
    """How the rows of a saved index are found.

    Raises:
        ValueError: It does not say.
    """
    about = generation.about
    try:
        return Settings(about["dtype"], about["factory"], about["search_parameters"])
    except KeyError as missing:
        raise index_files.says_nothing_of(generation, missing) from None


def read(generation: Generation, settings: Settings) -> Contents:
    """The contents that were written, vectors and rows mapped into memory.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is cut short, damaged, or another one.
    """
    index_files.check_sizes(generation)
    about = generation.about
    try:
        count = checks.integer("rows", about["rows"], 0)
        dim = checks.integer("dim", about["dim"], 1)
        next_id = checks.integer("next_id", about["next_id"], 0)
        base = index_files.read_floats(generation.path("vectors"), count, dim)
        table = index_files.read_rows(generation.path("rows"), count)
        contents = Contents(settings, base, table, next_id)
        finder = contents.finder
        if isinstance(finder, Coded) and "codes" in generation.files:
            finder.codes = index_files.read_codes(
                generation.path("codes"), (count, finder.codes.shape[1]), finder.codes.dtype
            )
            finder.calibrated_on = checks.integer("calibrated_on", about["calibrated_on"], 0)
            if settings.dtype == "int8":
                finder.calibration = Calibration.from_json(about["calibration"])
        elif isinstance(finder, Approximate) and "faiss" in generation.files:
            finder.file = generation.path("faiss").absolute()  # it is read at the first search
            finder.trained_on = checks.integer("trained_on", about["trained_on"], 0)
    except KeyError as missing:
        raise index_files.says_nothing_of(generation, missing) from None
    return contents
