"""Mining all Python that is installed, and a million pairs into a token store and out of it.

    python benchmarks/mining.py [--pairs 1000000] [--rounds 8] [--workers 2] [--tiny]

Each part runs in a process of its own and goes the way of `examples/mine_pairs.py`, with the
tokenizer of all-MiniLM-L6-v2. Writes mining.json and mining.md.
"""

import argparse
import datetime
import json
import os
import resource
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import reporting

sys.path.append(str(Path(__file__).parents[1] / "examples"))

PACKAGES = "cptk numpy pyarrow tokenizers tree-sitter tree-sitter-python".split()
LIMITS = {"seconds": 120, "gib": 1.0, "rate": 0.9, "milliseconds": 20}
SEED = 2201_10005
BATCH = 4096
AT_ONCE = 8192
"""Pairs that are made, or tokenised, at a time."""


def peak_gib(whose=resource.RUSAGE_SELF):
    """The most memory that this process, or the largest of those it started, has held."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(whose).ru_maxrss * scale / 2**30


# === Mining ===


def roots(tiny):
    """Folders that hold the standard library and all installed packages."""
    if tiny:
        return [Path(json.__file__).parent]
    return [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]


def jobs(task):
    """For each folder what `examples/mine_pairs.py` does of it."""
    import mine_pairs

    found = []
    for number, root in enumerate(roots(task["tiny"])):
        flags = [str(root), f"{task['folder']}/{number}", "--workers", str(task["workers"])]
        found.append(mine_pairs.parse([*flags, "--preset", "none"])[1])
    return mine_pairs, found


def measure_mining(task):
    """Seconds from a folder's name to its pairs on disk."""
    mine_pairs, found = jobs(task)
    files = megabytes = 0
    start = time.perf_counter()
    for job in found:
        units = mine_pairs.units_of(job, 200)
        mine_pairs.mine_all(units, job, task["workers"])
        files += sum(map(len, units))
    seconds = time.perf_counter() - start
    for job in found:
        paths = (path for unit in mine_pairs.units_of(job, 200) for path in unit)
        megabytes += sum((Path(job.source) / path).stat().st_size for path in paths) / 1e6
    return {
        "seconds": seconds,
        "files": files,
        "megabytes": megabytes,
        "pairs": sum(table.num_rows for table in tables(mine_pairs, found)),
        "peak_gib": max(peak_gib(), peak_gib(resource.RUSAGE_CHILDREN)),
    }


def tables(mine_pairs, found):
    """What was mined, a table a piece of work."""
    work = mine_pairs.work
    for job in found:
        for number in range(len(mine_pairs.units_of(job, 200))):
            yield work.got_table(work.mined(job, number))


# === A store ===


def drawn_pairs(task, count):
    """Real pairs again and again, each time with other words changed: no two are the same."""
    import cptk

    several = [t.select(["query", "document"]) for t in tables(*jobs(task)) if t.num_rows]
    queries, documents = (
        [x for t in several for x in t[side].to_pylist()] for side in ("query", "document")
    )
    rng = np.random.default_rng(SEED)
    words = sorted({word for text in queries[:20_000] for word in text.split() if word.isalpha()})
    for start in range(0, count, AT_ONCE):
        columns = {"query": [], "document": []}
        for number in range(start, min(start + AT_ONCE, count)):
            row = number % len(queries)
            for side, text in (("query", queries[row]), ("document", documents[row])):
                parts = text.split(" ")
                for place in rng.integers(len(parts), size=1 + len(parts) // 20).tolist():
                    parts[place] = words[int(rng.integers(len(words)))]
                parts.insert(int(rng.integers(len(parts))), f"{words[number % len(words)]}{number}")
                columns[side].append(" ".join(parts))
        yield cptk.data.Pairs(columns)


def reader_of(tiny):
    """The preprocessor, and its tokenizer as the `tokenizers` library has it."""
    import quickstart_models
    import tokenizers

    import cptk

    if tiny:
        reader = quickstart_models.tiny_gpt2(64, "float32").preprocessor
        vocabulary = reader.tokenizer.vocabulary
        plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("Ġ", "t")]))
        plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return reader, plain
    folder = quickstart_models.minilm_folder()
    embedder = cptk.models.TextEmbedder.from_preset(folder, load_weights=False)
    plain = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    plain.no_padding()
    plain.no_truncation()
    return embedder.preprocessor, plain


