"""Pairs from files, and to Parquet: what is read, and what a broken file is told."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.data import Pairs

LETTERS = st.characters(codec="utf-8", exclude_characters="\0\r")
TEXT = st.text(LETTERS, min_size=1).filter(lambda text: bool(text.strip()))
ROWS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t"), ("csv.gz", ",")])
@given(rows=ROWS)
def test_what_pythons_csv_writes_is_read(
    ending: str, delimiter: str, folder: Path, rows: list[tuple[str, str]]
) -> None:
    path = folder / f"pairs.{ending}"
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("question", "answer"), *rows])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    pairs = Pairs.from_csv(path, query="question", document="answer")
    assert list(zip(pairs["query"], pairs["document"], strict=True)) == rows


@given(rows=ROWS, gz=st.booleans())
def test_what_pythons_json_writes_is_read(
    folder: Path, rows: list[tuple[str, str]], gz: bool
) -> None:
    path = folder / ("pairs.jsonl.gz" if gz else "pairs.jsonl")
    for names in (("query", "document"), None):
        lines = [json.dumps(dict(zip(names, r, strict=True)) if names else r) for r in rows]
        data = "\n\n".join(lines).encode()
        path.write_bytes(gzip.compress(data) if gz else data)
        pairs = Pairs.from_jsonl(path)
        assert list(zip(pairs["query"], pairs["document"], strict=True)) == rows


@given(rows=ROWS)
def test_parquet_holds_what_was_written(folder: Path, rows: list[tuple[str, str]]) -> None:
    path = folder / "pairs.parquet"
    pairs = Pairs([{"query": q, "document": d, "negatives": [q], "score": 1} for q, d in rows])
    pairs.to_parquet(path)
    assert Pairs.from_parquet(path) == pairs
    assert [file.name for file in folder.iterdir() if file.name.startswith(".")] == []


def test_texts_stay_texts_whatever_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffquery,document,score,id\n1,NA,0.5,7\n2026-01-01,null,1,8\n", "utf-8")
    pairs = Pairs.from_csv(str(path))
    assert pairs["query"] == ["1", "2026-01-01"]
    assert pairs["document"] == ["NA", "null"]
    assert (pairs["score"], pairs["id"]) == ([0.5, 1.0], [7, 8])
    path.write_text('query;document;negative\n1;"a\n;b";3\n')
    pairs = Pairs.from_csv(path, delimiter=";", negatives="negative")
    assert list(pairs) == [{"query": "1", "document": "a\n;b", "negatives": ["3"]}]


def test_a_long_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("query,document\na," + "b" * (1 << 25) + "\nc,d\n")
    assert [len(text) for text in Pairs.from_csv(path)["document"]] == [1 << 25, 1]


def test_several_negatives(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "a", "document": "b", "n1": "c", "n2": "d"}\n'
                    '{"query": "a", "document": "b", "n1": "e"}\n')  # fmt: skip
    assert Pairs.from_jsonl(path, negatives=["n1", "n2"])["negatives"] == [["c", "d"], ["e"]]


def test_dictionaries_of_parquet_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array(["a", "b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"query": texts, "document": texts}), path)
    assert Pairs.from_parquet(path)["query"] == ["a", "b", "a"]


READERS: dict[str, Callable[..., Pairs]] = {
    "csv": Pairs.from_csv,
    "jsonl": Pairs.from_jsonl,
    "parquet": Pairs.from_parquet,
}


@pytest.mark.parametrize("kind", READERS)
def test_places_that_are_no_file(kind: str, tmp_path: Path) -> None:
    read = READERS[kind]
    with pytest.raises(FileNotFoundError, match=r"There is no file.*Check `path`"):
        read(tmp_path / f"none.{kind}")
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(TypeError, match=r"`path` should be a path. Received: 3"):
        read(3)
    with pytest.raises(TypeError, match="`path` should be a path"):
        read(None)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b"PAR1"])
def test_files_of_another_kind(kind: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.{kind}") as caught:
        READERS[kind](path)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"query,document\na,b\nc,d,e\n", "a.csv' cannot be read as CSV.*Expected 2"),
        ("a.csv", b"query,document\na\n", "cannot be read as CSV.*Expected 2 columns, got 1"),
        ("a.csv", b"query,document\na,\xff\n", "cannot be read as CSV.*[Uu][Tt][Ff]"),
        ("a.csv", b"query,document\na,\n", "a.csv': `document`.*Item 0 is empty or of white space"),
        ("a.csv", b"query,document\n", "a.csv': There are no pairs"),
        ("a.csv", b"query,query\na,b\n", "Several are called 'query'"),
        ("a.csv", b"question,answer\na,b\n", r'from_csv\(path, query="question", doc'),
        ("a.csv.gz", b"no gzip", "cannot be read as CSV"),
        ("a.csv.gz", gzip.compress(b"query,document\na,b\n" * 999)[:-20], "cannot be read as CSV"),
        ("a.jsonl", b'{"query": "a", "document": "b"}\n{"que', "as JSON lines: line 2: "),
        ("a.jsonl", b'{"query": "a", "document": "\xff"}\n', "line 1: .*utf-8"),
        ("a.jsonl", b"3\n", "line 1 is neither an object nor a list"),
        ("a.jsonl", b"\n\n", "it has no lines"),
        ("a.jsonl", b'["a", "b", "c"]\n', "row 0 is not two texts"),
        ("a.jsonl", b'{"query": "a", "document": null}\n', "`document`.*Item 0 is None"),
        ("a.jsonl", b'{"query": "a", "document": "\\ud800"}\n', "lone surrogate"),
        ("a.jsonl", b"[" * 100_000, "nested too deeply"),
        ("a.jsonl.gz", gzip.compress(b'["a", "b"]\n' * 999)[:-20], "cannot be read as JSON lines"),
        ("a.jsonl.gz", b"no gzip", "cannot be read as JSON lines"),
        ("a.jsonl", b'{"anchor": "a", "positive": "b"}', r'Pairs.from_jsonl\(path, query="anchor"'),
    ],
)  # fmt: skip
def test_broken_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    read = READERS[name.split(".")[1]]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        read(tmp_path / name)
    assert len(str(caught.value)) < 600


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    Pairs([("a", "b")] * 100).to_parquet(path)
    whole = path.read_bytes()
    for size in (0, 3, 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cannot be read as Parquet"):
            Pairs.from_parquet(path)


def test_bad_arguments(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("query,document\na,b\n")
    with pytest.raises(TypeError, match=r"takes the roles.*Received: 'answer'"):
        Pairs.from_csv(path, answer="document")
    with pytest.raises(ValueError, match="`delimiter` should be one character"):
        Pairs.from_csv(path, delimiter="::")
    with pytest.raises(ValueError, match=r"from_csv\(path, query='a'\) names a column that is not"):
        Pairs.from_csv(path, query="a")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        Pairs.from_csv(path).to_parquet(tmp_path / "none" / "a.parquet")
    with pytest.raises(ValueError, match="is a folder"):
        Pairs.from_csv(path).to_parquet(tmp_path)


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path):
    path = tmp_path / "open.csv"
    path.write_text('query,document\na,"b\nc,d\ne,f\n')
    with pytest.raises(ValueError, match=r"open.csv.*quote is never closed; with quoted=False"):
        Pairs.from_csv(path)
    assert Pairs.from_csv(path, quoted=False)["document"] == ['"b', "d", "f"]
    packed = tmp_path / "open.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match="never closed"):
        Pairs.from_csv(packed)


def test_one_quote_in_the_middle_of_a_field_is_a_letter(tmp_path):
    path = tmp_path / "inches.tsv"
    path.write_text('query\tdocument\nhow long?\t5" long\n"a ""b"""\tc\n')
    pairs = Pairs.from_csv(path)
    assert (pairs["query"], pairs["document"]) == (["how long?", 'a "b"'], ['5" long', "c"])
