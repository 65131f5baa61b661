"""What fewer bits cost: 16-bit and int8 layers, and vectors as float16, int8 or bits.

    python benchmarks/encode_quality.py [--models minilm smollm2] [--tasks stsb sst2_linear_probe]

Scores of tasks by `cptk.evaluation`, STS-B on its dev split, and the mean cosine of STS-B's
sentences to their float32 vectors. Each compute type of a model is measured in a process of its
own, and encode_quality.json and .md are written after each. Started again, it goes on. Data is
found by CPTK_DATA_DIR.
"""

import argparse
import datetime
import functools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import reporting

sys.path.append(str(Path(__file__).parents[1] / "examples"))

PACKAGES = "cptk keras keras-hub tensorflow".split()
PROMPT = ('This sentence: "', '" means in one word: "')  # PromptEOL, arXiv:2307.16645
MODELS = {"minilm": "all-MiniLM-L6-v2", "smollm2": "SmolLM2-135M, 24 layers, prompt"}
COMPUTE = ("float32", "bfloat16", "int8")
CODES = ("float16", "int8", "binary")
LENGTH = 96


# === In the process of a row ===


def load(task):
    """The embedder, in the type that it computes in."""
    import cptk

    dtype = "bfloat16" if task["compute"] == "bfloat16" else "float32"
    if task["tiny"]:
        sys.path.append(str(Path(__file__).parents[1]))
        from tests import toys

        embedder = toys.gpt2_embedder(1)
    elif task["model"] == "minilm":
        import quickstart_models

        folder = quickstart_models.minilm_folder()
        embedder = cptk.models.TextEmbedder.from_preset(folder, dtype=dtype, sequence_length=LENGTH)
    else:
        gguf = cptk.integrations.gguf
        options = {"sequence_length": LENGTH, "dtype": dtype, "num_layers": 24}
        roles = {"text": PROMPT}
        embedder = gguf.load_embedder(gguf.smollm2_path(), roles=roles, **options)
    if task["compute"] == "int8":
        embedder.quantize("int8")
    return embedder


def measure(task):
    """Scores by the type of the vectors, and their cosines."""
    import cptk
    from cptk import quantization

    embedder = load(task)
    encoder = cptk.evaluation.CachedEncoder(embedder)
    with encoder.steady():
        pairs = cptk.datasets.load("stsb", "validation")
        sample = sorted({*pairs.first, *pairs.second})
        plain = encoder(sample)
        file = Path(task["folder"]) / f"{task['model']}.npy"
        if task["compute"] == "float32":
            np.save(file, plain)
        known = np.load(file, allow_pickle=False) if file.exists() else None
        calibration = quantization.calibrate(plain)
        codes = ("float32", *(CODES if task["compute"] == "float32" else ()))
        found = []
        for dtype in codes:
            own = calibration if dtype == "int8" else None

            def coded(texts, dtype=dtype, own=own):
                vectors = encoder(texts)
                return quantization.dequantize(
                    quantization.quantize(vectors, dtype, own), dtype, own, vectors.shape[1]
                )

            vectors = coded(sample)
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            cosine = None if known is None else float((unit * known).sum(axis=1).mean())
            scores = {}
            for name in task["tasks"]:
                split = "validation" if name.startswith("sts") else None
                report = cptk.evaluation.evaluate(coded, [name], split=split)
                scores[name] = float(report[name].score)
            found.append({"vectors": dtype, "cosine": cosine, "scores": scores})
    return {"status": "measured", "found": found}


# === The report ===


def to_markdown(report):
    """The table."""
    tasks = report["setup"]["tasks"]
    lines = []
    for row in report["rows"]:
        for each in row.get("found", ()):
            cosine = "" if each["cosine"] is None else f"{each['cosine']:.5f}"
            scores = [f"{100 * each['scores'][name]:.1f}" for name in tasks]
            lines.append([MODELS[row["model"]], row["compute"], each["vectors"], cosine, *scores])
        if row["status"] != "measured":
            blank = [""] * len(tasks)
            lines.append([MODELS[row["model"]], row["compute"], row["status"], "", *blank])
    header = ["model", "layers compute in", "vectors kept in", "cosine to float32", *tasks]
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"""# What fewer bits cost

{reporting.markdown_table(header, lines)}

{reporting.described(report["machine"])}; {packages}; {report["date"]}.
"""


def write(report, folder):
    """encode_quality.json and encode_quality.md."""
    report["date"] = datetime.date.today().isoformat()
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    reporting.write_atomically(folder / "encode_quality.json", text)
    reporting.write_atomically(folder / "encode_quality.md", to_markdown(report))


def main(arguments=None):
    """Measure what is asked for and not there, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--tasks", nargs="+", default=["stsb", "sst2_linear_probe"])
    add("--work", type=Path, help="folder for the float32 vectors, kept (temporary folder)")
    reporting.add_run_flags(parser)
    parsed = parser.parse_args(arguments)
    if parsed.worker:
        Path(parsed.worker[1]).write_text(json.dumps(measure(json.loads(parsed.worker[0]))))
        return
    work = parsed.work or Path(tempfile.gettempdir()) / "cptk_encode_quality"
    work.mkdir(parents=True, exist_ok=True)
    setup = {"tiny": parsed.tiny, "tasks": parsed.tasks, "length": LENGTH}
    report = reporting.begin("encode_quality", PACKAGES, setup, parsed)
    common = {"folder": str(work), "tiny": parsed.tiny, "tasks": parsed.tasks}
    wanted = []
    for model in parsed.models:
        for compute in COMPUTE:
            place = {"model": model, "compute": compute}
            run = functools.partial(reporting.run_on_tensorflow, __file__, {**common, **place})
            wanted.append((place, f"{MODELS[model]}, {compute}", run))
    reporting.measure_missing(report, wanted, parsed.fresh, lambda: write(report, parsed.output))
    print(to_markdown(report), flush=True)


if __name__ == "__main__":
    main()
