"""Every publisher's format, whole and broken, in a data folder laid out as people lay it out."""

import bz2
import csv
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cptk
from cptk import datasets
from cptk.datasets import files, parsers, rotten_tomatoes

NO_NETWORK = {"download": False}


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Writes files below a data folder and points CPTK_DATA_DIR at it."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("CPTK_DATA_DIR", str(root))

    def write(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write


def load(name, split=None):
    return datasets.load(name, split, **NO_NETWORK)


# Labelled texts.


@pytest.mark.parametrize(
    ("name", "split", "file", "content"),
    [
        ("sst2", "test", "SST-2/test.tsv", 'sentence\tlabel\nso bad \t0\n"fine" it \'s\t1\n'),
        ("sst2", "dev", "sst2/dev.tsv", 'sentence\tlabel\r\nso bad\t0\r\n"fine" it \'s\t1\r\n'),
        ("sst2", "test", "SST/binary/sentiment-test", 'so bad\t0\n"fine" it \'s\t1\n'),
        ("sst2", "test", "sst_2/stsa.binary.test", '0\tso bad\n1\t"fine" it \'s\n'),
        (
            "SST-2",
            "train",
            "SST-2/a/train.tsv",
            'label\tsentence\nneg\tso bad\npos\t"fine" it \'s\n',
        ),
        (
            "sst2_phrases",
            "train",
            "SST-2-GLUE/train.tsv",
            'sentence\tlabel\nso bad \t0\n"fine" it \'s \t1',
        ),
        ("mr", None, "mr/all.tsv", 'sentence\tlabel\nso bad\t-1\n"fine" it \'s\t1\n'),
        ("cr", None, "CR/all.tsv", 'sentence\tlabel\nso bad\t0.0\n"fine" it \'s\t1.0\n\n'),
        (
            "cr",
            None,
            "customer_reviews/cr.tsv",
            'text\tclass\nso bad\tNegative\n"fine" it \'s\tPOSITIVE\n',
        ),
        ("mpqa", None, "senteval/MPQA/all.tsv", 'sentence\tlabel\nso bad\t0\n"fine" it \'s\t1\n'),
    ],
)
def test_labeled_tsv(put, name, split, file, content):
    put({file: content})
    record = load(name, split)
    assert record.texts == ["so bad", '"fine" it \'s']
    assert record.labels == [0, 1]
    assert record.label_names == ("negative", "positive")


def test_folders_are_searched_best_first(put):
    put(
        {
            "glue/SST-2/dev.tsv": "sentence\tlabel\nglue\t1\n",
            "SST-2/deep/dev.tsv": "sentence\tlabel\ndeep\t1\n",
            "SST-2/dev.tsv": "sentence\tlabel\nnear\t1\n",
            "mrx/all.tsv": "sentence\tlabel\nno\t1\n",
        }
    )
    assert load("sst2", "validation").texts == ["near"]
    assert datasets.available_splits("sst2") == ["validation"]
    assert datasets.available_splits("mr") == []


def test_only_newlines_end_a_line(put):
    put({"MR/all.tsv": "\ufeffsentence\tlabel\nhmmm\x85might i\u2028so\t0\n"})
    assert load("mr").texts == ["hmmm\x85might i\u2028so"]


@pytest.mark.parametrize(
    ("name", "files", "names"),
    [
        ("cr", {"CR/custrev.pos": "good\n", "CR/custrev.neg": "bad\n"}, ("negative", "positive")),
        ("mpqa", {"MPQA/mpqa.pos": "good\n", "MPQA/mpqa.neg": "bad\n"}, ("negative", "positive")),
        (
            "mr",
            {"MR/rt-polarity.pos": "good\n", "MR/rt-polarity.neg": "bad\n"},
            ("negative", "positive"),
        ),
        (
            "subj",
            {"SUBJ/subj.objective": "good\n", "SUBJ/subj.subjective": "bad\n"},
            ("subjective", "objective"),
        ),
        (
            "subj",
            {"rotten_imdb/plot.tok.gt9.5000": "good\n", "rotten_imdb/quote.tok.gt9.5000": "bad\n"},
            ("subjective", "objective"),
        ),
    ],
)
def test_one_file_per_class(put, name, files, names):
    put(files)
    record = load(name)
    assert (record.texts, record.labels, record.label_names) == (["bad", "good"], [0, 1], names)


def test_class_files_in_latin_1(put):
    put({"MR/rt-polarity.neg": "clich\xe9s\n".encode("latin-1"), "MR/rt-polarity.pos": "café\n"})
    assert load("mr").texts == ["clichés", "café"]


def test_trec_in_both_formats(put):
    put(
        {
            "TREC/train.tsv": "sentence\tlabel\nHow ?\tDESC\nWho ?\tHUM:ind\nHow far ?\t5\n",
            "TREC/TREC_10.label": "NUM:dist How far is it ?\nABBR:exp What is caf\xe9 ?\n".encode(
                "latin-1"
            ),
        }
    )
    assert load("trec", "train").labels == [0, 3, 5]
    record = load("trec")
    assert record.texts == ["How far is it ?", "What is café ?"]
    assert [record.label_names[label] for label in record.labels] == ["NUM", "ABBR"]


def test_glue_test_set_is_refused(put):
    put({"SST-2/test.tsv": "index\tsentence\n0\tuneasy\n", "MRPC/test.tsv": "index\t#1 ID\n0\t1\n"})
    with pytest.raises(ValueError, match=r"test\.tsv, line 1: there are no labels.*GLUE keeps"):
        load("sst2", "test")
    with pytest.raises(ValueError, match=r"test\.tsv, line 1: there are no labels.*GLUE keeps"):
        load("mrpc", "test")


def test_glue_phrases_do_not_pass_for_sentences(put):
    put({"SST-2/train.tsv": "sentence\tlabel\n" + "a bit\t1\n" * 10_001})
    with pytest.raises(ValueError, match=r"10,001 rows are too many.*'sst2_phrases'"):
        load("sst2", "train")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("sentence\tlabel\ngood\t1\nbad\n", r"line 3: expected 2 columns\. Received 1\."),
        ("sentence\tlabel\ngood\t\n", r"line 2: expected a label, 0 to 1 or one of .*Received: ''"),
        ("sentence\tlabel\ngood\t2\n", r"line 2: expected a label.*Received: '2'"),
        ("sentence\tlabel\ngood\t0.5\n", r"line 2: expected a label.*Received: '0\.5'"),
        ("sentence\tlabel\ngood\tnan\n", r"line 2: expected a label.*Received: 'nan'"),
        ("sentence\tlabel\n \t1\n", r"line 2: the text is empty"),
        ("sentence\tlabel\na\t-1\nb\t0\n", r"line 2: labels are 0 and 1, or -1 and 1"),
        ("", r"line 1: the file is empty"),
        ("<!DOCTYPE html>\n<html>", r"line 1: this is an HTML page"),
        ("version https://git-lfs.github.com/spec/v1\n", r"line 1: this is a Git LFS pointer"),
        (b"sentence\tlabel\ncaf\xe9 au lait\t1\n", r"line 2: byte 0xe9 at column 4 is not UTF-8"),
        ("sentence\tlabel\ngood\t1\n".encode("utf-16"), r"line 1: this is UTF-16"),
        ("sentence\tlabel\ngood\t1\n".encode("utf-16-le"), r"line 1: it holds a null character"),
        ("sentence\tlabel\n", r"line 1: there is a header and no row below it"),
        ("sentence\tlabel\n\n\n", r"line 1: there is a header and no row below it"),
        ("sentence\tlabel\ngood\t0_1\n", r"line 2: expected a label.*Received: '0_1'"),
        ("sentence\tlabel\ngood\t\u0661\n", r"line 2: expected a label.*Received: '\u0661'"),
        ("sentence\tlabel\n\u00a0\t1\n", r"line 2: the text is empty"),
    ],
)
def test_broken_labeled_tsv(put, content, match):
    put({"CR/all.tsv": content})
    with pytest.raises(ValueError, match=r"all\.tsv, " + match):
        load("cr")


