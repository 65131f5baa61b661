"""mteb's own tasks, run on encoders of ours, against cptk's figures on the same data."""

import csv
import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from scipy.stats import spearmanr

from cptk.datasets.records import RetrievalData
from cptk.encoders import embed
from cptk.integrations import mteb as bridge
from tests import toys

BATCHES = [{"text": ["a good film", " "]}, {"text": ["x"]}]


@pytest.fixture
def stub(monkeypatch):
    """In place of mteb, which takes ten seconds to import."""
    meta = SimpleNamespace(ModelMeta=lambda **fields: SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "mteb", SimpleNamespace(models=meta))


def lengths(texts):
    return np.array([[len(text), 1.0, text.count("e")] for text in texts])


class Rolling:
    """Answers with the role that it is given."""

    def __init__(self, *roles):
        self.numbers = {role: float(number) for number, role in enumerate(roles, 1)}

    def encode_text(self, texts, role=None):
        if role not in self.numbers:
            raise ValueError(f"no role {role!r}")
        return np.full((len(texts), 2), self.numbers[role], np.float32)


def test_prompt_types_become_roles(stub):
    encoder = bridge.as_encoder(Rolling("query", "document", None))
    for kind, number in [("query", 1), ("document", 2), (None, 3)]:
        for given in (kind, kind and SimpleNamespace(value=kind)):
            assert encoder.encode([{"text": ["a"]}], prompt_type=given).tolist() == [[number] * 2]
    renamed = bridge.as_encoder(
        Rolling("ask", "passage", "same"),
        roles={"query": "ask", "document": "passage", None: "same"},
    )
    assert renamed.encode([{"text": ["a"]}], prompt_type="document").tolist() == [[2, 2]]


def test_rows_keep_their_order_and_a_blank_text_is_the_zero_vector(stub):
    vectors = bridge.as_encoder(lengths).encode(BATCHES, prompt_type=None, batch_size=2)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[11, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert bridge.as_encoder(lengths).encode([{"text": ["", "\n"]}]).tolist() == [[0] * 3] * 2


@pytest.mark.slow_on_jax
def test_an_embedders_vectors_and_metadata(stub):
    embedder = toys.gpt2_embedder(num_layers=1)
    encoder = bridge.as_encoder(embedder, "me/toy", languages=["eng-Latn"])
    texts = ["the thing", "a café", "x"]
    for role in ("query", "document"):
        vectors = encoder.encode([{"text": texts}], prompt_type=role)
        np.testing.assert_allclose(vectors, embedder.encode_text(texts, role), atol=1e-6)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("me/toy", toys.HIDDEN_DIM, 24)
    assert meta.n_parameters == embedder.count_params()
    framework = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
    assert meta.framework == [framework[keras.backend.backend()]]
    assert meta.languages == ["eng-Latn"]
    # mteb gives out old results under an old revision: other weights must have another.
    assert bridge.as_encoder(embedder).mteb_model_meta.revision == meta.revision
    weight = embedder.backbone.token_embedding.embeddings
    weight.assign(weight + 1e-7)
    later = bridge.as_encoder(embedder).mteb_model_meta.revision
    embedder.preprocessor.sequence_length = 28  # the probes are shorter
    last = bridge.as_encoder(embedder).mteb_model_meta.revision
    assert len({meta.revision, later, last}) == 3


def test_names_and_revisions(stub):
    meta = bridge.as_encoder(lengths).mteb_model_meta
    assert (meta.name, meta.framework, meta.n_parameters) == ("cptk/lengths", [], None)
    # Another role, another scale for one dimension, another size.
    others = [lambda t: lengths(t)[:, ::-1], lambda t: lengths(t) * [1, 1, 2], lambda t: [[1]] * 4]
    revisions = {bridge.as_encoder(other).mteb_model_meta.revision for other in others}
    revisions |= {meta.revision}
    roles = [("query", "document", None), ("document", "query", None)]
    revisions |= {bridge.as_encoder(Rolling(*each)).mteb_model_meta.revision for each in roles}
    assert len(revisions) == 6
    assert bridge.as_encoder(lengths, revision="1").mteb_model_meta.revision == "1"
    assert bridge.as_encoder(lambda t: lengths(t)).mteb_model_meta.name == "cptk/lambda"


def test_what_cannot_be_used_is_refused(stub):
    for name in ("toy", "a/b/c", "/toy", "me/ ", 3):
        with pytest.raises(ValueError, match="`name` should be 'organisation/model'"):
            bridge.as_encoder(lengths, name)
    with pytest.raises(ValueError, match=r"Received the keys: \[\"'passage'\"\]"):
        bridge.as_encoder(lengths, roles={"passage": "document"})
    with pytest.raises(ValueError, match="no role 'document'"):
        bridge.as_encoder(Rolling("query", None))
    with pytest.raises(TypeError, match="An encoder needs `encode_text"):
        bridge.as_encoder(object())

    with pytest.raises(TypeError, match="`roles` should be a mapping"):
        bridge.as_encoder(lengths, roles="query")


@pytest.mark.parametrize("batch", ["text", {"image": []}, {"text": "abc"}, {"text": ["a", None]}])
def test_what_is_no_batch_of_texts_is_refused(stub, batch):
    encoder = bridge.as_encoder(lengths)
    with pytest.raises(TypeError, match=r"should be a mapping|sequence of strings|strings only"):
        encoder.encode([batch])
    assert encoder.encode([]).shape == (0, 3)


def test_zero_vectors_of_a_bag_of_words_are_taken(stub):
    words = bridge.as_encoder(lambda texts: np.array([[t.count("zz")] for t in texts], "f"))
    with pytest.warns(UserWarning, match="zero vectors"):
        assert words.encode([{"text": ["zz", "a"]}]).tolist() == [[1], [0]]


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ImportError, match=r"\.\[mteb\]"):
        bridge.as_encoder(lengths)


