"""One function per publisher's format: files in, record out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from cptk.checks import shown
from cptk.datasets.files import at_least_one, bad, column, csv_rows, lines, number, number_in, table
from cptk.datasets.records import LabeledPairs, LabeledTexts, ScoredPairs

TEXT = ("sentence", "text", "review", "question", "phrase")
LABEL = ("label", "labels", "class", "category", "target")
WORDS = {"neg": 0, "pos": 1, "negative": 0, "positive": 1}


def labeled_tsv(
    paths: Sequence[Path], names: tuple[str, ...], most: int | None = None
) -> LabeledTexts:
    """GLUE's `sentence⇥label`, with a header or without (SentEval's SST-2); no quoting.

    Labels are class numbers or names; a TREC name may carry its fine class (`DESC:manner`), and
    -1 and 1 stand for 0 and 1 where there are two classes.

    Args:
        paths: The files, read one after the other.
        names: Names of the classes, by number.
        most: Rows that the set has at most: GLUE's phrases must not pass for whole sentences.

    Returns:
        The texts and their classes.

    Raises:
        ValueError: if a row has no label or text, or the labels are not those classes.
    """
    texts: list[str] = []
    labels: list[int] = []
    for path in paths:
        _, rows = table(path, header=False)
        start, first = next(rows, (1, []))
        if not first:
            bad(path, 1, "the file is empty.")
        lowered = [cell.lower() for cell in first]
        if any(name in lowered for name in TEXT):
            if not any(name in lowered for name in LABEL):
                bad(path, 1, f"there are no labels in this file ({shown(first)}). {_UNLABELED}")
            text_at, label_at = column(path, first, *TEXT), column(path, first, *LABEL)
            rows = at_least_one(path, rows)
        else:  # no header: the first line is a row already
            text_at, label_at = (0, 1) if _label(first[-1], names) is not None else (1, 0)
            rows = itertools.chain([(start, first)], rows)
        for line, cells in rows:
            if len(cells) != max(len(first), 2):
                bad(path, line, f"expected {len(first)} columns. Received {len(cells)}.")
            label = _label(cells[label_at], names)
            if label is None:
                bad(
                    path,
                    line,
                    f"expected a label, 0 to {len(names) - 1} or one of {list(names)}. Received: "
                    f"{shown(cells[label_at])}.",
                )
            if not cells[text_at].strip():
                bad(path, line, "the text is empty.")
            texts.append(cells[text_at])
            labels.append(label)
    if most is not None and len(texts) > most:
        bad(
            paths[-1],
            len(texts) + 1,
            f"{len(texts):,} rows are too many for whole sentences (at most {most:,}): these are "
            f"GLUE's phrases. Load them by the name 'sst2_phrases', from a folder 'SST-2-GLUE'.",
        )
    return LabeledTexts(texts, _zero_one(paths[-1], labels), names)


def class_files(paths: Sequence[Path], names: tuple[str, ...]) -> LabeledTexts:
    """One file per class, a text a line: `custrev.neg` and `custrev.pos` (MR, CR, SUBJ, MPQA).

    Args:
        paths: One file per class, in the order of the classes; UTF-8 or Latin-1.
        names: Names of the classes, by number.

    Returns:
        The texts and their classes, class after class.
    """
    texts: list[str] = []
    labels: list[int] = []
    for label, path in enumerate(paths):
        found = [line.strip(" ") for _, line in lines(path, latin1=True) if line.strip()]
        if not found:
            bad(path, 1, "the file is empty.")
        texts += found
        labels += [label] * len(found)
    return LabeledTexts(texts, labels, names)


def trec_label(paths: Sequence[Path], names: tuple[str, ...]) -> LabeledTexts:
    """Li and Roth's `DESC:manner How did serfdom develop …`, Latin-1: the coarse class counts."""
    texts: list[str] = []
    labels: list[int] = []
    for path in paths:
        for at, line in lines(path, latin1=True):
            if not line.strip():
                continue
            name, _, text = line.partition(" ")
            label = _label(name, names) if ":" in name else None
            if label is None or not text.strip():
                bad(path, at, f"expected `CLASS:fine question`. Received: {shown(line)}.")
            texts.append(text.strip(" "))
            labels.append(label)
    return LabeledTexts(texts, labels, names)