def test_broken_trees_and_trec(put):
    put({"SST/test.txt": "(3 (2 It) (4 good)\n", "TREC/TREC_10.label": "NUM:dist\n"})
    with pytest.raises(ValueError, match=r"test\.txt, line 1: expected one tree"):
        load("sst2", "test")
    with pytest.raises(ValueError, match=r"TREC_10\.label, line 1: expected `CLASS:fine question`"):
        load("trec")


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("cr", "CR/all.tsv", "sentence\tlabel\ngood\t" + "x" * 1_000_000),
        ("cr", "CR/all.tsv", "sentence\t" + "x" * 1_000_000 + "\n1\t2"),
        ("trec", "TREC/TREC_10.label", "x" * 1_000_000),
        ("sst2", "SST/test.txt", "x" * 1_000_000),
        ("stsb", "STS-B/test.csv", "a,b," + "x" * 1_000_000),
        ("stsb", "STS-B/test.csv", 'a,"' + "x" * 1_000_000),
        ("sick", "SICK/SICK_test.txt", "x" * 1_000_000 + "\n1"),
        ("mine", "mine/qrels/test.tsv", "x" * 1_000_000),
        ("mine", "mine/qrels/test.tsv", "q1\td1\t" + "1" * 1_000_000),
        ("mine", "mine/corpus.jsonl", '["' + "x" * 1_000_000 + '"]'),
        ("mine", "mine/corpus.jsonl", '{"' + "x" * 1_000_000 + '": 1}'),
    ],
)
def test_messages_are_short(put, name, file, content):
    put({f"mine/{name}": text for name, text in BEIR.items()})
    put({file: content})
    with pytest.raises(ValueError, match=Path(file).name) as caught:
        load(name)
    assert len(str(caught.value)) < 800