# What follows runs the real library. The data is laid into its own task classes.


@pytest.fixture
def mteb(monkeypatch):
    library = pytest.importorskip("mteb", reason="pip install mteb")

    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return library


def sts_task(mteb, first, second, scores):
    from datasets import Dataset

    task = mteb.get_task("STSBenchmark.v2", eval_splits=["test"])
    columns = {"sentence1": first, "sentence2": second, "score": scores}
    task.dataset = {"test": Dataset.from_dict(columns)}
    task.data_loaded = True
    return task


def retrieval_task(mteb, data):
    from datasets import Dataset

    def table(texts):
        return Dataset.from_list([{"id": key, "text": text} for key, text in texts.items()])

    task = mteb.get_task("CosQA")
    parts = {"corpus": table(data.corpus), "queries": table(data.queries), "top_ranked": None}
    parts["relevant_docs"] = {query: dict(judged) for query, judged in data.qrels.items()}
    task.dataset = {"default": {"test": parts}}
    task.data_loaded = True
    return task


def run(mteb, encoder, task, folder):
    return mteb.evaluate(
        encoder, task, cache=mteb.ResultCache(folder), show_progress_bar=False, co2_tracker=False
    ).task_results[0]


def cosine_spearman(encoder, first, second, scores):
    u, v = (np.asarray(embed(encoder, side), np.float64) for side in (first, second))
    cosines = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    return spearmanr(cosines, scores)[0]


def ndcg_at_10(encoder, data):
    """Straight from the definition: gain rel / log2(1 + rank), the same over the ideal order."""
    queries = embed(encoder, list(data.queries.values()), "query")
    documents = embed(encoder, list(data.corpus.values()), "document")
    names, values = list(data.corpus), []
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents)]
    discount = 1 / np.log2(np.arange(2, 12))
    for query, scores in zip(data.queries, unit[0] @ unit[1].T, strict=True):
        best = [data.qrels[query].get(names[i], 0) for i in np.argsort(-scores)[:10]]
        ideal = sorted(data.qrels[query].values(), reverse=True)[:10]
        values.append(best @ discount[: len(best)] / (ideal @ discount[: len(ideal)]))
    return np.mean(values)


def words(seed, number):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(toys.TEXTS[:2] + list("abcdefgh"), 5)) for _ in range(number)]


