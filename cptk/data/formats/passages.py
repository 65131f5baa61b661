"""Queries with lists of passages: the training files of Tevatron and of DPR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cptk import checks
from cptk.data import reading
from cptk.data.formats.gathering import Gathered, unicode
from cptk.data.pairs import Pairs
from cptk.types import Path


def read_tevatron(path: Path, *, max_negatives: int | None = None) -> Pairs:
    r"""Pairs of Tevatron's training files, which Hugging Face's `Tevatron/…` sets have too.

    A line is `{"query_id", "query", "positive_passages": [{"docid", "title", "text"}, …],
    "negative_passages": […]}`, and gives one pair a positive passage. A passage's text is its title
    and text with a space between, its text alone where it has no title.

    Left out, with one warning that counts them: empty texts, queries without a positive, positives
    given before, and negatives whose text is that of a positive of the query (MS MARCO holds
    passages twice).

    Args:
        path: JSON lines (or one JSON list) in UTF-8, plain or `.gz`; it is read line by line.
        max_negatives: How many negatives of a pair are kept, from the first; None for all.

    Returns:
        n pairs with the columns `query`, `document`, `negatives` (0 to k texts) and `group`, the
        query's id as a string.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A folder, a broken file, a line that lacks a key (it is named), or no pair at
            all.
        TypeError: `path` or `max_negatives` is of another kind.

    Example:

    ```pycon
    >>> import json, pathlib
    >>> from cptk.data import read_tevatron
    >>> row = {"query_id": "7", "query": "how?", "positive_passages": [{"text": "so."}]}
    >>> row["negative_passages"] = [{"title": "A", "text": "why."}, {"text": "when."}]
    >>> _ = pathlib.Path("train.jsonl").write_text(json.dumps(row))
    >>> read_tevatron("train.jsonl")
    Pairs(1 pair; query, document, negatives, group)
      query='how?', document='so.', negatives=['A why.', 'when.'], group='7'

    ```

    References:
        Gao et al. 2022, *Tevatron*, arXiv 2203.05765; `TrainDataset` in
        `tevatron/retriever/dataset.py`. That the ends of a passage are stripped, as where Tevatron
        encodes a corpus, is ours.
    """
    file = reading.existing(path)
    found = Gathered(file, max_negatives)
    with reading.naming(file, "as Tevatron's JSON"):
        for line, row in reading.objects(file):
            query = _text(row, "query", line)
            positives = _passages(row, "positive_passages", line)
            negatives = _passages(row, "negative_passages", line)
            key = _value(row, "query_id", line)
            if not (isinstance(key, str) or checks.is_integer(key)):
                raise ValueError(f"line {line}: `query_id` should be a text or an integer")
            found.add(query, positives, negatives, unicode(str(key), line, "query_id"))
    return found.pairs()


def read_dpr(path: Path, *, max_negatives: int | None = None) -> Pairs:
    r"""Pairs of DPR's training files (`biencoder-nq-train.json`).

    An object is `{"question", "answers", "positive_ctxs": [{"title", "text"}, …], "negative_ctxs":
    […], "hard_negative_ctxs": […]}`, and gives one pair a positive context. A context's text is its
    title and text with a space between, its text alone where it has no title. Negatives are the
    hard ones, then the others; the two lists may be missing. Answers are not read.

    Left out, with one warning that counts them: empty texts, questions without a positive context
    (DPR leaves them out too), positives given before, and negatives whose text is that of a
    positive of the question.

    Args:
        path: One JSON list, or JSON lines, in UTF-8, plain or `.gz`. It is read object by object: a
            list of many gigabytes is never in memory as a whole, the pairs are.
        max_negatives: How many negatives of a pair are kept, from the first; None for all. DPR
            itself trains with one, a hard one.

    Returns:
        n pairs with the columns `query`, `document`, `negatives` (0 to k texts) and `group`, the
        number of the question in the file, from 0.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A folder, a broken file, an object that lacks a key (its line is named), or no
            pair at all.
        TypeError: `path` or `max_negatives` is of another kind.

    Example:

    ```pycon
    >>> import json, pathlib
    >>> from cptk.data import read_dpr
    >>> row = {"question": "how?", "answers": [], "positive_ctxs": [{"title": "A", "text": "so."}]}
    >>> row["hard_negative_ctxs"] = [{"title": "B", "text": "why."}, {"title": "C", "text": "no."}]
    >>> _ = pathlib.Path("train.json").write_text(json.dumps([row]))
    >>> read_dpr("train.json", max_negatives=1)
    Pairs(1 pair; query, document, negatives, group)
      query='how?', document='A so.', negatives=['B why.'], group=0

    ```

    References:
        Karpukhin et al. 2020, *Dense passage retrieval*, arXiv 2004.04906; `JsonQADataset` in
        `dpr/data/biencoder_data.py`. DPR puts a separator token between title and text; that it is
        a space here is ours.
    """
    file = reading.existing(path)
    found = Gathered(file, max_negatives)
    with reading.naming(file, "as DPR's JSON"):
        for number, (line, row) in enumerate(reading.objects(file)):
            question = _text(row, "question", line)
            positives = _passages(row, "positive_ctxs", line)
            negatives = [
                text
                for name in ("hard_negative_ctxs", "negative_ctxs")
                if row.get(name) is not None
                for text in _passages(row, name, line)
            ]
            found.add(question, positives, negatives, number)
    return found.pairs()


def _value(row: Mapping[str, Any], name: str, line: int) -> object:
    if name not in row:
        raise ValueError(f"line {line} has no `{name}`; its keys: {checks.shown(list(row), 80)}")
    return row[name]


def _text(row: Mapping[str, Any], name: str, line: int) -> str:
    value = _value(row, name, line)
    if not isinstance(value, str):
        raise ValueError(f"line {line}: `{name}` should be a text, not {checks.shown(value, 60)}")
    return unicode(value, line, name)


def _passages(row: Mapping[str, Any], name: str, line: int) -> list[str]:
    """The texts of some passages, titles in front."""
    passages = _value(row, name, line)
    if not isinstance(passages, list):
        shown = checks.shown(passages, 60)
        raise ValueError(f"line {line}: `{name}` should be a list of passages, not {shown}")
    texts = []
    for passage in passages:
        title = passage.get("title") if isinstance(passage, dict) else None
        text = passage.get("text") if isinstance(passage, dict) else None
        if not isinstance(text, str) or not isinstance(title or "", str):
            raise ValueError(
                f"line {line}: `{name}` should hold objects with the texts `title` and `text`, not "
                f"{checks.shown(passage, 60)}"
            )
        texts.append(unicode(f"{title or ''} {text}".strip(), line, name))
    return texts