def measure_store(task):
    """Peak memory of writing, and seconds of batches."""
    import cptk

    reader, _ = reader_of(task["tiny"])
    pairs = drawn_pairs(task, task["pairs"])
    first = next(pairs)  # what is mined is loaded now: it is the benchmark's, not the store's
    base = peak_gib()

    def all_pairs():
        yield first
        yield from pairs

    folder = f"{task['folder']}/store"
    start = time.perf_counter()
    store = cptk.data.TokenStore.write(folder, all_pairs(), reader, verbose=0)
    seconds, peak = time.perf_counter() - start, peak_gib()
    batches = store.batches(min(BATCH, len(store) // 4), seed=1)
    places = np.random.default_rng(SEED).integers(len(batches), size=task["batches"] + 5)
    times = []
    for place in places.tolist():
        begin = time.perf_counter()
        batches.batch_at(place)
        times.append(1000 * (time.perf_counter() - begin))
    median, slow = np.quantile(times[5:], [0.5, 0.95]).tolist()
    return {
        "pairs": len(store),
        "seconds": seconds,
        "bytes": store.describe()["bytes"],
        "base_gib": base,
        "over_base_gib": peak - base,
        "batch": batches.batch_size,
        "milliseconds": median,
        "milliseconds_95": slow,
    }


def measure_rate(task):
    """Pairs a second into a store, and through `encode_batch` alone, in turn."""
    import cptk

    reader, plain = reader_of(task["tiny"])
    parts = list(drawn_pairs(task, task["rate_pairs"]))
    pairs = cptk.data.Pairs.concat(parts)
    count = len(pairs)
    texts = [[text for side in ("query", "document") for text in part[side]] for part in parts]
    check_same(reader, plain, texts[0][:200])

    def written(number):
        folder = f"{task['folder']}/rate-{number}"
        wall, cpu, _ = reporting.timed(
            lambda: cptk.data.TokenStore.write(folder, pairs, reader, verbose=0)
        )
        return wall, cpu

    def encoded(number):
        def step():
            for several in texts:
                plain.encode_batch(several, add_special_tokens=False)

        return reporting.timed(step)[:2]

    ours, theirs = reporting.alternate(written, encoded, task["rounds"])
    rate = reporting.median_ratio(theirs[:, 0], ours[:, 0])
    return {
        "pairs": count,
        "letters": sum(map(len, (text for several in texts for text in several))) / count,
        "per_second": float(count / np.median(ours[:, 0])),
        "encode_batch_per_second": float(count / np.median(theirs[:, 0])),
        "rate": rate,
        "cpu_rate": reporting.median_ratio(theirs[:, 1], ours[:, 1])["ratio"],
    }


def check_same(reader, plain, texts):
    """Both read the same ids, but for what the role puts around, and where texts are cut."""
    role = reader.resolve_role("query")
    before, after = map(len, reader.affixes(role))
    for row, other in zip(
        reader.tokenize(texts, role),
        plain.encode_batch(texts, add_special_tokens=False),
        strict=True,
    ):
        inner = list(row[before : len(row) - after])
        if inner != other.ids[: len(inner)]:
            raise SystemExit("The store and `tokenizers` should read the same ids. They differ.")


MEASURES = {"mining": measure_mining, "store": measure_store, "tokenising": measure_rate}


# === The report ===


def to_markdown(report):
    """The table that the documentation shows."""
    found = {row["what"]: row for row in report["rows"] if row["status"] == "measured"}
    rows = []

    def add(what, value, limit, kept):
        rows.append([what, value, limit, "yes" if kept else "no"])

    if "mining" in found:
        row = found["mining"]
        what = f"mining {row['files']:,} files ({row['megabytes']:,.0f} MB): {row['pairs']:,} pairs"
        seconds = f"{row['seconds']:.0f} s, largest process {row['peak_gib']:.2f} GiB"
        add(what, seconds, f"< {LIMITS['seconds']} s", row["seconds"] < LIMITS["seconds"])
    if "store" in found:
        row = found["store"]
        what = f"{row['pairs']:,} pairs into a store ({row['bytes'] / 1e6:,.0f} MB), peak memory"
        over = f"{row['over_base_gib']:.2f} GiB over {row['base_gib']:.2f}"
        add(what, over, f"< {LIMITS['gib']:g} GiB", row["over_base_gib"] < LIMITS["gib"])
        times = f"{row['milliseconds']:.1f} ms, 95 of 100 within {row['milliseconds_95']:.1f}"
        fast = row["milliseconds"] < LIMITS["milliseconds"]
        add(f"a batch of {row['batch']:,} pairs", times, f"< {LIMITS['milliseconds']} ms", fast)
    if "tokenising" in found:
        row = found["tokenising"]
        rate = row["rate"]
        what = (
            f"pairs of {row['letters']:.0f} letters a second into a store: {row['per_second']:,.0f}"
        )
        value = (
            f"{rate['ratio']:.2f} of `encode_batch` alone "
            f"({rate['low']:.2f} to {rate['high']:.2f}; {row['cpu_rate']:.2f} by CPU seconds)"
        )
        add(what, value, f">= {LIMITS['rate']}", rate["ratio"] >= LIMITS["rate"])
    failed = [
        f"{row['what']}: {row['reason']}" for row in report["rows"] if row["status"] != "measured"
    ]
    setup = report["setup"]
    return "\n\n".join([
        "# Mining and storing",
        f"The standard library and all installed packages, mined by {setup['workers']} processes; "
        "real pairs with changed words, all different. The rate is the median of ratios of "
        f"{setup['rounds']} rounds in turn, with its interval.",
        reporting.markdown_table(["what", "measured", "wanted", "kept"], rows),
        *failed,
        reporting.footer(report),
    ]) + "\n"  # fmt: skip


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, help="pairs of the store (1,000,000)")
    parser.add_argument("--rounds", type=int, help="of the tokenising rate (8)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that mine")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tiny", action="store_true", help="a toy for a test: no real figures")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    for name, usual in (("pairs", (1_000_000, 400)), ("rounds", (8, 2))):
        if getattr(parsed, name) is None:
            setattr(parsed, name, usual[parsed.tiny])
    reporting.check_above_zero(parser, parsed, "pairs", "rounds", "workers")
    return parsed


def main(arguments=None):
    """Measure each part in a process of its own, and write the report."""
    options = parse(arguments)
    if options.worker:
        task = json.loads(options.worker[0])
        found = {**MEASURES[task["what"]](task), "status": "measured"}
        Path(options.worker[1]).write_text(json.dumps(found))
        return
    before = reporting.load_average()
    setup = {name: getattr(options, name) for name in ("pairs", "rounds", "workers", "tiny")}
    setup |= {"rate_pairs": min(options.pairs, 50_000), "batches": 10 if options.tiny else 200}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what in MEASURES:
            print(f"{what} ...", file=sys.stderr, flush=True)
            task = {**setup, "what": what, "folder": folder}
            rows.append({"what": what, **reporting.run_on_tensorflow(__file__, task)})
    report = {
        "benchmark": "mining",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            **reporting.machine(),
            "load_average": {"before": before, "after": reporting.load_average()},
        },
        "versions": reporting.versions(PACKAGES),
        "setup": setup,
        "rows": rows,
        "limits": LIMITS,
    }
    text = to_markdown(report)
    output = options.output
    reporting.write_atomically(output / "mining.json", json.dumps(report, indent=2) + "\n")
    reporting.write_atomically(output / "mining.md", text)
    print(f"\n{text}", flush=True)
    if any(row["status"] != "measured" for row in rows):
        raise SystemExit("Not all parts could be measured: see above.")


if __name__ == "__main__":
    main()
