"""The loss in tiles beside the bare matrix products that it needs, and beside the plain loss.

    python benchmarks/tiled_loss.py [--sizes 8192 65536] [--width 768] [--tile 1024] [--rounds 3]
                                    [--backends tensorflow jax torch] [--plain-limit 8192]
                                    [--contenders tiled tiled_ids plain] [--tiny]

A contender computes the mean of the symmetric loss of n queries and n documents, float32, and its
gradients for both sides and the scale, compiled as `fit` compiles it. Each runs in a process of its
own. One in tiles takes turns there with its products alone: per tile one in a loop, as forward, and
three in another, as backward, 8 n² d floating-point operations in all. Writes tiled_loss.json and
tiled_loss.md.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import reporting

NAMES = {"tiled": "in tiles", "tiled_ids": "in tiles, masked by ids", "plain": "plain"}
BACKENDS = ("tensorflow", "jax", "torch")
PACKAGES = "cptk keras tensorflow jax torch numpy".split()
RATIO_LIMIT = 1.3  # of the time, by the products alone
MEMORY_LIMIT = 1.0  # GiB above the inputs and their gradients
SCALE = 20.0
SEED = 2201_10005


def status(field):
    """A memory figure of this process in bytes, as Linux has it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: this benchmark needs Linux.")


def peak_above(call):
    """The most memory the process held during a call above what it held before, and the result."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    result = call()
    return status("VmHWM") - before, result


def make_loss(contender, ids, tile):
    """The mean loss as a function of query, document and scale."""
    from keras import ops

    from cptk.losses import same_text_mask, symmetric_info_nce
    from cptk.losses.tiles import streamed_info_nce

    def plain(query, document, scale):
        logits = (query * scale) @ ops.transpose(document)
        return ops.mean(symmetric_info_nce(logits, same_text_mask(ids, ids)))

    def tiled(query, document, scale):
        pair = (ids, ids) if contender == "tiled_ids" else None
        rows, columns, _, _ = streamed_info_nce(
            query, document, scale, row_ids=pair, column_ids=pair, tile_size=tile
        )
        return ops.mean(rows + columns) / 2

    return plain if contender == "plain" else tiled


def products(query, document, tile):
    """The four matrix products of every tile, and nothing else."""
    from keras import ops

    size, width = query.shape
    tile = min(tile, size)
    across = -(-size // tile)

    def cut(step):
        starts = [i * tile for i in (step // across, step % across)]
        if not isinstance(step, int):
            starts = [ops.minimum(start, size - tile) for start in starts]
        starts = [min(s, size - tile) if isinstance(s, int) else s for s in starts]
        return [
            ops.slice(x, (s, 0), (tile, width))
            for x, s in zip((query, document), starts, strict=True)
        ]

    def forward(step, _):
        rows, columns = cut(step)
        return rows @ ops.transpose(columns)

    def backward(step, _):
        rows, columns = cut(step)
        logits = rows @ ops.transpose(columns)
        return logits, logits @ columns, ops.transpose(logits) @ rows

    square, tall = ops.zeros((tile, tile)), ops.zeros((tile, width))
    return (
        ops.fori_loop(0, across**2, forward, square),
        ops.fori_loop(0, across**2, backward, (square, tall, tall)),
    )


def compiled(backend, loss, tile):
    """`(loss and gradients, products)`, functions of the tensors that return when all is done."""
    if backend == "jax":
        import jax

        gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        bare = jax.jit(lambda query, document: products(query, document, tile))
        return (
            lambda *tensors: jax.block_until_ready(gradients(*tensors)),
            lambda *tensors: jax.block_until_ready(bare(*tensors)),
        )
    if backend == "tensorflow":
        import tensorflow as tf

        def gradients(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value = loss(*tensors)
            return value, tape.gradient(value, tensors)

        return (
            tf.function(gradients, autograph=False),
            tf.function(lambda q, d: products(q, d, tile), autograph=False),
        )

    def gradients(*tensors):
        tensors = [tensor.detach().requires_grad_(True) for tensor in tensors]
        value = loss(*tensors)
        value.backward()
        return value.detach(), [tensor.grad for tensor in tensors]

    return gradients, lambda query, document: products(query, document, tile)


def measure(backend, contender, size, arguments):
    """Memory and times of one contender, and of the products at its side, in this process."""
    from keras import ops

    rng = np.random.default_rng(SEED)

    def unit_vectors():
        vectors = rng.standard_normal((size, arguments.width), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return ops.convert_to_tensor(vectors)

    query, document = unit_vectors(), unit_vectors()
    scale = ops.convert_to_tensor(np.float32(SCALE))
    ids = ops.convert_to_tensor(rng.integers(0, 10 * size, size).astype("int32"))
    loss = make_loss(contender, ids, arguments.tile)
    run, bare = compiled(backend, loss, arguments.tile)
    own = 2 * size * arguments.width * 4
    rounds = {"seconds": [], "cpu_seconds": [], "product_seconds": [], "product_cpu_seconds": []}
    value = peak = None
    for _ in range(arguments.rounds):
        above, (wall, cpu, result) = peak_above(
            lambda: reporting.timed(lambda: run(query, document, scale))
        )
        if peak is None:  # later rounds find memory that the first one has left
            value, peak = float(result[0]), above
        del result
        rounds["seconds"].append(wall)
        rounds["cpu_seconds"].append(cpu)
        if contender != "plain":
            wall, cpu, _ = reporting.timed(lambda: bare(query, document))
            rounds["product_seconds"].append(wall)
            rounds["product_cpu_seconds"].append(cpu)
    row = {
        "backend": backend,
        "contender": contender,
        "size": size,
        "loss": value,
        "extra_gib": max(peak - own, 0) / 2**30,
        "rounds": rounds,
        # The quickest of the rounds: compilation and other work on the machine only add to it.
        **{name: min(values) for name, values in rounds.items() if values},
    }
    if contender != "plain":
        row["ratio"] = row["seconds"] / row["product_seconds"]
        row["cpu_ratio"] = row["cpu_seconds"] / row["product_cpu_seconds"]
    return row


def run_fresh(backend, contender, size, arguments, folder):
    """`measure` in its own process."""
    result = folder / "result.json"
    command = [
        *(sys.executable, __file__, "--worker", backend, contender, str(result)),
        *("--sizes", str(size), "--width", str(arguments.width), "--tile", str(arguments.tile)),
        *("--rounds", str(arguments.rounds)),
    ]
    print(f"{backend}, {contender}, n = {size:,} ...", file=sys.stderr, flush=True)
    environment = {**os.environ, "KERAS_BACKEND": backend}
    run = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(
            f"{backend}, {contender} failed with status {run.returncode}, nothing is written:\n"
            f"{run.stderr[-3000:]}"
        )
    return json.loads(result.read_text())


def check_losses(rows):
    """All must find the same loss; the masked leave out a few negatives, and differ a little."""
    for row in rows:
        others = [r["loss"] for r in rows if r["size"] == row["size"]]
        if max(others) - min(others) > 1e-3 * max(others):
            raise SystemExit(
                f"All should find the same loss. Received, at n = {row['size']}: {others}."
            )


def to_markdown(report):
    """The tables that the documentation shows."""
    setup = report["setup"]
    rows = []
    for row in report["contenders"]:
        cells = [f"{row['size']:,}", row["backend"], NAMES[row["contender"]]]
        cells += [f"{row[key]:.1f}" for key in ("seconds", "cpu_seconds")]
        cells += [
            f"{row[key]:.{digits}f}" if key in row else ""
            for key, digits in (("product_seconds", 1), ("ratio", 2), ("cpu_ratio", 2))
        ]
        rows.append([*cells, f"{row['extra_gib']:.2f}"])
    header = [
        *("n", "backend", "loss", "s", "CPU s", "products alone, s"),
        *("ratio", "CPU ratio", "memory, GiB"),
    ]
    return f"""# The loss in tiles

