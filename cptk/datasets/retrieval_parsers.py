"""Formats of several files or objects: BEIR folders, CoSQA's own JSON, CodeSearchNet's JSONL."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cptk.checks import is_integer, shown
from cptk.datasets.files import bad, json_in, lines
from cptk.datasets.files import number as number_of
from cptk.datasets.records import CodePairs, RetrievalData

DOCSTRING = ("docstring", "func_documentation_string")
CODE = ("code", "func_code_string", "original_string", "whole_func_string")
HEADER = ("score", "relevance", "rel", "label", "judgement", "judgment")
LANGUAGES = {"js": "javascript", "py": "python", "golang": "go"}


def beir(paths: Sequence[Path]) -> RetrievalData:
    """BEIR's folder: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.

    A document is its title and text with a space between, as BEIR's own loader has it
    (`beir/retrieval/models/sentence_bert.py`, `encode_corpus`). Only queries with a judgement are
    kept. Judgements have BEIR's three columns or TREC's four (`query 0 document relevance`).

    Published folders hold ids twice, and judgements of what they do not hold: the first of a
    document, query or judgement counts, the others and such judgements are passed over, with one
    warning that counts them.

    Args:
        paths: Corpus, queries, judgements.

    Returns:
        The record.

    Raises:
        ValueError: if a line is not as it should be, a relevance is no whole number, or there is
            no judgement of a query and a document that exist.
    """
    corpus_file, queries_file, qrels_file = paths
    passed_over: Counter[str] = Counter()
    corpus = {
        key: f"{row.get('title') or ''} {row['text']}".strip()
        for key, row in _unique(corpus_file, "documents", passed_over)
    }
    queries = {key: row["text"] for key, row in _unique(queries_file, "queries", passed_over)}
    qrels: dict[str, dict[str, int]] = {}
    for query, document, relevance in _judgements(qrels_file):
        if query not in queries:
            passed_over["judgements of a query that does not exist"] += 1
        elif document not in corpus:
            passed_over["judgements of a document that does not exist"] += 1
        elif document in qrels.get(query, {}):
            passed_over["judgements given before"] += 1
        else:
            qrels.setdefault(query, {})[document] = relevance
    counts = ", ".join(f"{count:,} {what}" for what, count in passed_over.items())
    if not qrels:
        of_what = f" of a query and a document that exist ({counts})" if counts else ""
        bad(qrels_file, 1, f"there are no judgements{of_what} in this file.")
    if counts:
        warnings.warn(f"{corpus_file.parent}: passed over {counts}.", stacklevel=2)
    return RetrievalData({query: queries[query] for query in qrels}, corpus, qrels)


def cosqa(paths: Sequence[Path]) -> RetrievalData:
    """CoSQA's own files: `code_idx_map.txt`, {code: number}, and a list of queries as JSON.

    Each query is `{"idx", "doc", "code", "label", "retrieval_idx", …}` (the authors' repository,
    data/search); those with label 0 have no right answer and are left out.
    """
    codes_file, queries_file = paths
    codes, rows = _json(codes_file), _json(queries_file)
    if not isinstance(codes, dict) or not isinstance(rows, list):
        bad(codes_file, 1, "expected an object {code: number}, and a list of queries beside it.")
    corpus = {_id(codes_file, 1, number): code for code, number in codes.items()}
    if len(corpus) != len(codes):
        bad(codes_file, 1, "two functions have the same number.")
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            bad(queries_file, number, f"query {number} is no object. Received: {shown(row)}.")
        missing = {"idx", "doc", "retrieval_idx"} - row.keys()
        if missing:
            bad(queries_file, number, f"query {number} has no {', '.join(sorted(missing))}.")
        if row.get("label", 1) not in (0, 1):
            bad(queries_file, number, f"expected a label of 0 or 1. Received: {shown(row)}.")
        if not row.get("label", 1):
            continue
        query, document = (_id(queries_file, number, row[key]) for key in ("idx", "retrieval_idx"))
        if query in queries:
            bad(queries_file, number, f"the query id {shown(query)} occurs twice (query {number}).")
        if document not in corpus:
            bad(
                queries_file,
                number,
                f"the judgement names a document {shown(document)} that does not exist.",
            )
        queries[query] = _field(queries_file, number, row, ("doc",))
        qrels[query] = {document: 1}
    return RetrievalData(queries, corpus, qrels)


def codesearchnet(paths: Sequence[Path], language: str) -> CodePairs:
    """CodeSearchNet's JSONL, plain or gzip: an object a line with `docstring` and `code`.

    Where the objects carry `language`, only those of `language` are taken, so that one file may
    hold all six. Rows whose docstring or code is blank are no pairs: they are left out, with a
    warning that counts them.
    """
    docstrings: list[str] = []
    codes: list[str] = []
    blank = 0
    for path in paths:
        for number, row in _objects(path):
            found = row.get("language") or language
            if not isinstance(found, str):
                bad(path, number, f"expected the name of a language. Received: {shown(found)}.")
            if LANGUAGES.get(found.lower(), found.lower()) != language:
                continue
            docstring = _field(path, number, row, DOCSTRING)
            code = _field(path, number, row, CODE)
            if docstring.strip() and code.strip():
                docstrings.append(docstring)
                codes.append(code)
            else:
                blank += 1
    if not codes:
        raise ValueError(
            f"{', '.join(map(str, paths))}: no pair of docstring and code ({language})."
        )
    if blank:
        warnings.warn(
            f"{blank} rows of {paths[0].parent} have a blank docstring or code and are left out.",
            stacklevel=2,
        )
    return CodePairs(docstrings, codes, language)


def codesearchnet_beir(paths: Sequence[Path], language: str) -> CodePairs:
    """CodeSearchNet in BEIR's layout: each query a docstring, with one function judged relevant."""
    data = beir(paths)
    pairs = [
        (data.queries[query], data.corpus[document])
        for query, judged in data.qrels.items()
        for document, score in judged.items()
        if score > 0
    ]
    return CodePairs([docstring for docstring, _ in pairs], [code for _, code in pairs], language)


