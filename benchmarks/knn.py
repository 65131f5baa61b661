"""Exact nearest neighbours by `cptk.search.top_k`, beside scikit-learn and FAISS.

    python benchmarks/knn.py [--queries 100000] [--documents 100000] [--size 384] [--k 10 100 256]
                             [--contenders cptk faiss sklearn] [--tiny]

Each search runs in a fresh process, which reports its time and the most memory it held. The
documents and queries are float32 of the same seed; they are in memory before the clock starts, and
making them unit vectors, or building an index, is inside. Writes knn.json and knn.md.
"""

import argparse
import datetime
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import reporting

MODULES = {"cptk": "cptk", "faiss": "faiss", "sklearn": "sklearn"}
NAMES = {
    "cptk": "cptk `top_k`",
    "faiss": "FAISS `IndexFlatIP`",
    "sklearn": "scikit-learn `NearestNeighbors`, brute force",
}
PACKAGES = "cptk numpy faiss-cpu scikit-learn threadpoolctl".split()
LIMITS = {"faiss": 1.5, "sklearn": 1.0}  # of cptk's time by theirs
MEMORY_LIMIT = 2.0  # GiB, of cptk's process
SEED = 2201_10005


def make_vectors(queries, documents, size):
    """Clustered vectors, as embeddings are, not of unit length."""
    rng = np.random.default_rng(SEED)
    centres = rng.standard_normal((200, size), dtype=np.float32)

    def draw(count):
        vectors = rng.standard_normal((count, size), dtype=np.float32)
        for start in range(0, count, 8192):
            part = vectors[start : start + 8192]
            part += centres[rng.integers(0, len(centres), len(part))]
        return vectors

    return draw(queries), draw(documents)


def search_cptk(queries, documents, k):
    """`(scores, indices)` of cptk."""
    from cptk.search import top_k

    return lambda: top_k(queries, documents, k)


def search_faiss(queries, documents, k):
    """`(scores, indices)` of FAISS; it searches copies of unit length."""
    import faiss

    def search():
        index = faiss.IndexFlatIP(documents.shape[1])
        unit = documents.copy()
        faiss.normalize_L2(unit)
        index.add(unit)
        del unit
        asked = queries.copy()
        faiss.normalize_L2(asked)
        return index.search(asked, k)

    return search


def search_sklearn(queries, documents, k):
    """`(scores, indices)` of scikit-learn, which gives cosine distances."""
    from sklearn.neighbors import NearestNeighbors

    def search():
        index = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(documents)
        distances, indices = index.kneighbors(queries)
        return 1 - distances, indices

    return search


SEARCHES = {"cptk": search_cptk, "faiss": search_faiss, "sklearn": search_sklearn}


