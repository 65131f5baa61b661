"""Texts a second: cptk's `encode` beside KerasHub's and sentence-transformers', same models.

    python benchmarks/encode.py [--models smollm2 minilm] [--texts sst2 functions mixed]
                                [--arms st kerashub tensorflow jax ...] [--tiny]

Each row is measured in a process of its own, and encode.json and .md are written after each.
Started again, it goes on. A quiet machine, please: a row takes a minute or a few.
"""

import argparse
import functools
import json
import os
import tempfile
import zlib
from pathlib import Path

import encode_arms as arms
import encode_report as results
import reporting

PACKAGES = (
    "cptk keras keras-hub tensorflow jax torch transformers sentence-transformers onnxruntime "
    "optimum-onnx openvino"
).split()


def run_fresh(task, missing, backend):
    """`arms.measure` in a process of its own, or why not."""
    if missing:
        return {"status": "not installed", "missing": missing}
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "KERAS_BACKEND": backend,  # of sentence-transformers' arms it computes no vectors
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    return reporting.run_worker(__file__, task, environment)


def wanted(arguments):
    """The tasks with what is said of each, and how it is measured."""
    common = {"folder": str(arguments.work), "tiny": arguments.tiny}
    place = {"kind": "peak", "model": "", "texts": "", "arm": "peak"}
    peak = functools.partial(run_fresh, {**common, **place}, [], "tensorflow")
    yield place, "the machine's matrix products", peak
    for model in arguments.models:
        for texts in arguments.texts:
            for key in arms.ARMS:
                if key not in arguments.arms:
                    continue
                arm = arms.ARMS[key]
                place = {"kind": "encode", "model": model, "texts": texts, "arm": key}
                missing = arms.missing_modules(arm, arguments.tiny)
                run = functools.partial(run_fresh, {**common, **place}, missing, arm.backend)
                what = f"{arm.name}, {arm.dtype}, {arms.MODELS[model]}, {arms.TEXTS[texts]}"
                yield place, what, run


def parse(arguments):
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    for name, choices in (("models", arms.MODELS), ("texts", arms.TEXTS), ("arms", arms.ARMS)):
        add(f"--{name}", nargs="+", choices=list(choices), default=list(choices))
    add("--work", type=Path, help="folder for texts and models, kept (temporary folder)")
    reporting.add_run_flags(parser)
    parsed = parser.parse_args(arguments)
    name = "cptk_encode_tiny" if parsed.tiny else "cptk_encode"
    parsed.work = parsed.work or Path(tempfile.gettempdir()) / name
    return parsed


def main(arguments=None):
    """Measure what is asked for and not there, row by row."""
    arguments = parse(arguments)
    if arguments.worker:
        row = arms.measure(json.loads(arguments.worker[0]))
        Path(arguments.worker[1]).write_text(json.dumps(row))
        return
    arms.prepare(arguments.work, arguments.models, arms.TEXTS, arguments.tiny)
    crc = {name: zlib.crc32((arguments.work / f"{name}.json").read_bytes()) for name in arms.TEXTS}
    setup = {"tiny": arguments.tiny, "length": arms.LENGTH, "texts_crc32": crc}
    report = reporting.begin("encode", PACKAGES, setup, arguments)
    reporting.measure_missing(
        report, wanted(arguments), arguments.fresh, lambda: results.write(report, arguments.output)
    )
    print(results.to_markdown(report), flush=True)


if __name__ == "__main__":
    main()