def test_lines_have_an_end(put, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    put({"MR/all.tsv.gz": gzip.compress(b"sentence\tlabel\n" + b"x" * 1001 + b"\t1\n")})
    with pytest.raises(ValueError, match=r"all\.tsv\.gz, line 2: it is longer than"):
        load("mr")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_bomb_is_not_read_to_its_end(put, pack, monkeypatch):
    monkeypatch.setattr(files, "FLOOR", 1 << 20)
    ending = "gz" if pack is gzip.compress else "bz2"
    root = put({f"MR/a.txt.{ending}": pack((b"x" * 1000 + b"\n") * 2000)})
    with pytest.raises(ValueError, match="line 1048: the file unpacks to more than a text can"):
        list(files.lines(root / f"MR/a.txt.{ending}", latin1=True))


def test_packed_class_files_are_utf_8_where_they_can_be(put):
    put(
        {
            "MR/rt-polarity.neg.gz": gzip.compress("café\n".encode()),
            "MR/rt-polarity.pos.gz": gzip.compress("café\n".encode("latin-1")),
        }
    )
    assert load("mr").texts == ["café", "café"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_wide_encodings_do_not_pass_for_latin_1(put, encoding):
    text = "so bad\n".encode(encoding)
    put({"MR/rt-polarity.neg": text, "MR/rt-polarity.pos": text})
    with pytest.raises(ValueError, match=r"rt-polarity\.neg, line 1: .*(UTF-16|null character)"):
        load("mr")


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder, and a file was expected"):
        next(files.lines(tmp_path))
    with pytest.raises(ValueError, match="is a folder, and a file was expected"):
        parsers.labeled_tsv([tmp_path], ("no", "yes"))


CELLS = st.lists(st.text('ab ,"\n', max_size=6), min_size=2, max_size=3)


@given(st.lists(CELLS, max_size=4), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_csv_is_pythons(tmp_path_factory, rows, quoting):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=quoting, lineterminator="\n").writerows(rows)
    assert [cells for _, cells in files.csv_rows(path)] == rows


def test_csv_by_hand(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa,"b ""c"" \r\n d"e\r\n\r\n,x"y\n"",')
    assert list(files.csv_rows(path)) == [
        (1, ["a", 'b "c" \n de']),
        (4, ["", 'x"y']),
        (5, ["", ""]),
    ]
    path.write_text("a,b\nc," + '"never closed,\n1,2\n')
    with pytest.raises(ValueError, match=r"line 2: a quote is opened and never closed"):
        list(files.csv_rows(path))


def test_long_cells_of_csv_are_read_and_the_limit_of_csv_is_left_alone(put):
    limit = csv.field_size_limit()
    put({"STS-B/test.csv": f'{"a" * 200_000},"{"b" * 200_000}",2.5\n'})
    record = load("stsb")
    assert (len(record.first[0]), len(record.second[0])) == (200_000, 200_000)
    assert csv.field_size_limit() == limit


# Pairs.

MRPC = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    '1\t1\t2\t"It\'s big," he said.\tBig "it" is.\r\n0\t3\t4\tA\tB\r\n'
)


def test_mrpc(put):
    put({"MRPC/msr_paraphrase_test.txt": MRPC, "mrpc/x": ""})
    record = load("mrpc")
    assert record.first == ['"It\'s big," he said.', "A"]
    assert record.second == ['Big "it" is.', "B"]
    assert record.labels == [1, 0]
    assert datasets.available_splits("mrpc") == ["test"]


def test_broken_mrpc(put):
    put({"MRPC/msr_paraphrase_test.txt": MRPC + "1\t5\t6\tcut sho"})
    with pytest.raises(ValueError, match=r"line 4: expected 5 columns\. Received 4"):
        load("mrpc")
    put({"MRPC/msr_paraphrase_test.txt": MRPC.replace("\n0", "\nyes")})
    with pytest.raises(ValueError, match=r"line 3: expected Quality 0 or 1\. Received: 'yes'"):
        load("mrpc")


@pytest.mark.parametrize("folder", ["STS/2015", "sts15", "STS2015", "STS/STS15"])
def test_sts_tsv(put, folder):
    put(
        {
            f"{folder}/images.tsv": '5.0\ta "b\tc\n\td\te\n',
            f"{folder}/Belief.tsv": "0\tf\tg\n",
            f"{folder}/README.txt": "x",
        }
    )
    record = load("sts15")
    assert record.first == ["f", 'a "b']
    assert record.second == ["g", "c"]
    assert record.scores == [0.0, 5.0]
    assert record.subsets == ["Belief", "images"]


@pytest.mark.parametrize("prefix", ["STS", "STS2016"])
def test_sts_in_semevals_files(put, prefix):
    put(
        {
            f"STS16/in/{prefix}.input.headlines.txt": "a\tb\tsource\tsource\nc\td\n",
            f"STS16/in/{prefix}.gs.headlines.txt": "\n2.5\n",
            f"STS16/in/{prefix}.gs.ALL.txt": "2.5\n",
        }
    )
    record = load("sts16")
    assert (record.first, record.second) == (["c"], ["d"])
    assert (record.scores, record.subsets) == ([2.5], ["headlines"])


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (
            {"a.tsv": "5.1\ta\tb\n"},
            r"a\.tsv, line 1: expected a score from 0 to 5\. Received: 5\.1",
        ),
        ({"a.tsv": "1\ta\tb\nnan\ta\tb\n"}, r"line 2: expected a score.*Received: nan"),
        ({"a.tsv": "good\ta\tb\n"}, r"line 1: expected a score.*Received: 'good'"),
        ({"a.tsv": "1_0\ta\tb\n"}, r"line 1: expected a score.*Received: '1_0'"),
        ({"a.tsv": "1\ta\t \n"}, r"line 1: one of the two texts is empty"),
        ({"a.tsv": "\ta\tb\n"}, r"a\.tsv: no row of the split 'test'"),
        ({"a.tsv": "", "b.tsv": "1\ta\tb\n"}, r"a\.tsv, line 1: the file is empty"),
        ({"a.tsv": "score\ta\tb\n"}, r"a\.tsv: no row of the split 'test'"),
        ({"a.tsv": "1\ta\n"}, r"line 1: expected `score.*Received 2 columns"),
        ({"STS.input.a.txt": "a\tb\n", "STS.gs.a.txt": "1\n2\n"}, r"2 scores for 1 pairs"),
        (
            {"STS.input.a.txt": "a\tb\n", "STS.gs.b.txt": "1\n"},
            r"no file of sentences, STS\.input\.b",
        ),
        ({"STS.input.a.txt": "a b\n", "STS.gs.a.txt": "1\n"}, r"line 1: expected two sentences"),
    ],
)
def test_broken_sts(put, files, match):
    put({f"STS/2012/{name}": content for name, content in files.items()})
    with pytest.raises(ValueError, match=match):
        load("sts12")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("STS-B/test.csv", 'A man.,"One, two ""three"".",2.5\nc,d,0\n'),
        (
            "stsbenchmark/sts-test.csv",
            'main-news\theadlines\t2015\t0001\t2.5\tA man.\tOne, two "three".\tx\n'
            "g\tf\t1\t2\t0\tc\td\n",
        ),
        (
            "STSB/stsb-en-test.csv",
            'sentence1,sentence2,score\nA man.,"One, two ""three"".",2.5\nc,d,0\n',
        ),
        (
            "STS-B/test.tsv",
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
            '0\tg\tf\ty\t1\tn\tn\tA man.\tOne, two "three".\t2.5\n1\tg\tf\ty\t1\tn\tn\tc\td\t0\n',
        ),
    ],
)
def test_sts_benchmark(put, file, content):
    put({file: content})
    record = load("stsb")
    assert record.first == ["A man.", "c"]
    assert record.second == ['One, two "three".', "d"]
    assert record.scores == [2.5, 0.0]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a,b,1\nc,d,\n", r"line 2: the score is empty, and every pair"),
        ("a,b\n", r"line 1: expected at least 3 columns\. Received 2"),
        ("a,b,6\n", r"line 1: expected a score from 0 to 5"),
        ("sentence1,sentence2,score\n", r"test\.csv: no row of the split"),
    ],
)
def test_broken_sts_benchmark(put, content, match):
    put({"STS-B/test.csv": content})
    with pytest.raises(ValueError, match=match):
        load("stsb")