def _objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    row = None
    for number, line in lines(path):
        if not line.strip():
            continue
        row = json_in(path, number, line)
        if not isinstance(row, dict):
            bad(path, number, f"expected an object. Received: {shown(line)}.")
        yield number, row
    if row is None:
        bad(path, 1, "the file is empty.")


def _unique(
    path: Path, what: str, passed_over: Counter[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The first row of each `_id`; further ones are counted."""
    seen: set[str] = set()
    for number, row in _objects(path):
        if "_id" not in row or not isinstance(row.get("text"), str):
            bad(path, number, f"expected `_id` and `text`. Received: {shown(sorted(row))}.")
        if not isinstance(row.get("title") or "", str):
            bad(path, number, f"expected a text as title. Received: {shown(row['title'])}.")
        key = _id(path, number, row["_id"])
        if key in seen:
            passed_over[f"{what} whose id came before"] += 1
            continue
        seen.add(key)
        yield key, row


def _judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    """Query, document and relevance of each line, in BEIR's columns or TREC's, less a header."""
    for number, line in lines(path):
        cells = [cell.strip() for cell in (line.split("\t") if "\t" in line else line.split())]
        if not line.strip() or (number == 1 and cells[-1].lower() in HEADER):
            continue
        if len(cells) not in (3, 4):
            bad(path, number, f"expected query, document and score. Received: {shown(line)}.")
        value = number_of(cells[-1])
        if value is None or not value.is_integer() or abs(value) > 1e9:
            expected = "expected a whole number for the score"
            bad(path, number, f"{expected}. Received: {shown(cells[-1])}.")
        yield cells[0], cells[-2], int(value)


def _id(path: Path, line: int, value: object) -> str:
    """An id as text: publishers write it as text or as an integer."""
    if not (isinstance(value, str) or is_integer(value)) or value == "":
        bad(path, line, f"expected an id, a text or an integer. Received: {shown(value)}.")
    return str(value)


def _field(path: Path, line: int, row: Mapping[str, Any], names: Sequence[str]) -> str:
    found = [row[name] for name in names if isinstance(row.get(name), str)]
    if found:
        return str(found[0])
    return bad(path, line, f"expected `{names[0]}`. Received: {shown(sorted(row))}.")


def _json(path: Path) -> object:
    return json_in(path, 1, "\n".join(line for _, line in lines(path)))