Symmetric InfoNCE of n queries and n documents of {setup["width"]} numbers, float32, with its \
gradients, in tiles of {setup["tile"]:,}. Beside it the four matrix products that it needs, alone, \
in the same process, in turns; the quickest of {setup["rounds"]} counts. Memory is the most that \
the process held above its inputs and their gradients, compilation included.

{reporting.markdown_table(header, rows)}

Limits: a ratio of {RATIO_LIMIT}, and {MEMORY_LIMIT:.0f} GiB, at n = 65,536.

{reporting.footer(report)}
"""


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="pairs in a batch (8192 65536)")
    parser.add_argument("--width", type=int, help="numbers in an embedding (768)")
    parser.add_argument("--tile", type=int, help="rows and columns of a tile (1024)")
    parser.add_argument("--rounds", type=int, help="turns of loss and products (3)")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--contenders", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--plain-limit", type=int, default=8192, help="largest n of the plain loss")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test: no real figures")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    usual = ([48, 70], 8, 16, 1) if parsed.tiny else ([8192, 65_536], 768, 1024, 3)
    for name, value in zip(("sizes", "width", "tile", "rounds"), usual, strict=True):
        if getattr(parsed, name) is None:
            setattr(parsed, name, value)
    for name in ("width", "tile", "rounds"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} should be 1 or more. Received: {getattr(parsed, name)}.")
    if min(parsed.sizes) < 1:
        parser.error(f"--sizes should be 1 or more. Received: {parsed.sizes}.")
    return parsed


def main(arguments=None):
    """Measure what is asked for, and write the report."""
    arguments = parse(arguments)
    if arguments.worker:
        backend, contender, result = arguments.worker
        row = measure(backend, contender, arguments.sizes[0], arguments)
        Path(result).write_text(json.dumps(row))
        return
    before = reporting.load_average()
    with tempfile.TemporaryDirectory() as name:
        rows = [
            run_fresh(backend, contender, size, arguments, Path(name))
            for size in dict.fromkeys(arguments.sizes)
            for backend in dict.fromkeys(arguments.backends)
            for contender in dict.fromkeys(arguments.contenders)
            if contender != "plain" or size <= arguments.plain_limit
        ]
    check_losses(rows)
    report = {
        "benchmark": "tiled_loss",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            **reporting.machine(),
            "load_average": {"before": before, "after": reporting.load_average()},
        },
        "versions": reporting.versions(PACKAGES),
        "setup": {
            "width": arguments.width,
            "tile": arguments.tile,
            "rounds": arguments.rounds,
            "tiny": arguments.tiny,
            "seed": SEED,
            "dtype": "float32",
        },
        "contenders": rows,
        "limits": {"ratio": RATIO_LIMIT, "memory_gib": MEMORY_LIMIT},
    }
    text = to_markdown(report)
    path = arguments.output / "tiled_loss.json"
    reporting.write_atomically(path, json.dumps(report, indent=2) + "\n")
    reporting.write_atomically(path.with_suffix(".md"), text)
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