def sst_trees(paths: Sequence[Path], names: tuple[str, ...]) -> LabeledTexts:
    r"""Stanford's `trainDevTestTrees_PTB`: whole sentences, both grades of negative 0, positive 1.

    Neutral sentences are left out, which gives the 6,920, 872 and 1,821 of the binary task. The
    words are lower-cased, brackets and slashes stay escaped (`-lrb-`, `\/`): the form of
    SentEval's files.
    """
    texts: list[str] = []
    labels: list[int] = []
    for path in paths:
        for at, line in lines(path, latin1=True):
            if not line.strip():
                continue
            words = re.findall(r"\([0-4] ([^()\s]+)\)", line)
            if not re.match(r"\([0-4] ", line) or line.count("(") != line.count(")") or not words:
                bad(path, at, f"expected one tree, `(3 (2 It) …)`. Received: {shown(line)}.")
            if line[1] != "2":
                texts.append(" ".join(words).lower())
                labels.append(int(line[1] in "34"))
    return LabeledTexts(texts, labels, names)


def mrpc(paths: Sequence[Path]) -> LabeledPairs:
    """Microsoft's `msr_paraphrase_*.txt`: UTF-8 with a byte order mark, quotes mean nothing."""
    first: list[str] = []
    second: list[str] = []
    labels: list[int] = []
    for path in paths:
        header, rows = table(path)
        if "quality" not in [cell.lower() for cell in header]:
            bad(path, 1, f"there are no labels in this file ({shown(header)}). {_UNLABELED}")
        at = [column(path, header, name) for name in ("Quality", "#1 String", "#2 String")]
        for line, cells in rows:
            if len(cells) != len(header):
                bad(path, line, f"expected {len(header)} columns. Received {len(cells)}.")
            label, one, two = (cells[index] for index in at)
            if label not in ("0", "1"):
                bad(path, line, f"expected Quality 0 or 1. Received: {shown(label)}.")
            _check_texts(path, line, one, two)
            first.append(one)
            second.append(two)
            labels.append(int(label))
    return LabeledPairs(first, second, labels, ("not a paraphrase", "paraphrase"))


def sts_tsv(paths: Sequence[Path]) -> ScoredPairs:
    """`score⇥sentence1⇥sentence2`, one file a subset, no header; an empty score is unscored."""
    record = ScoredPairs([], [], [], [])
    for path in paths:
        line = 0
        for line, cells in table(path, header=False)[1]:
            if line == 1 and cells[0].lower() == "score":
                continue
            if len(cells) != 3:
                bad(
                    path,
                    line,
                    f"expected `score⇥sentence1⇥sentence2`. Received {len(cells)} columns.",
                )
            _score_pair(record, path, line, cells[0], cells[1:], path.stem)
        if not line:
            bad(path, 1, "the file is empty.")
    return record


def sts_gs(paths: Sequence[Path]) -> ScoredPairs:
    """SemEval's pairs of files, `STS.input.X.txt` with two sentences a line and `STS.gs.X.txt`."""
    files: dict[tuple[str, str], Path] = {}
    for path in paths:
        kind, subset = re.fullmatch(r"STS\d*\.(input|gs)\.(.+)\.txt", path.name, re.I).groups()  # type: ignore[union-attr]
        files[kind.lower(), subset] = path
    record = ScoredPairs([], [], [], [])
    for (kind, subset), scores in files.items():
        if kind != "gs" or subset.upper() == "ALL":
            continue
        if ("input", subset) not in files:
            bad(scores, 1, f"there is no file of sentences, STS.input.{subset}.txt, beside it.")
        sentences = files["input", subset]
        gold = [line.strip() for _, line in lines(scores)]
        pairs = [line.split("\t") for _, line in lines(sentences, latin1=True)]
        if len(gold) != len(pairs):
            bad(
                scores, len(gold), f"{len(gold)} scores for {len(pairs)} pairs in {sentences.name}."
            )
        for line, (score, pair) in enumerate(zip(gold, pairs, strict=True), 1):
            if len(pair) < 2:
                bad(sentences, line, "expected two sentences with a tab between.")
            _score_pair(record, sentences, line, score, pair, subset)
    return record