@pytest.mark.slow
def test_toy_similarity_and_the_results_on_disk(mteb, tmp_path):
    first, second = words(0, 30), words(1, 30)
    scores = np.random.default_rng(2).uniform(0, 5, 30).tolist()
    embedder = toys.gpt2_embedder()
    encoder = bridge.as_encoder(embedder, "me/toy")
    assert isinstance(encoder, mteb.EncoderProtocol)
    task = sts_task(mteb, first, second, scores)
    result = run(mteb, encoder, task, tmp_path)
    expected = cosine_spearman(embedder, first, second, scores)
    assert result.get_score() == pytest.approx(expected, abs=1e-6)
    entry = result.scores["test"][0]
    assert entry["spearman"] == pytest.approx(entry["cosine_spearman"], abs=1e-6)

    revision = encoder.mteb_model_meta.revision
    saved = next(tmp_path.rglob("STSBenchmark.v2.json"))
    assert saved.parent.name == revision
    kept = json.loads(saved.read_text())["scores"]["test"][0]["main_score"]
    assert kept == pytest.approx(result.get_score(), abs=1e-6)  # rounded to six places
    meta = json.loads((saved.parent / "model_meta.json").read_text())
    assert (meta["name"], meta["embed_dim"]) == ("me/toy", toys.HIDDEN_DIM)
    # Another embedder of the same name is run, not read from there.
    other = run(mteb, bridge.as_encoder(lengths, "me/toy"), task, tmp_path)
    assert other.get_score() != result.get_score()


@pytest.mark.slow
def test_toy_retrieval(mteb, tmp_path):
    corpus = {f"d{i}": text for i, text in enumerate(words(3, 40))}
    queries = {f"q{i}": text for i, text in enumerate(words(4, 8))}
    rng = np.random.default_rng(5)
    qrels = {
        q: {f"d{i}": int(rng.integers(1, 3)) for i in rng.choice(40, 3, False)} for q in queries
    }
    data = RetrievalData(queries, corpus, qrels)
    embedder = toys.gpt2_embedder()
    result = run(mteb, bridge.as_encoder(embedder), retrieval_task(mteb, data), tmp_path)
    # mteb rounds to five places.
    assert result.get_score() == pytest.approx(round(ndcg_at_10(embedder, data), 5), abs=1e-6)


def data_folder(name):
    folder = Path(os.environ.get("CPTK_DATA_DIR") or "missing") / name
    if not folder.is_dir():
        pytest.skip(f"needs {name}/ in CPTK_DATA_DIR")
    return folder


@pytest.fixture(scope="module")
def tfidf():
    """A real encoder that costs nothing: hashed words and pairs of letters, weighted by rarity."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    with (data_folder("STS-B") / "train.csv").open(newline="", encoding="utf-8") as file:
        sentences = [row[0] for row in csv.reader(file)]
    steps = (
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)),
        TruncatedSVD(64, random_state=0),
    )
    return make_pipeline(*steps).fit(sentences)


@pytest.mark.slow
def test_stsb_dev_gives_our_spearman(mteb, tfidf, tmp_path):
    with (data_folder("STS-B") / "dev.csv").open(newline="", encoding="utf-8") as file:
        first, second, scores = zip(*csv.reader(file), strict=True)
    scores = [float(score) for score in scores]
    task = sts_task(mteb, first, second, scores)
    result = run(mteb, bridge.as_encoder(tfidf), task, tmp_path)
    expected = cosine_spearman(tfidf, first, second, scores)
    assert expected > 0.5
    assert result.get_score() == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_cosqa_dev_gives_our_ndcg(mteb, tfidf, tmp_path):
    from cptk import datasets
    from cptk.evaluation.tasks.retrieval import retrieval

    data_folder("cosqa")
    data = datasets.load("cosqa", "validation")
    result = run(mteb, bridge.as_encoder(tfidf), retrieval_task(mteb, data), tmp_path)
    ours = retrieval(tfidf, data, ignore_identical_ids=False)
    assert result.get_score() == pytest.approx(round(ours["ndcg@10"], 5), abs=1e-6)
    entry = result.scores["test"][0]
    assert entry["recall_at_100"] == pytest.approx(round(ours["recall@100"], 5), abs=1e-6)
    assert entry["mrr_at_10"] == pytest.approx(round(ours["mrr@10"], 5), abs=1e-6)