SICK = (
    "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    "1\ta\tb\t4.5\tNEUTRAL\n"
)


def test_sick(put):
    root = put({"SICK/SICK_test_annotated.txt": SICK, "SICK/SICK_trial.txt": SICK})
    record = load("sick")
    assert (record.first, record.second, record.scores) == (["a"], ["b"], [4.5])
    assert datasets.available_splits("sick") == ["validation", "test"]
    for path in (root / "SICK").iterdir():
        path.unlink()
    put(
        {
            "SICK/SICK.txt": "pair_ID\tsentence_A\tsentence_B\tentailment_label\t"
            "relatedness_score\tSemEval_set\n1\ta\tb\tNEUTRAL\t4.5\tTRAIN\n2\tc\td\tNEUTRAL\t1\tTEST\n"
        }
    )
    assert load("sick", "test").first == ["c"]
    assert load("sick", "train").first == ["a"]


@pytest.mark.parametrize(
    ("name", "file", "split"),
    [
        ("snli", "SNLI/snli_1.0/snli_1.0_dev.jsonl", "dev"),
        ("multinli", "multinli_1.0/multinli_1.0_dev_mismatched.jsonl", "validation_mismatched"),
    ],
)
def test_inference_sets_are_pairs_with_negatives(put, name, file, split):
    rows = [("entailment", "Rain falls."), ("contradiction", "It is dry."), ("neutral", "So what?")]
    lines = [
        json.dumps({"gold_label": label, "sentence1": "It rains.", "sentence2": text})
        for label, text in rows
    ]
    put({file: "\n".join(lines)})
    pairs = load(name, split)
    assert isinstance(pairs, cptk.data.Pairs)
    found = {"query": ["It rains."], "document": ["Rain falls."], "negatives": [["It is dry."]]}
    assert datasets.as_dict(pairs) == {**found, "group": [0]}
    put({file: lines[0].replace("entailment", "entails")})
    with pytest.raises(ValueError, match=r"line 1: the label 'entails' is not entailment"):
        load(name, split)


