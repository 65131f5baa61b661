"""Formats of several files or objects: BEIR folders, CoSQA's own JSON, CodeSearchNet's JSONL."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cptk.datasets.files import bad, lines
from cptk.datasets.records import CodePairs, RetrievalData

DOCSTRING = ("docstring", "func_documentation_string")
CODE = ("code", "func_code_string", "original_string", "whole_func_string")
LANGUAGES = {"js": "javascript", "py": "python", "golang": "go"}


def beir(paths: Sequence[Path]) -> RetrievalData:
    """BEIR's folder: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.

    A document is its title and text with a space between, as BEIR's own loader has it
    (`beir/retrieval/models/sentence_bert.py`, `encode_corpus`). Only queries with a judgement are
    kept.

    Args:
        paths: Corpus, queries, judgements.

    Returns:
        The record.

    Raises:
        ValueError: if an id occurs twice, or a judgement names no query or document, has no whole
            number for its score, or is given twice.
    """
    corpus_file, queries_file, qrels_file = paths
    corpus = {
        key: f"{row.get('title') or ''} {row['text']}".strip()
        for key, row in _unique(corpus_file, "document")
    }
    queries = {key: str(row["text"]) for key, row in _unique(queries_file, "query")}
    qrels: dict[str, dict[str, int]] = {}
    for number, line in lines(qrels_file):
        cells = [cell.strip() for cell in line.split("\t")]
        if not line.strip() or (number == 1 and cells[-1].lower() == "score"):
            continue
        if len(cells) != 3:
            bad(qrels_file, number, f"expected query, document and score. Received: {line!r:.80}.")
        query, document, score = cells
        _judge(qrels_file, number, query, document, queries, corpus, qrels)
        try:
            qrels[query][document] = int(score)
        except ValueError:
            bad(qrels_file, number, f"expected a whole number for the score. Received: {score!r}.")
    if not qrels:
        bad(qrels_file, 1, "there are no judgements in this file.")
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
    corpus = {str(number): code for code, number in codes.items()}
    if len(corpus) != len(codes):
        bad(codes_file, 1, "two functions have the same number.")
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number, row in enumerate(rows, 1):
        missing = {"idx", "doc", "retrieval_idx"} - row.keys()
        if missing:
            bad(queries_file, number, f"query {number} has no {', '.join(sorted(missing))}.")
        if not row.get("label", 1):
            continue
        query = str(row["idx"])
        if query in queries:
            bad(queries_file, number, f"the query id {query!r} occurs twice (query {number}).")
        queries[query] = str(row["doc"])
        _judge(queries_file, number, query, str(row["retrieval_idx"]), queries, corpus, qrels)
        qrels[query][str(row["retrieval_idx"])] = 1
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
            found = str(row.get("language") or language).lower()
            if LANGUAGES.get(found, found) != language:
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
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            bad(path, number, f"this is not JSON ({error.msg} at column {error.colno}).")
        if not isinstance(row, dict):
            bad(path, number, f"expected an object. Received: {line!r:.80}.")
        yield number, row


def _unique(path: Path, what: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    seen: dict[str, int] = {}
    for number, row in _objects(path):
        if "_id" not in row or not isinstance(row.get("text"), str):
            bad(path, number, f"expected `_id` and `text`. Received: {sorted(row)}.")
        key = str(row["_id"])
        if key in seen:
            bad(path, number, f"the {what} id {key!r} occurs twice, first in line {seen[key]}.")
        seen[key] = number
        yield key, row


def _judge(
    path: Path,
    line: int,
    query: str,
    document: str,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    qrels: dict[str, dict[str, int]],
) -> None:
    """Checks one judgement and makes room for it."""
    if query not in queries:
        bad(path, line, f"the judgement names a query {query!r} that does not exist.")
    if document not in corpus:
        bad(path, line, f"the judgement names a document {document!r} that does not exist.")
    if document in qrels.setdefault(query, {}):
        bad(path, line, f"query {query!r} and document {document!r} are judged twice.")


def _field(path: Path, line: int, row: Mapping[str, Any], names: Sequence[str]) -> str:
    found = [row[name] for name in names if isinstance(row.get(name), str)]
    if found:
        return str(found[0])
    return bad(path, line, f"expected `{names[0]}`. Received: {sorted(row)}.")


def _json(path: Path) -> Any:
    text = "\n".join(line for _, line in lines(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        bad(path, error.lineno, f"this is not JSON ({error.msg} at column {error.colno}).")