def sts_benchmark(paths: Sequence[Path]) -> ScoredPairs:
    """The STS benchmark: its own seven columns and tabs, GLUE's header, or a CSV of three columns.

    The publisher's `sts-dev.csv` is `genre⇥file⇥year⇥number⇥score⇥sentence1⇥sentence2[⇥…]` without
    a header or quoting; `dev.csv` is `sentence1,sentence2,score`, quoted as CSV.
    """
    record = ScoredPairs([], [], [], [])
    for path in paths:
        _, start = next(lines(path), (0, ""))
        if start.count("\t") < 5:
            rows = list(csv_rows(path))
            at = (2, 0, 1)
        else:
            rows = list(table(path, header=False)[1])
            at = (4, 5, 6)
        if rows and "sentence1" in (header := [cell.lower() for cell in rows[0][1]]):
            names = ("score", "sentence1", "sentence2")
            at = tuple(column(path, header, name) for name in names)  # type: ignore[assignment]
            rows = rows[1:]
        for line, cells in rows:
            if len(cells) <= max(at):
                bad(path, line, f"expected at least {max(at) + 1} columns. Received {len(cells)}.")
            score, one, two = (cells[index] for index in at)
            if not score.strip():
                bad(path, line, "the score is empty, and every pair of STS-B has one.")
            _score_pair(record, path, line, score, [one, two], "stsb")
    return record


def sick(paths: Sequence[Path], semeval_set: str) -> ScoredPairs:
    """SICK's relatedness: `SICK_train.txt` and its like, or the lines of one set in `SICK.txt`."""
    record = ScoredPairs([], [], [], [])
    for path in paths:
        header, rows = table(path)
        names = ("relatedness_score", "sentence_A", "sentence_B")
        at = [column(path, header, name) for name in names]
        lowered = [cell.lower() for cell in header]
        set_at = lowered.index("semeval_set") if "semeval_set" in lowered else None
        for line, cells in rows:
            if len(cells) != len(header):
                bad(path, line, f"expected {len(header)} columns. Received {len(cells)}.")
            if set_at is not None and cells[set_at].upper() != semeval_set:
                continue
            score, one, two = (cells[index] for index in at)
            _check_texts(path, line, one, two)
            record.scores.append(number_in(path, line, score, 1, 5))
            record.first.append(one)
            record.second.append(two)
            record.subsets.append("sick")
    return record


_UNLABELED = (
    "GLUE keeps the labels of its test sets: take the publisher's own files (whole SST-2 sentences "
    "with `sentence⇥label`, or Microsoft's msr_paraphrase_test.txt)."
)


def _label(cell: str, names: tuple[str, ...]) -> int | None:
    """The class that a cell names, -1 for itself (see `_zero_one`); `None` if none."""
    known = {name.lower(): number for number, name in enumerate(names)}
    if known.keys() <= {"negative", "positive"}:
        known |= WORDS
    name = cell.lower().split(":")[0]
    if name in known:
        return known[name]
    value = number(cell)
    low = -1 if len(names) == 2 else 0
    whole = value is not None and value.is_integer() and low <= value < len(names)
    return int(value) if whole else None  # type: ignore[arg-type]


def _zero_one(path: Path, labels: list[int]) -> list[int]:
    if -1 not in labels:
        return labels
    if 0 in labels:
        bad(path, labels.index(-1) + 2, "labels are 0 and 1, or -1 and 1. Received -1 and 0.")
    return [max(label, 0) for label in labels]


def _score_pair(
    record: ScoredPairs, path: Path, line: int, score: str, pair: Sequence[str], subset: str
) -> None:
    if not score.strip():
        return
    _check_texts(path, line, *pair[:2])
    record.scores.append(number_in(path, line, score, 0, 5))
    record.first.append(pair[0].strip(" "))
    record.second.append(pair[1].strip(" "))
    record.subsets.append(subset)


def _check_texts(path: Path, line: int, *texts: str) -> None:
    if not all(text.strip() for text in texts):
        bad(path, line, "one of the two texts is empty.")