def test_broken_sick(put):
    put({"SICK/SICK_test_annotated.txt": SICK.replace("4.5", "")})
    with pytest.raises(ValueError, match=r"line 2: expected a score from 1 to 5\. Received: ''"):
        load("sick")
    put({"SICK/SICK_test_annotated.txt": SICK.replace("sentence_A", "a")})
    with pytest.raises(ValueError, match=r"line 1: expected a column 'sentence_A'"):
        load("sick")


# Retrieval and code.


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


BEIR = {
    "corpus.jsonl": jsonl(
        {"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "title": "", "text": "two"}
    ),
    "queries.jsonl": jsonl({"_id": "q1", "text": "first?"}, {"_id": "q2", "text": "second?"}),
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td1\t0\n",
}


@pytest.mark.parametrize("folder", ["mine", "beir/mine", "more/BEIR/mine"])
def test_beir_folder_by_name_and_path(put, folder, monkeypatch):
    root = put({f"{folder}/{name}": content for name, content in BEIR.items()})
    by_path = load(str(root / folder))
    assert load(root / folder) == by_path
    assert by_path.corpus == {"d1": "T one", "d2": "two"}
    assert by_path.queries == {"q1": "first?"}
    assert by_path.qrels == {"q1": {"d2": 2, "d1": 0}}
    assert datasets.available_splits(str(root / folder)) == ["test"]
    monkeypatch.chdir((root / folder).parent)
    assert load("mine") == load("./mine") == by_path
    monkeypatch.chdir(root)
    if folder != "more/BEIR/mine":
        assert "mine" in datasets.list()
        assert load("mine") == by_path
        assert load("mine").sha256 == by_path.sha256


def test_beir_packed_and_without_test(put):
    files = dict(BEIR)
    files["corpus.jsonl.gz"] = gzip.compress(files.pop("corpus.jsonl").encode())
    files["qrels/dev.tsv"] = files.pop("qrels/test.tsv")
    put({f"scifact/{name}": content for name, content in files.items()})
    assert len(load("scifact")) == 1
    assert len(load("SciFact", "dev").corpus) == 2


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\td9\t1\nq9\td1\t1\n",
            r"test\.tsv, line 1: there are no judgements of a query and a document that exist "
            r"\(1 judgements of a document that does not exist, 1 judgements of a query",
        ),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\td1\t\n",
            r"test\.tsv, line 2: expected a whole number for the score\. Received: ''",
        ),
        ("qrels/test.tsv", "q1\td1\n", r"line 1: expected query, document and score"),
        ("qrels/test.tsv", "q1 0 d1 1 run\n", r"line 1: expected query, document and score"),
        ("qrels/test.tsv", "q1\td1\t0.5\n", r"line 1: expected a whole number.*'0\.5'"),
        ("qrels/test.tsv", "q1\td1\tnan\n", r"line 1: expected a whole number.*'nan'"),
        ("qrels/test.tsv", "q1\td1\t1e300\n", r"line 1: expected a whole number.*'1e300'"),
        ("qrels/test.tsv", "q1\td1\t1_0\n", r"line 1: expected a whole number.*'1_0'"),
        ("corpus.jsonl", "[" * 100_000, r"corpus\.jsonl, line 1: this JSON is nested too deeply"),
        ("corpus.jsonl", '{"_id": ' + "1" * 5000 + "}", r"line 1: this is not JSON \(.*digits"),
        ("corpus.jsonl", '{"_id": null, "text": "a"}', r"expected an id.*Received: None"),
        ("corpus.jsonl", '{"_id": ["d1"], "text": "a"}', r"expected an id.*Received: \['d1'\]"),
        ("corpus.jsonl", '{"_id": "d1", "text": null}', r"expected `_id` and `text`"),
        ("corpus.jsonl", '{"_id": "d1", "text": "", "title": 3}', r"expected a text as title.*: 3"),
        ("queries.jsonl", '{"_id": true, "text": "a"}', r"expected an id.*Received: True"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", r"there are no judgements"),
        ("corpus.jsonl", '{"_id": "d1", "te', r"corpus\.jsonl, line 1: this is not JSON"),
        ("corpus.jsonl", "", r"corpus\.jsonl, line 1: the file is empty"),
        ("queries.jsonl", "\n\n", r"queries\.jsonl, line 1: the file is empty"),
        ("corpus.jsonl", "[1]\n", r"corpus\.jsonl, line 1: expected an object"),
        ("corpus.jsonl", jsonl({"id": "d1"}), r"expected `_id` and `text`\. Received: \['id'\]"),
    ],
)
def test_broken_beir(put, file, content, match):
    put({f"mine/{name}": text for name, text in (BEIR | {file: content}).items()})
    with pytest.raises(ValueError, match=match):
        load("mine")


