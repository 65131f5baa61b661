"""Triples of MS MARCO: query, positive and negative, with tabs between."""

from __future__ import annotations

from cptk import checks
from cptk.data import reading
from cptk.data.formats.gathering import Gathered
from cptk.data.pairs import Pairs
from cptk.types import Path


def read_msmarco(path: Path, *, gather: bool = True, max_negatives: int | None = None) -> Pairs:
    r"""Pairs of MS MARCO's triples (`triples.train.small.tsv`): `query⇥positive⇥negative` a line.

    There is no header, and quotes are letters. Left out, with one warning that counts them: empty
    texts, and negatives that equal their positive, whose pair stays without.

    Args:
        path: The file, in UTF-8, plain or `.gz`; it is read line by line.
        gather: Whether lines with the same query and positive become one pair with several
            negatives, in the order in which pairs come first; it needs a lookup of all pairs in
            memory. Otherwise each line is a pair.
        max_negatives: How many negatives of a pair are kept, from the first; None for all. The
            published files have a hundred and more a pair: with a few, most of a file takes no
            memory.

    Returns:
        n pairs with the columns `query`, `document` and `negatives` (0 to k texts).

    Raises:
        FileNotFoundError: No such file.
        ValueError: A folder, a broken file, a line without three fields (it is named), ids in
            place of texts, or no pair at all.
        TypeError: An argument of another kind.

    Example:

    ```pycon
    >>> import pathlib
    >>> from cptk.data import read_msmarco
    >>> _ = pathlib.Path("triples.tsv").write_text("how?\tso.\tno.\nhow?\tso.\tnever.\n")
    >>> read_msmarco("triples.tsv")
    Pairs(1 pair; query, document, negatives)
      query='how?', document='so.', negatives=['no.', 'never.']

    ```

    References:
        Bajaj et al. 2016, *MS MARCO*, arXiv 1611.09268;
        `microsoft.github.io/msmarco/Datasets.html`, passage ranking.
    """
    if not isinstance(gather, bool):
        raise TypeError(f"`gather` should be True or False. Received: {checks.shown(gather)}.")
    file = reading.existing(path)
    found = Gathered(file, max_negatives)
    negatives_of: dict[tuple[str, str], list[str]] = {}
    with reading.naming(file, "as MS MARCO's triples"):
        for line, text in reading.lines(file):
            fields = text.split("\t")
            if len(fields) != 3:
                raise ValueError(
                    f"line {line} should be query, positive and negative with tabs between. It has "
                    f"{len(fields)} fields: {checks.shown(text, 60)}"
                )
            if line == 1 and all(field.strip().isdecimal() for field in fields):
                raise ValueError("it holds ids in place of texts; take the triples with texts")
            query, positive, negative = fields
            if not gather:
                found.add(query, [positive], [negative])
                continue
            negatives = negatives_of.setdefault((query, positive), [])
            if found.most is None or len(negatives) < found.most:
                negatives += found.fit([negative], [positive])
    for pair in list(negatives_of):  # what has become Arrow's is forgotten
        found.add(pair[0], [pair[1]], negatives_of.pop(pair))
    return found.pairs()
