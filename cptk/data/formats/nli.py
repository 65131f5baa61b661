"""Natural language inference: SNLI, MultiNLI, GLUE's MNLI and AllNLI."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from cptk import checks
from cptk.data import reading
from cptk.data.formats.gathering import Gathered, unicode
from cptk.data.pairs import Pairs
from cptk.types import Path

PREMISE = ("sentence1", "premise")
HYPOTHESIS = ("sentence2", "hypothesis")
LABEL = ("gold_label", "label")
#: Labels as words, and as Hugging Face numbers them.
LABELS = {
    "entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction",
    "0": "entailment", "1": "neutral", "2": "contradiction",
}  # fmt: skip
UNLABELED = {"", "-", "-1", "none"}
TABS = {".tsv", ".txt", ".tab"}


def read_nli(path: Path, *, split: str = "train", max_negatives: int | None = None) -> Pairs:
    r"""Pairs of inference sets: a premise, what it entails, and what contradicts it as negatives.

    SNLI's, MultiNLI's and GLUE's files, as JSON lines or with tabs, and AllNLI's. Each entailed
    sentence of a premise gives a pair, whose negatives are all contradictions of that premise,
    wherever in the file they stand. Neutral sentences are passed over. A premise that entails
    nothing is left out; with one warning that counts them, and rows on which the annotators did not
    agree (`"-"`), empty texts, sentences given before, and contradictions that equal an entailed
    sentence.

    Args:
        path: The file, in UTF-8, plain or `.gz`. JSON lines, or one list; with tabs and without
            quotes if the name ends in `.tsv`, `.tab` or `.txt`; with commas and quotes if in
            `.csv`. It has `sentence1`, `sentence2` and `gold_label`, or `premise`, `hypothesis` and
            `label`, of a word or of 0 (entailment), 1 (neutral) and 2 (contradiction). Columns of
            tabs and commas stand in the first line.
        split: Of a file that has a column `split` (AllNLI), the part that is read.
        max_negatives: How many negatives of a pair are kept, from the first; None for all.

    Returns:
        n pairs with the columns `query` (the premise), `document`, `negatives` (0 to k texts) and
        `group`, the number of the premise, from 0.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A folder, a broken file, a column or label that is not known (its line is
            named), or no pair at all.
        TypeError: An argument of another kind.

    Example:

    ```pycon
    >>> import pathlib
    >>> from cptk.data import read_nli
    >>> lines = ["gold_label\tsentence1\tsentence2", "entailment\tA dog runs.\tIt moves."]
    >>> lines += ["neutral\tA dog runs.\tIt is late.", "contradiction\tA dog runs.\tIt sleeps."]
    >>> _ = pathlib.Path("train.tsv").write_text("\n".join(lines))
    >>> read_nli("train.tsv")
    Pairs(1 pair; query, document, negatives, group)
      query='A dog runs.', document='It moves.', negatives=['It sleeps.'], group=0

    ```

    References:
        Bowman et al. 2015 (SNLI), arXiv 1508.05326; Williams et al. 2018 (MultiNLI), arXiv
        1704.05426. Contradictions as negatives: Gao et al. 2021 (SimCSE), arXiv 2104.08821.
    """
    if not isinstance(split, str):
        raise TypeError(f"`split` should be a string. Received: {checks.shown(split)}.")
    file = reading.existing(path)
    found = Gathered(file, max_negatives)
    sentences: dict[str, tuple[list[str], list[str]]] = {}
    splits: set[str] = set()
    with reading.naming(file, "as NLI"):
        for line, row in _rows(file):
            if "split" in row:
                splits.add(str(row["split"]))
                if row["split"] != split:
                    continue
            premise, hypothesis = (_text(row, names, line) for names in (PREMISE, HYPOTHESIS))
            label = str(_value(row, LABEL, line)).strip().lower()
            if label in UNLABELED:
                found.left_out["rows without a label"] += 1
            elif label not in LABELS:
                known = "entailment, neutral, contradiction or 0, 1, 2"
                raise ValueError(f"line {line}: the label {checks.shown(label, 30)} is not {known}")
            else:
                entailed, contradicted = sentences.setdefault(premise, ([], []))
                if LABELS[label] == "entailment":
                    entailed.append(hypothesis)
                elif LABELS[label] == "contradiction":
                    contradicted.append(hypothesis)
        if splits and split not in splits:
            raise ValueError(f"it has no split {split!r} but {checks.shown(sorted(splits))}")
    for number, premise in enumerate(list(sentences)):
        found.add(premise, *sentences.pop(premise), number)
    return found.pairs()


def _rows(file: pathlib.Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Lines and rows of a file in the form that its name says."""
    ending = pathlib.Path(file.name.removesuffix(".gz")).suffix.lower()
    if ending == ".csv":
        return _with_header(_cells(file))
    if ending in TABS:
        return _with_header((line, text.split("\t")) for line, text in reading.lines(file))
    return reading.objects(file)


def _cells(file: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with commas and quotes; a quote that is never closed is an error, not one long text."""
    with reading.opened(file) as raw:
        rows = csv.reader(io.TextIOWrapper(raw, "utf-8-sig", newline=""), strict=True)
        try:
            for cells in rows:
                if cells:
                    yield rows.line_num, cells
        except csv.Error as error:
            unclosed = "end of data" in str(error) or "field limit" in str(error)
            fault = "a double quote is never closed" if unclosed else error
            raise ValueError(f"line {rows.line_num}: {fault}") from None


def _with_header(
    rows: Iterator[tuple[int, list[str]]],
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows by the names of the first one. Publishers leave out what is empty at a row's end."""
    _, names = next(rows, (0, list[str]()))
    for line, cells in rows:
        if len(cells) > len(names):
            raise ValueError(f"line {line} has {len(cells)} fields, and there are {len(names)}")
        yield line, dict(zip(names, cells, strict=False))


def _value(row: Mapping[str, object], names: Sequence[str], line: int) -> object:
    for name in names:
        if name in row:
            return row[name]
    expected = " or ".join(f"`{name}`" for name in names)
    raise ValueError(f"line {line} has no {expected}; it has {checks.shown(list(row), 80)}")


def _text(row: Mapping[str, object], names: Sequence[str], line: int) -> str:
    value = _value(row, names, line)
    if not isinstance(value, str):
        shown = checks.shown(value, 60)
        raise ValueError(f"line {line}: `{names[0]}` should be a text, not {shown}")
    return unicode(value, line, names[0])