@pytest.mark.parametrize(
    "qrels",
    [
        "query-id\tcorpus-id\tscore\nq1\td2\t2.0\nq1\td1\t0.0\n",
        "q1\t0\td2\t2\nq1\t0\td1\t0\n",
        "q1 Q0 d2 2\nq1 Q0 d1 0\n",
        "query iteration document relevance\nq1 0 d2 2\nq1 0 d1 0.0\n",
        "q1 d2 2\n\nq1   d1   0\r\n",
    ],
)
def test_judgements_as_published(put, qrels):
    put({f"mine/{name}": text for name, text in (BEIR | {"qrels/test.tsv": qrels}).items()})
    assert load("mine").qrels == {"q1": {"d2": 2, "d1": 0}}


def test_what_a_beir_folder_holds_twice_or_lacks_is_passed_over_and_counted(put):
    files = {
        "corpus.jsonl": BEIR["corpus.jsonl"] + jsonl({"_id": "d1", "text": "another one"}),
        "queries.jsonl": BEIR["queries.jsonl"] + jsonl({"_id": "q1", "text": "another?"}),
        "qrels/test.tsv": "q1\td2\t2\nq1\td9\t1\nq9\td1\t1\nq1\td2\t1\nq2\td8\t1\nq1\td1\t0\n",
    }
    put({f"mine/{name}": text for name, text in files.items()})
    with pytest.warns(UserWarning, match="mine: passed over 1 documents") as caught:
        record = load("mine")
    (warning,) = caught
    for count in (
        "1 documents whose id came before",
        "1 queries whose id came before",
        "2 judgements of a document that does not exist",
        "1 judgements of a query that does not exist",
        "1 judgements given before",
    ):
        assert count in str(warning.message)
    assert record.corpus == {"d1": "T one", "d2": "two"}
    assert record.queries == {"q1": "first?"}
    assert record.qrels == {"q1": {"d2": 2, "d1": 0}}


def test_judged_documents_as_pairs(put):
    files = {
        "corpus.jsonl": BEIR["corpus.jsonl"] + jsonl({"_id": "d3", "text": " "}),
        "queries.jsonl": BEIR["queries.jsonl"] + jsonl({"_id": "q5", "text": "fifth?"}),
        "qrels/train.tsv": "q1\td2\t2\nq1\td1\t0\nq5\td1\t1\nq5\td2\t1\nq5\td3\t1\n",
    }
    root = put({f"mine/{name}": text for name, text in files.items()})
    data = load(root / "mine", "train")
    with pytest.warns(UserWarning, match="1 pairs with an empty text are left out") as caught:
        pairs = data.to_pairs()
    assert caught[0].filename == __file__
    assert list(pairs) == [
        {"query": "first?", "document": "two", "score": 2.0, "group": "q1"},
        {"query": "fifth?", "document": "T one", "score": 1.0, "group": "q5"},
        {"query": "fifth?", "document": "two", "score": 1.0, "group": "q5"},
    ]


def test_judgements_that_give_no_pairs():
    def record(qrels):
        return datasets.RetrievalData({"q": "how?"}, {"d": "so."}, qrels)

    with pytest.raises(ValueError, match=r"no query with a document judged above 0.*another split"):
        record({"q": {"d": 0}}).to_pairs()
    for qrels in ({"q": {"e": 1}}, {"p": {"d": 1}}):
        with pytest.raises(ValueError, match="one of them is not there"):
            record(qrels).to_pairs()


def test_cosqa_in_its_own_files(put):
    rows = [
        {"idx": "cosqa-1", "doc": "how?", "code": "f", "label": 1, "retrieval_idx": 1},
        {"idx": "cosqa-2", "doc": "why?", "code": "g", "label": 0, "retrieval_idx": 0},
    ]
    put(
        {
            "CoSQA/code_idx_map.txt": json.dumps({"g": 0, "f": 1}, indent=1),
            "CoSQA/cosqa-retrieval-test-500.json": json.dumps(rows, indent=1),
        }
    )
    record = load("cosqa")
    assert record.corpus == {"0": "g", "1": "f"}
    assert (record.queries, record.qrels) == ({"cosqa-1": "how?"}, {"cosqa-1": {"1": 1}})
    put({"CoSQA/cosqa-retrieval-test-500.json": json.dumps([rows[0] | {"retrieval_idx": 7}])})
    with pytest.raises(ValueError, match="names a document '7' that does not exist"):
        load("cosqa")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("null", r"query 1 is no object\. Received: None"),
        ('{"idx": 1, "doc": null, "retrieval_idx": 0}', r"expected `doc`"),
        ('{"idx": null, "doc": "a", "retrieval_idx": 0}', r"expected an id.*Received: None"),
        ('{"idx": 1, "doc": "a", "retrieval_idx": 0, "label": null}', r"a label of 0 or 1"),
        ("[" * 100_000, r"nested too deeply"),
    ],
)
def test_broken_cosqa(put, row, match):
    put(
        {
            "CoSQA/code_idx_map.txt": '{"g": 0}',
            "CoSQA/cosqa-retrieval-test-500.json": f"[{row}]",
        }
    )
    with pytest.raises(ValueError, match=r"500\.json, line 1: .*" + match):
        load("cosqa")


