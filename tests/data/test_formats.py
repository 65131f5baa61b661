"""Files of other tools and publishers, whole and broken, against what json and csv read of them."""

import contextlib
import csv
import gzip
import json
import os
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptk.data import Pairs, read_dpr, read_msmarco, read_nli, read_tevatron, reading

LETTERS = st.characters(codec="utf-8", exclude_characters="\0\r\n\t")
TEXT = st.text(LETTERS, min_size=1).filter(lambda text: text == text.strip() and bool(text))
TEXTS = st.lists(TEXT, max_size=4, unique=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def passage(text: str, title: str | None = None) -> dict[str, str]:
    return {"docid": "1", "text": text} | ({} if title is None else {"title": title})


# === Tevatron and DPR ===


def tevatron(query: str, positives: list[Any], negatives: list[Any]) -> dict[str, Any]:
    return {
        "query_id": "q",
        "query": query,
        "positive_passages": positives,
        "negative_passages": negatives,
    }


def dpr(query: str, positives: list[Any], negatives: list[Any]) -> dict[str, Any]:
    return {
        "question": query,
        "answers": ["yes"],
        "positive_ctxs": positives,
        "hard_negative_ctxs": negatives[:1],
        "negative_ctxs": negatives[1:],
    }


Row = Callable[[str, list[Any], list[Any]], dict[str, Any]]
PASSAGES = pytest.mark.parametrize(
    ("read", "row"), [(read_tevatron, tevatron), (read_dpr, dpr)], ids=["tevatron", "dpr"]
)


@PASSAGES
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.json.gz"])
@given(
    rows=st.lists(st.tuples(TEXT, TEXTS.filter(bool), TEXTS), min_size=1, max_size=5),
    titles=st.lists(st.sampled_from([None, "", "A title"]), min_size=1),
    pretty=st.booleans(),
    part=st.integers(1, 40),
)
def test_a_row_a_positive_with_the_negatives_of_the_query(
    read: Callable[..., Pairs], row: Row, name: str, folder: Path, rows: Any, titles: Any,
    pretty: bool, part: int,
) -> None:  # fmt: skip
    wanted, objects, number = [], [], 0

    def passages(texts: list[str]) -> list[dict[str, str]]:
        nonlocal number
        number += len(texts)
        return [passage(t, titles[(number + i) % len(titles)]) for i, t in enumerate(texts)]

    for query, positives, negatives in rows:
        right, wrong = passages(positives), passages(negatives)
        objects.append(row(query, right, wrong))
        full = [[f"{p.get('title', '')} {p['text']}".strip() for p in ps] for ps in (right, wrong)]
        unlike = [text for text in full[1] if text not in full[0]]
        wanted += [(query, text, unlike) for text in dict.fromkeys(full[0])]
    text = (
        jsonl(*objects) if name == "a.jsonl" else json.dumps(objects, indent=4 if pretty else None)
    )
    path = write(folder / f"{row.__name__}-{name}", text)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patch.setattr(reading, "PART", part)  # objects begin in one part and end in another
        pairs = read(path)
    found = zip(pairs["query"], pairs["document"], pairs["negatives"], strict=True)
    assert list(found) == wanted


@PASSAGES
def test_groups_and_negatives(read: Callable[..., Pairs], row: Row, tmp_path: Path) -> None:
    negatives = [passage("hard"), passage("n1", "T"), passage("n2", "")]
    rows = (
        row("how?", [passage("so", "T"), passage("thus")], negatives),
        row("why?", [passage("p")], []),
    )
    pairs = read(write(tmp_path / "a.jsonl", jsonl(*rows)))
    assert pairs.columns == ["query", "document", "negatives", "group"]
    assert pairs["document"] == ["T so", "thus", "p"]
    assert pairs["negatives"] == [["hard", "T n1", "n2"]] * 2 + [[]]
    assert pairs["group"] == (["q"] * 3 if row is tevatron else [0, 0, 1])
    assert read(tmp_path / "a.jsonl", max_negatives=1)["negatives"] == [["hard"], ["hard"], []]
    assert read(tmp_path / "a.jsonl", max_negatives=0)["negatives"] == [[], [], []]


@PASSAGES
def test_what_is_left_out_is_counted(read: Callable[..., Pairs], row: Row, tmp_path: Path) -> None:
    rows = [
        row("how?", list(map(passage, ["a", "a", " "])), list(map(passage, ["a", "", "b"]))),
        row(" ", [passage("a")], []),
        row("why?", [], [passage("c")]),
    ]
    with pytest.warns(UserWarning, match="left out 1 ") as caught:
        pairs = read(write(tmp_path / "a.jsonl", jsonl(*rows)))
    (warning,) = caught
    assert warning.filename == __file__
    assert list(pairs.to_arrow().drop(["group"]).to_pylist()) == [
        {"query": "how?", "document": "a", "negatives": ["b"]}
    ]
    for what in (
        "1 empty queries",
        "1 empty positives",
        "1 empty negatives",
        "1 positives given before",
        "1 queries without a positive",
        "1 negatives equal to a positive",
    ):
        assert what in str(warning.message)


def test_dpr_without_lists_of_negatives_and_with_titles_of_null(tmp_path: Path) -> None:
    row = {"question": "how?", "positive_ctxs": [{"title": None, "text": "so"}]}
    row["negative_ctxs"] = None
    pairs = read_dpr(write(tmp_path / "a.json", json.dumps([row])))
    assert list(pairs) == [{"query": "how?", "document": "so", "negatives": [], "group": 0}]


def test_a_list_of_many_objects_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    row = json.dumps(dpr("how?", [passage("so")], [passage("x" * 1000)] * 100))
    with gzip.open(path, "wt") as file:
        file.write("[" + ",\n".join([row] * 500) + "]")
    tracemalloc.start()
    try:
        pairs = read_dpr(path, max_negatives=1)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(pairs) == 500
    assert most < 20e6 < 500 * len(row)


def lacking(row: dict[str, Any], key: str) -> str:
    return jsonl({name: value for name, value in row.items() if name != key})


ONE = tevatron("how?", [passage("so")], [])
TWO = dpr("how?", [passage("so")], [])


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_tevatron, lacking(ONE, "query"), "line 1 has no `query`; its keys: "),
        (read_tevatron, lacking(ONE, "query_id"), "line 1 has no `query_id`"),
        (read_tevatron, "\n" + lacking(ONE, "positive_passages"), "line 2 has no `positive_pass"),
        (read_tevatron, lacking(ONE, "negative_passages"), "line 1 has no `negative_passages`"),
        (read_tevatron, jsonl(ONE | {"query": 3}), "line 1: `query` should be a text, not 3"),
        (read_tevatron, jsonl(ONE | {"query_id": None}), "`query_id` should be a text or an int"),
        (read_tevatron, jsonl(ONE, ONE | {"positive_passages": "so"}), "line 2: `pos.*should be a"),
        (read_tevatron, jsonl(ONE | {"positive_passages": ["so"]}), "`title` and `text`, not 'so'"),
        (read_tevatron, jsonl(ONE | {"positive_passages": [{"text": None}]}), "hold objects with"),
        (read_tevatron, jsonl(ONE | {"query": "\ud800"}), "line 1: `query`.*lone surrogates"),
        (read_tevatron, jsonl(ONE)[:-9], "line 1: this is no JSON, Unterminated|Expecting"),
        (read_tevatron, jsonl(ONE)[:-9] + "\n" + jsonl(ONE), "line 1: this is no JSON"),
        (read_tevatron, jsonl(ONE) + "3\n", "line 2 holds no object: 3"),
        (read_tevatron, jsonl(ONE) + "[" * 100_000, "line 2"),
        (read_tevatron, '{"a": ' + "[" * 100_000, "line 1: nested too deeply"),
        (read_tevatron, '{"a": ' + "1" * 5000 + "}", "line 1: .*digits"),
        (read_tevatron, "", "holds no pairs. Check"),
        (read_tevatron, "[]", "holds no pairs. Check"),
        (read_dpr, lacking(TWO, "question"), "as DPR's JSON: line 1 has no `question`"),
        (read_dpr, lacking(TWO, "positive_ctxs"), "line 1 has no `positive_ctxs`"),
        (read_dpr, json.dumps([TWO, TWO | {"negative_ctxs": 3}]), "line 1: `negative_ctxs`"),
        (read_dpr, "[" + jsonl(TWO), "line 2: the list is never closed"),
        (read_dpr, json.dumps([TWO]) + "\n[]", "line 2: there is more after the end"),
        (read_dpr, json.dumps([TWO] * 9, indent=1)[:-200], "this is no JSON"),
        (read_dpr, json.dumps([TWO | {"positive_ctxs": []}]), r"left out: 1 queries without a pos"),
    ],
)  # fmt: skip
def test_broken_passages(
    read: Callable[..., Pairs], text: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.json", text)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert "a.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


# === MS MARCO ===

TRIPLE = st.tuples(*[st.sampled_from(["a", "b", "c", "ä 'quoted\" d"])] * 3)


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@given(rows=st.lists(TRIPLE, min_size=1, max_size=20), most=st.none() | st.integers(0, 3))
def test_triples(name: str, folder: Path, rows: list[tuple[str, ...]], most: int | None) -> None:
    path = write(folder / name, "\n".join("\t".join(row) for row in rows))
    wanted: dict[tuple[str, str], list[str]] = {}
    for query, positive, negative in rows:
        wanted.setdefault((query, positive), []).extend([negative] * (negative != positive))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        gathered = read_msmarco(path, max_negatives=most)
        single = read_msmarco(path, gather=False)
    assert gathered.columns == single.columns == ["query", "document", "negatives"]
    assert list(zip(gathered["query"], gathered["document"], strict=True)) == list(wanted)
    assert gathered["negatives"] == [negatives[:most] for negatives in wanted.values()]
    assert single["negatives"] == [[n] * (n != p) for _, p, n in rows]


def test_negatives_that_are_not_kept_take_no_memory(tmp_path: Path) -> None:
    lines = [f"q\tp\t{number} {'x' * 1000}\n" for number in range(20_000)]
    path = write(tmp_path / "a.tsv", "".join(lines))
    del lines
    tracemalloc.start()
    try:
        pairs = read_msmarco(path, max_negatives=2)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(negatives) for negatives in pairs["negatives"]] == [2]
    assert most < 5e6 < path.stat().st_size


