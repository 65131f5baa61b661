"""The table of retrieval and code-search sets: BEIR, CoSQA, CodeSearchNet."""

from __future__ import annotations

import functools

from cptk.datasets.download import Source
from cptk.datasets.forms import Form, Spec, form, of_language
from cptk.datasets.retrieval_parsers import beir, codesearchnet, codesearchnet_beir, cosqa

# Hashes: tensorflow_datasets 4.9.10, datasets/beir/checksums.tsv.
BEIR = {
    "arguana": "cfdf79adce27a401b3cd3ea267903134dbfab2c6afeb95d7fe5724a00bf7557b",
    "climate-fever": "9d6cf03121238bba187f9d4b5bdfdc42b2b171f19b6d86a557f95c51687691f3",
    "dbpedia-entity": "e4c13080b5399a19e02b04c908c485f8997ac9e265a06ef5f9f28c3f1134c472",
    "fever": "58b3faee0c152158b27970380f778ea56e4e34482034404226c10e11eadc7b72",
    "fiqa": "32c7df99ed21252fdfb2cf3f5673502a8d245ee0c44c4a133570d92ce2b3ad02",
    "hotpotqa": "c62459dbc91d31329584507b1fa564b3b1abcee58800967113054ee0f5a15c62",
    "msmarco": "f46aed8343564261c27228b7cf22dde5c9a70143fe34dc3c589bd5322308712a",
    "nfcorpus": "efe5be03f8c5b86a5870102d0599d227c8c6e2484328e68c6522560385671b0b",
    "nq": "2553bf7bfbab47b1436ca00a34bce57320e18e611fd00999a2a3a1b4714be752",
    "quora": "56aacd9dcc4d9c093b63f175afdda0e21cbc8442ecf6c717d09de7b358d77531",
    "scidocs": "96640201687767c9b1fcc5af7a80b90fb325b37fa25329c2586c25edcfa17ef1",
    "scifact": "536e14446a0ba56ed1398ab1055f39fe852686ecad24a6306c80c490fa8e0165",
    "trec-covid": "120f42a7864d2214234537733c0d2c6684e42fdfafff2c5eacf98afca6656aa0",
    "webis-touche2020": "1a706ed9c03ecc75cf012495bd8e37b761f7b0350a939910d0f54862e26fc601",
}

_COSQA = "https://raw.githubusercontent.com/Jun-jie-Huang/CoCLR/778daa8aa9ac1dbee8839775edfce191d356861e/data/search/"


def _codesearchnet(language: str, sha256: str) -> Spec:
    read = functools.partial(codesearchnet, language=language)
    from_beir = functools.partial(codesearchnet_beir, language=language)
    where = ("codesearchnet", "csn")
    return Spec(
        (*where, *(f"{name}{language}" for name in where), *(f"{name}dataset" for name in where)),
        {
            split: (
                Form(of_language(language, split), read, f"{language}/{short}.jsonl"),
                form(from_beir, *(f"{language}/{file}" for file in _beir_files(short))),
            )
            for split, short in (("train", "train"), ("validation", "valid"), ("test", "test"))
        },
        "CodeSearchNet (Husain et al. 2019, arXiv 1909.09436); functions under their own licences.",
        # Hashes: huggingface/datasets, datasets/code_search_net/dataset_infos.json (of the S3
        # files; the authors have moved the archives to Zenodo since).
        (
            Source(
                f"https://zenodo.org/record/7857872/files/{language}.zip",
                sha256,
                mirrors=(
                    f"https://s3.amazonaws.com/code-search-net/CodeSearchNet/v2/{language}.zip",
                ),
                members=("*/final/jsonl/*.jsonl.gz",),
            ),
        ),
    )


def _beir_files(split: str) -> tuple[str, str, str]:
    return "corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv"


def beir_spec(name: str) -> Spec:
    """A BEIR folder by name: fetched from BEIR's own server if it is one of theirs."""
    sha256 = BEIR.get(name)
    address = f"https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{name}.zip"
    members = ("*corpus.jsonl", "*queries.jsonl", "*qrels/*.tsv")
    return Spec(
        (name, f"beir/{name}"),
        {
            split: tuple(form(beir, *_beir_files(file)) for file in files)
            for split, files in (
                ("train", ("train",)),
                ("validation", ("dev", "validation", "valid")),
                ("test", ("test",)),
            )
        },
        "BEIR (Thakur et al. 2021, arXiv 2104.08663); each set under its own terms.",
        (Source(address, sha256, members=members),) if sha256 else (),
    )


RETRIEVAL_SPECS: dict[str, Spec] = {
    # Hashes: see `_codesearchnet`.
    "codesearchnet_python": _codesearchnet(
        "python", "7223c6460bebfa85697b586da91e47bc5d64790a4d60bba5917106458ab6b40e"
    ),
    "codesearchnet_java": _codesearchnet(
        "java", "05f9204b1808413fab30f0e69229e298f6de4ad468279d53a2aa5797e3a78c17"
    ),
    "codesearchnet_go": _codesearchnet(
        "go", "15d23f01dc2796447e1736263e6830079289d5ef41f09988011afdcf8da6b6e5"
    ),
    "codesearchnet_php": _codesearchnet(
        "php", "c3bbf0d1b10010f88b058faea876f1f5471758399e30d58c11f78ff53660ce00"
    ),
    "codesearchnet_ruby": _codesearchnet(
        "ruby", "67aee5812d0f994df745c771c7791483f2b060561495747d424e307af4b342e6"
    ),
    "codesearchnet_javascript": _codesearchnet(
        "javascript", "fdc743f5af27f90c77584a2d29e2b7f8cecdd00c37b433c385b888ee062936dd"
    ),
    "cosqa": Spec(
        ("cosqa", "beir/cosqa", "cosqa/search"),
        {
            split: (
                *beir_spec("cosqa").splits[split],
                form(cosqa, "code_idx_map.txt", f"cosqa-retrieval-{short}-500.json"),
            )
            for split, short in (("validation", "dev"), ("test", "test"))
        },
        "CoSQA (Huang et al. 2021), C-UDA licence.",
        # The authors' repository at a fixed commit; no hash is known to be published.
        (
            Source(_COSQA + "code_idx_map.txt"),
            Source(_COSQA + "cosqa-retrieval-dev-500.json", splits=("validation",)),
            Source(_COSQA + "cosqa-retrieval-test-500.json", splits=("test",)),
        ),
    ),
}