def pairs(*languages):
    return jsonl(
        *(
            {"docstring": f"Doc {lang}", "code": f"def {lang}", "language": lang, "url": "u"}
            for lang in languages
        )
    )


@pytest.mark.parametrize(
    "file",
    [
        "codesearchnet/python.jsonl",
        "codesearchnet/python/test.jsonl",
        "CodeSearchNet/python/final/jsonl/test/python_test_0.jsonl.gz",
        "CSN/test/python.jsonl",
        "code_search_net/python_test.jsonl.gz",
        "codesearchnet-python/test.jsonl",
        "code/CodeSearchNet/resources/data/python/final/jsonl/test/python_test_0.jsonl.gz",
        "CodeSearchNet/test.jsonl",
        "codesearchnet/pairs.jsonl",
    ],
)
def test_codesearchnet_layouts(put, file):
    several = "python" not in Path(file).as_posix()
    text = pairs(*(["go", "python", "ruby"] if several else ["python"])).encode()
    put({file: gzip.compress(text) if file.endswith(".gz") else text})
    record = load("codesearchnet_python")
    assert (record.docstrings, record.codes) == (["Doc python"], ["def python"])
    assert datasets.available_splits("codesearchnet_python") == ["test"]


def test_codesearchnet_tells_languages_and_splits_apart(put):
    files = {}
    for language in ("python", "java", "go", "php", "ruby", "javascript"):
        for split in ("train", "valid", "test"):
            name = f"csn/{language}/final/jsonl/{split}/{language}_{split}_0.jsonl.gz"
            row = {"docstring": split, "code": language, "language": language}
            files[name] = gzip.compress(jsonl(row).encode())
    put(files)
    for language in ("python", "java", "go", "php", "ruby", "javascript"):
        name = f"codesearchnet_{language}"
        assert datasets.available_splits(name) == ["train", "validation", "test"]
        for split, word in (("train", "train"), ("dev", "valid"), (None, "test")):
            record = load(name, split)
            assert (record.docstrings, record.codes) == ([word], [language])
            assert record.language == language


def test_codesearchnet_in_beirs_layout(put):
    put({f"codesearchnet/go/{name}": content for name, content in BEIR.items()})
    record = load("codesearchnet_go")
    assert (record.docstrings, record.codes) == (["first?"], ["two"])