@pytest.mark.parametrize("gather", [True, False])
def test_triples_left_out_are_counted(gather: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "q\tp\tp\nq\tp\t\nq\tp\tn\n\n \tp\tn\nq\t \tn\r\n")
    with pytest.warns(UserWarning, match="1 negatives equal to a positive") as caught:
        pairs = read_msmarco(path, gather=gather)
    for what in ("1 empty negatives", "1 empty queries", "1 empty positives"):
        assert what in str(caught[0].message)
    assert pairs["negatives"] == ([["n"]] if gather else [[], [], ["n"]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q\tp\n", "line 1 should be query, positive and negative.* It has 2 fields"),
        ("q\tp\tn\n\nq\tp\tn\tm\n", "line 3 should be .* It has 4 fields"),
        ("12\t34\t56\n", "it holds ids in place of texts"),
        ("", "holds no pairs. Check"),
        (" \tp\tn\n", r"holds no pairs \(left out: 1 empty queries\)"),
    ],
)
def test_broken_triples(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_msmarco(write(tmp_path / "a.tsv", text))


# === NLI ===

LABELS = ["entailment", "neutral", "contradiction"]
SENTENCE = st.sampled_from(["It rains.", 'It\'s "dry", he said.', "ä ö", "No, never.", "Maybe"])
NLI = st.lists(st.tuples(SENTENCE, SENTENCE, st.sampled_from([*LABELS, "-"])), min_size=1)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "txt", "tsv.gz", "csv", "csv.gz"])
@given(rows=NLI)
def test_premises_with_what_they_entail(
    ending: str, folder: Path, rows: list[tuple[str, str, str]]
) -> None:
    path = folder / f"snli.{ending}"
    names = ["sentence1", "sentence2", "gold_label"]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    if ending.startswith("csv"):
        opened = gzip.open if ending.endswith("gz") else open
        with opened(path, "wt", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([names, *rows])
    elif ending.startswith("json"):
        write(path, json.dumps(records) if ending == "json" else jsonl(*records))
    else:
        write(path, "\n".join("\t".join(row) for row in [names, *rows]) + "\n")
    wanted = []
    premises = list(dict.fromkeys(p for p, _, label in rows if label in LABELS))
    for number, premise in enumerate(premises):
        by_label = {
            wanted_label: [h for p, h, label in rows if (p, label) == (premise, wanted_label)]
            for wanted_label in LABELS
        }
        right = list(dict.fromkeys(by_label["entailment"]))
        wrong = [text for text in by_label["contradiction"] if text not in right]
        wanted += [
            {"query": premise, "document": text, "negatives": wrong, "group": number}
            for text in right
        ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if wanted:
            assert list(read_nli(path)) == wanted
        else:
            with pytest.raises(ValueError, match="holds no pairs"):
                read_nli(path)


def test_columns_and_labels_as_hugging_face_has_them(tmp_path: Path) -> None:
    rows = [("p", "yes", 0), ("p", "maybe", 1), ("p", "no", 2), ("p", "?", -1)]
    names = ["premise", "hypothesis", "label"]
    text = jsonl(*(dict(zip(names, row, strict=True)) for row in rows))
    with pytest.warns(UserWarning, match="left out 1 rows without a label"):
        pairs = read_nli(write(tmp_path / "a.jsonl", text))
    assert list(pairs) == [{"query": "p", "document": "yes", "negatives": ["no"], "group": 0}]


def test_one_split_of_allnli(tmp_path: Path) -> None:
    text = "split\tdataset\tsentence1\tsentence2\tlabel\n"
    for split in ("train", "dev"):
        text += "".join(f"{split}\tSNLI\tp\t{split} {label}\t{label}\n" for label in LABELS)
    path = write(tmp_path / "AllNLI.tsv.gz", text)
    assert read_nli(path)["document"] == ["train entailment"]
    assert read_nli(path, split="dev")["negatives"] == [["dev contradiction"]]
    with pytest.raises(ValueError, match=r"no split 'test' but \['dev', 'train'\]"):
        read_nli(path, split="test")


def test_premises_that_entail_nothing_are_counted(tmp_path: Path) -> None:
    text = "gold_label,sentence1,sentence2\nentailment,p,h\ncontradiction,p,h\nneutral,o,n\n"
    with pytest.warns(
        UserWarning, match="1 negatives equal to a positive, 1 queries without a pos"
    ):
        pairs = read_nli(write(tmp_path / "a.csv", text))
    assert (pairs["query"], pairs["negatives"]) == (["p"], [[]])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "label\tsentence1\n0\tp\n", "line 2 has no `sentence2` or `hypothesis`"),
        ("a.txt", "sentence1\tsentence2\tlabel\np\th\n", "line 2 has no `gold_label` or `label`"),
        ("a.txt", "sentence1\tsentence2\tlabel\np\th\t0\tx\n", "line 2 has 4 fields, and there"),
        ("a.txt", "sentence1\tsentence2\tlabel\np\th\tyes\n", "line 2: the label 'yes' is not"),
        ("a.csv", 'sentence1,sentence2,label\np,"h,0\nq,h,0\n', "line 3: .* never closed"),
        ("a.jsonl", '{"sentence1": "p", "sentence2": 3, "label": 0}', "`sentence2` should be a t"),
        ("a.jsonl", '{"sentence1": "\\ud800", "sentence2": "h", "label": 0}', "lone surrogates"),
        ("a.jsonl", '{"sentence1": "p", "sentence2', "line 1: this is no JSON"),
        ("a.txt", "", "holds no pairs. Check"),
        ("a.csv", "sentence1,sentence2,label\n", "holds no pairs. Check"),
        ("a.csv", "sentence1,sentence2,label\np,h,2\n", "left out: 1 queries without a positive"),
    ],
)
def test_broken_nli(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_nli(write(tmp_path / name, text))
    assert name in str(caught.value)


# === Of all readers ===

READERS = pytest.mark.parametrize("read", [read_tevatron, read_dpr, read_msmarco, read_nli])
NAMES = "sentence1\tsentence2\tlabel\n"
WHOLE: dict[Callable[..., Pairs], tuple[str, str]] = {
    read_tevatron: ("a.jsonl", jsonl(*[tevatron("q", [passage(str(i))], []) for i in range(999)])),
    read_dpr: ("a.json", json.dumps([dpr("q", [passage(str(i))], []) for i in range(999)])),
    read_msmarco: ("a.tsv", "".join(f"q\tp{i}\tn{i}\n" for i in range(999))),
    read_nli: ("a.txt", NAMES + "".join(f"p{i}\th\t0\n" for i in range(999))),
}


@READERS
def test_bad_arguments(read: Callable[..., Pairs], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file.*Check `path`"):
        read(tmp_path / "none.tsv")
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(TypeError, match=r"`path` should be a path. Received: 3"):
        read(3)
    path = write(tmp_path / WHOLE[read][0], WHOLE[read][1])
    with pytest.raises(
        TypeError, match=r"`max_negatives` should be an integer of 0 or more, or None"
    ):
        read(path, max_negatives="all")
    with pytest.raises(ValueError, match="`max_negatives` should be an integer of 0"):
        read(path, max_negatives=-1)
    if read is read_msmarco:
        with pytest.raises(TypeError, match=r"`gather` should be True or False. Received: 'no'"):
            read(path, gather="no")
    if read is read_nli:
        with pytest.raises(TypeError, match=r"`split` should be a string. Received: None"):
            read(path, split=None)


@READERS
def test_whole_and_broken_off(read: Callable[..., Pairs], tmp_path: Path) -> None:
    name, text = WHOLE[read]
    path = write(tmp_path / name, "\ufeff" + text)
    packed = write(tmp_path / (name + ".gz"), text)
    assert read(path) == read(packed)
    assert len(read(path)) == 999
    whole = packed.read_bytes()
    for broken in (whole[:-20], whole[: len(whole) // 2], b"no gzip", b""):
        packed.write_bytes(broken)
        with pytest.raises(ValueError, match=r"a\.\w+\.gz.*(cannot be read as|holds no pairs)"):
            read(packed)
    for garbage in (b"\xff\xfe\x00", b"\x80\x04}.", text.encode()[:40] + b"\xff" + text.encode()):
        path.write_bytes(garbage)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
            read(path)
        assert len(str(caught.value)) < 600


@READERS
@given(garbage=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_garbage_is_a_value_error(read: Callable[..., Pairs], garbage: bytes, folder: Path) -> None:
    path = folder / WHOLE[read][0]
    path.write_bytes(garbage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with contextlib.suppress(ValueError):
            read(path)


# === What `Pairs` reads already ===


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_triplets_of_sentence_transformers(ending: str, tmp_path: Path) -> None:
    names = ["anchor", "positive", "negative_1", "negative_2"]
    rows = [("a", "b", "c", "d"), ("e", "f", "g", None)]
    path = tmp_path / f"triplets.{ending}"
    if ending == "parquet":
        columns = [list(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
    elif ending == "jsonl":
        write(path, jsonl(*(dict(zip(names, row, strict=True)) for row in rows)))
    else:
        with path.open("w", newline="") as file:
            delimiter = "\t" if ending == "tsv" else ","
            csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    read = {"jsonl": Pairs.from_jsonl, "parquet": Pairs.from_parquet}.get(ending, Pairs.from_csv)
    several = read(
        path, query="anchor", document="positive", negatives=["negative_1", "negative_2"]
    )
    assert several["negatives"] == [["c", "d"], ["g"]]
    one = read(path, query="anchor", document="positive", negatives="negative_2")
    assert one["negatives"] == [["d"], []]
    assert one["document"] == ["b", "f"]


def test_a_list_of_negatives(tmp_path: Path) -> None:
    rows = [{"anchor": "a", "positive": "b", "negative": ["c", "d"]},
            {"anchor": "e", "positive": "f", "negative": []}]  # fmt: skip
    names = {"query": "anchor", "document": "positive", "negatives": "negative"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for pairs in (
        Pairs.from_jsonl(write(tmp_path / "a.jsonl", jsonl(*rows)), **names),
        Pairs.from_parquet(tmp_path / "a.parquet", **names),
    ):
        assert pairs["negatives"] == [["c", "d"], []]


def test_scores_are_kept(tmp_path: Path) -> None:
    path = write(
        tmp_path / "sts.csv", 'sentence1,sentence2,score\n"a, b",c,5\nd,e,0.25\nf,g,-3e2\n'
    )
    pairs = Pairs.from_csv(path, query="sentence1", document="sentence2")
    assert (pairs["query"][0], pairs["score"]) == ("a, b", [5.0, 0.25, -300.0])
    write(path, "sentence1,sentence2,score\na,b,\nc,d,1\n")
    with pytest.raises(ValueError, match=r"`score` should hold finite numbers. Item 0 is missing"):
        Pairs.from_csv(path, query="sentence1", document="sentence2")


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "sts.csv", "a,b,1\nc,d,2.5\n")
    pairs = Pairs.from_csv(path, header=["query", "document", "score"])
    assert (pairs["query"], pairs["score"]) == (["a", "c"], [1.0, 2.5])
    named = Pairs.from_csv(path, header=["one", "two", "score"], query="two", document="one")
    assert named["query"] == ["b", "d"]
    with pytest.raises(ValueError, match="Expected 2 columns, got 3"):
        Pairs.from_csv(path, header=["query", "document"])
    with pytest.raises(TypeError, match="`header` should be a sequence of strings"):
        Pairs.from_csv(path, header="query")
    with pytest.raises(ValueError, match="Several are called 'query'"):
        Pairs.from_csv(path, header=["query", "document", "query"])


DATA = Path(os.environ.get("CPTK_DATA_DIR") or "none")


@pytest.mark.skipif(not (DATA / "STS-B").is_dir(), reason="Needs STS-B in CPTK_DATA_DIR")
def test_the_sts_benchmark() -> None:
    path = DATA / "STS-B" / "dev.csv"
    pairs = Pairs.from_csv(path, header=["query", "document", "score"])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [(r["query"], r["document"], r["score"]) for r in pairs] == [
        (one, two, float(score)) for one, two, score in rows
    ]