def measure(contender, arguments, k, sample):
    """One search; the scores of some queries are left in `sample`, to be compared."""
    queries, documents = make_vectors(arguments.queries, arguments.documents, arguments.size)
    search = SEARCHES[contender](queries, documents, k)
    wall, cpu, (scores, _) = reporting.timed(search)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(sample, np.asarray(scores[:: max(1, len(scores) // 100)], np.float32))
    return {
        "contender": contender,
        "k": k,
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_gib": peak * (1 if sys.platform == "darwin" else 1024) / 2**30,
    }


def run_fresh(contender, arguments, k, folder):
    """`measure` in its own process, or why not."""
    if importlib.util.find_spec(MODULES[contender]) is None:
        return {"contender": contender, "k": k, "status": "not installed"}
    result, sample = folder / "result.json", folder / f"{contender}-{k}.npy"
    command = [
        *(sys.executable, __file__, "--worker", contender, str(result), str(sample)),
        *("--queries", str(arguments.queries), "--documents", str(arguments.documents)),
        *("--size", str(arguments.size), "--k", str(k)),
    ]
    print(f"{contender}, k = {k} ...", file=sys.stderr, flush=True)
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(f"{contender} failed, nothing is written:\n{run.stderr[-3000:]}")
    return {**json.loads(result.read_text()), "status": "measured", "sample": str(sample)}


def compare(rows):
    """The time of cptk by each other's, at each k, and how far the scores found lie apart."""
    measured = {(r["contender"], r["k"]): r for r in rows if r["status"] == "measured"}
    comparisons = []
    for (contender, k), row in measured.items():
        ours = measured.get(("cptk", k))
        if contender == "cptk" or ours is None:
            continue
        ratio = ours["seconds"] / row["seconds"]
        difference = np.abs(np.load(ours["sample"]) - np.load(row["sample"])).max()
        if difference > 1e-4:
            raise SystemExit(
                f"cptk and {contender} should find the same scores. "
                f"Received a difference of {difference:.2g} at k = {k}."
            )
        comparisons.append(
            {
                "against": contender,
                "k": k,
                "ratio": ratio,
                "cpu_ratio": ours["cpu_seconds"] / row["cpu_seconds"],
                "limit": LIMITS[contender],
                "within_limit": "yes" if ratio <= LIMITS[contender] else "no",
                "largest_difference": float(difference),
            }
        )
    return comparisons


def to_markdown(report):
    """The tables that the documentation shows."""
    setup = report["setup"]
    rows = []
    for row in report["contenders"]:
        cells = [str(row["k"]), NAMES[row["contender"]]]
        if row["status"] == "measured":
            cells += [f"{row[key]:.1f}" for key in ("seconds", "cpu_seconds")]
            cells += [f"{row['peak_gib']:.2f}"]
        else:
            cells += [row["status"], "", ""]
        rows.append(cells)
    ratios = [
        [row["k"], NAMES[row["against"]]]
        + [f"{row[key]:.2f}" for key in ("ratio", "cpu_ratio")]
        + [row["limit"], row["within_limit"]]
        for row in report["comparisons"]
    ]
    return f"""# Exact nearest neighbours

{setup["queries"]:,} queries × {setup["documents"]:,} documents of {setup["size"]} numbers, \
float32, by cosine. Each search in a process of its own; peak memory is of the whole process, \
inputs included ({setup["input_gib"]:.2f} GiB).

{reporting.markdown_table(["k", "contender", "s", "CPU s", "peak, GiB"], rows)}

cptk's time / the other's.

{reporting.markdown_table(["k", "against", "time", "CPU time", "time at most", "kept"], ratios)}

{reporting.footer(report)}
"""


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, help="number of queries (100,000)")
    parser.add_argument("--documents", type=int, help="number of documents (100,000)")
    parser.add_argument("--size", type=int, help="numbers in a vector (384)")
    parser.add_argument("--k", type=int, nargs="+", help="neighbours to find (10 100 256)")
    parser.add_argument("--contenders", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test: no real figures")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    usual = (300, 400, 16, [3]) if parsed.tiny else (100_000, 100_000, 384, [10, 100, 256])
    for name, value in zip(("queries", "documents", "size", "k"), usual, strict=True):
        if getattr(parsed, name) is None:
            setattr(parsed, name, value)
    for name in ("queries", "documents", "size"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} should be 1 or more. Received: {getattr(parsed, name)}.")
    if not all(1 <= k <= parsed.documents for k in parsed.k):
        parser.error(f"--k should be from 1 to the documents. Received: {parsed.k}.")
    return parsed


def main(arguments=None):
    """Measure what is asked for, and write the report."""
    arguments = parse(arguments)
    if arguments.worker:
        contender, result, sample = arguments.worker
        Path(result).write_text(json.dumps(measure(contender, arguments, arguments.k[0], sample)))
        return
    before = reporting.load_average()
    with tempfile.TemporaryDirectory() as name:
        rows = [
            run_fresh(contender, arguments, k, Path(name))
            for k in dict.fromkeys(arguments.k)
            for contender in dict.fromkeys(arguments.contenders)
        ]
        comparisons = compare(rows)
    load = {"before": before, "after": reporting.load_average()}
    numbers = (arguments.queries + arguments.documents) * arguments.size
    report = {
        "benchmark": "knn",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {**reporting.machine(), "load_average": load},
        "versions": reporting.versions(PACKAGES),
        "setup": {
            "queries": arguments.queries,
            "documents": arguments.documents,
            "size": arguments.size,
            "tiny": arguments.tiny,
            "seed": SEED,
            "dtype": "float32",
            "input_gib": 4 * numbers / 2**30,
        },
        "contenders": [{k: v for k, v in row.items() if k != "sample"} for row in rows],
        "comparisons": comparisons,
        "memory_limit_gib": MEMORY_LIMIT,
    }
    text = to_markdown(report)
    reporting.write_atomically(arguments.output / "knn.json", json.dumps(report, indent=2) + "\n")
    reporting.write_atomically(arguments.output / "knn.md", text)
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