def test_broken_codesearchnet(put):
    whole = gzip.compress(os.urandom(9).hex().encode() + pairs("go").encode() * 50)
    put({"codesearchnet/go.jsonl.gz": whole[: len(whole) // 2]})
    with pytest.raises(ValueError, match=r"go\.jsonl\.gz, line \d+: "):
        load("codesearchnet_go")
    put({"codesearchnet/go.jsonl.gz": gzip.compress(pairs("go").encode() * 500)[:-20]})
    with pytest.raises(ValueError, match=r"go\.jsonl\.gz, line \d+: the file is broken off"):
        load("codesearchnet_go")
    put({"codesearchnet/go.jsonl.gz": pairs("go")})
    with pytest.raises(ValueError, match=r"line 1: the file is broken off or not gz"):
        load("codesearchnet_go")
    put({"codesearchnet/php.jsonl": jsonl({"doc": "a", "code": "b"})})
    with pytest.raises(
        ValueError, match=r"line 1: expected `docstring`\. Received: \['code', 'doc'\]"
    ):
        load("codesearchnet_php")
    put({"codesearchnet/ruby.jsonl": pairs("java")})
    with pytest.raises(ValueError, match=r"no pair of docstring and code \(ruby\)"):
        load("codesearchnet_ruby")
    put({"csn/go/train_0.jsonl.gz": gzip.compress(pairs("go").encode())})
    put({"csn/go/train_1.jsonl.gz": gzip.compress(b"")})
    with pytest.raises(ValueError, match=r"train_1\.jsonl\.gz, line 1: the file is empty"):
        load("codesearchnet_go", "train")
    put({"codesearchnet/java.jsonl": pairs("java") + jsonl({"docstring": " ", "code": "x"})})
    with pytest.warns(UserWarning, match="1 rows of .* have a blank docstring or code"):
        assert len(load("codesearchnet_java")) == 1


# Rotten Tomatoes.


def test_rotten_tomatoes_is_split_by_film(put, monkeypatch):
    monkeypatch.setattr(rotten_tomatoes, "_warned", False)
    films = [f"film_{number}" for number in range(60)]
    rows = [
        f'{kind},"{film}, {kind}",{film},True'
        for film in films
        for kind in ("fresh", "rotten", "plot")
    ]
    text = "category,text,movie_name,has_plot_and_reviews\n" + "\n".join(rows) + "\n"
    put({f"rotten_tomatoes/{rotten_tomatoes.FILE}": bz2.compress(text.encode())})
    with pytest.warns(UserWarning, match="SST-2's sentences were drawn from these reviews"):
        train = load("rotten_tomatoes", "train")
    splits = {split: load("rotten_tomatoes", split) for split in ("train", "validation", "test")}
    seen = [film for split in splits.values() for film in {t.split(",")[0] for t in split.texts}]
    assert sorted(seen) == sorted(films)
    assert train.label_names == ("rotten", "fresh")
    assert train.labels == [int(text.endswith("fresh")) for text in train.texts]
    assert len(train) > 60
    assert rotten_tomatoes.split_of("film_1") == rotten_tomatoes.split_of("film_1")
    assert load("rotten_tomatoes", "plots").texts == [f"{film}, plot" for film in films]


def test_broken_rotten_tomatoes(put, monkeypatch):
    monkeypatch.setattr(rotten_tomatoes, "_warned", True)
    put({f"rotten_tomatoes/{rotten_tomatoes.FILE}": bz2.compress(b"")[:-5]})
    with pytest.raises(ValueError, match=r"bz2, line 1: the file is broken off"):
        load("rotten_tomatoes", "test")
    put({f"rotten_tomatoes/{rotten_tomatoes.FILE}": bz2.compress(b"a,b\n")})
    with pytest.raises(ValueError, match=r"line 1: expected category, text, movie_name"):
        load("rotten_tomatoes", "test")


# Names, splits, places.


def test_unknown_names_and_splits(put):
    put({})
    with pytest.raises(ValueError, match=r"no data set 'sst3'.*Near: \['sst2'"):
        datasets.load("sst3")
    with pytest.raises(ValueError, match=r"no data set '/none'"):
        datasets.available_splits("/none")
    with pytest.raises(ValueError, match=r"'sst2' has the splits .*'tset'\. Near: 'test'"):
        datasets.load("sst2", "tset")
    with pytest.raises(ValueError, match=r"'mr' has the splits \['all'\]"):
        datasets.load("mr", "test")
    with pytest.raises(TypeError, match="must be a string"):
        datasets.load(3)


def test_list_has_the_contract():
    names = datasets.list()
    languages = [f"codesearchnet_{x}" for x in "python java go php ruby javascript".split()]
    sts = [f"sts{year}" for year in range(12, 17)]
    others = "sst2 sst2_phrases mr cr subj mpqa trec mrpc stsb sick cosqa rotten_tomatoes".split()
    others += ["snli", "multinli"]
    assert {*languages, *sts, *others, "scifact"} <= set(names)
    assert names == sorted(names)


def test_data_folder_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("CPTK_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"CPTK_DATA_DIR must name a folder.*which does not exist"):
        datasets.load("sst2")
    (tmp_path / "none").write_text("")
    with pytest.raises(ValueError, match="which is a file"):
        datasets.available_splits("sst2")


def test_data_folder_goes_before_the_cache(put, places):
    (places / "datasets/mr").mkdir(parents=True)
    (places / "datasets/mr/all.tsv").write_text("sentence\tlabel\ncached\t1\n")
    put({})
    assert load("mr").texts == ["cached"]
    put({"MR/all.tsv": "sentence\tlabel\nmine\t1\n"})
    assert load("mr").texts == ["mine"]


def test_records_say_what_they_are(put):
    put({"MR/all.tsv": "sentence\tlabel\nso bad\t0\nfine\t1\n"})
    record = load("mr")
    assert len(record) == 2
    assert datasets.as_dict(record)["labels"] == [0, 1]
    assert record.sha256 == load("mr").sha256 != load("mr").__class__(["x"], [0]).sha256


# The real data, where it is.

REAL = {
    ("sst2", "train"): 6920,
    ("sst2", "validation"): 872,
    ("sst2_phrases", "train"): 67_349,
    ("mr", "all"): 10_662,
    ("subj", "all"): 10_000,
    ("trec", "train"): 5452,
    ("trec", "test"): 500,
    ("stsb", "train"): 5749,
    ("stsb", "validation"): 1500,
    ("cranfield", "test"): 225,
    ("cosqa", "validation"): 500,
}
DATA = os.environ.get("CPTK_DATA_DIR")


@pytest.mark.skipif(not DATA, reason="needs the real data: set CPTK_DATA_DIR")
def test_real_data_have_their_published_sizes(monkeypatch):
    monkeypatch.setenv("CPTK_DATA_DIR", str(DATA))
    found = {key: len(load(*key)) for key in REAL}
    assert found == REAL
    assert sum(len(load(f"sts{year}")) for year in (12, 13, 14)) == 7608
    assert len(load("cosqa", "dev").corpus) == 6267
    assert len(load("cranfield").corpus) == 1400
