"""What the quickstart needs besides cptk: a clock, kept results, a schedule, and the figure."""

import contextlib
import hashlib
import itertools
import json
import os
import platform
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {"tfidf": "TF-IDF", "untrained": "before training", "trained": "after training"}
COMPARED = Path(__file__).parents[1] / "benchmarks" / "results" / "fine_tuning.json"
COLOURS = {"tfidf": "#999999", "untrained": "#E69F00", "trained": "#0072B2"}  # Okabe and Ito's


class Clock:
    """Prints a line as each stage begins and remembers how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Times what is in the `with` block."""
        print(f"\n{title}", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)
        say(f"[{duration(self.seconds[name])}]")

    def summary(self) -> str:
        """Where the time went, on one line."""
        parts = [f"{name} {duration(seconds)}" for name, seconds in self.seconds.items()]
        return f"Time: {duration(sum(self.seconds.values()))} = " + " + ".join(parts)


def duration(seconds: float) -> str:
    """`75.2` as `1 min 15 s`."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{seconds:.1f} s"


def say(text: str) -> None:
    """Prints a line of a stage."""
    print(f"     {text}", flush=True)


def progress(title: str) -> Callable[[int, int], None]:
    """A function of (done, total) that draws a progress bar on a terminal."""
    say(title)

    def show(done: int, total: int) -> None:
        step = max(1, total // 200)
        if sys.stdout.isatty() and (done % step == 0 or done == total):
            bar = "=" * (30 * done // total)
            end = "\n" if done == total else ""
            print(f"\r     [{bar:30}] {done:,} of {total:,} files", end=end, flush=True)

    return show


# === Results kept between runs ===


def fingerprint(*parts: Any) -> str:
    """A short name for all that a result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Shelf:
    """Keeps results in a folder, each with the fingerprint of what it depends on.

    A file is written beside its place and renamed, so that it is whole or not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str, key: str) -> Any:
        """What `write` was given under this name and key, or `None`."""
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
            return content["value"] if content["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, name: str, key: str, value: Any) -> None:
        """Keeps what JSON can hold."""
        self.write_json(name, {"key": key, "value": value})

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file in one step."""
        text = json.dumps(content, indent=None if name == "pairs.json" else 2, ensure_ascii=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file in one step."""
        self._replace(name, lambda path: path.write_text(text, encoding="utf-8"))

    def read_arrays(self, name: str, key: str) -> tuple[np.ndarray, ...] | None:
        """What `write_arrays` was given under this name and key, or `None`."""
        try:
            with np.load(self.folder / name, allow_pickle=False) as content:
                if str(content["key"]) != key:
                    return None
                return tuple(content[f"array{i}"] for i in range(len(content.files) - 1))
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def write_arrays(self, name: str, key: str, arrays: Sequence[np.ndarray]) -> None:
        """Keeps arrays, in order."""
        named: dict[str, Any] = {f"array{i}": array for i, array in enumerate(arrays)}
        self._replace(name, lambda path: np.savez(path, key=np.array(key), **named))

    def save_figure(self, name: str, figure: Any) -> None:
        """Writes a picture in one step."""
        self._replace(name, lambda path: figure.savefig(path, dpi=150))

    def discard(self, name: str) -> None:
        """Removes a folder, if it is there."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _replace(self, name: str, write: Callable[[Path], Any]) -> None:
        scratch = self.folder / f".scratch-{os.getpid()}-{name}"
        try:
            write(scratch)
            scratch.replace(self.folder / name)
        finally:
            scratch.unlink(missing_ok=True)


def installed() -> list[str]:
    """Python and every installed package, with versions."""
    packages = {f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions()}
    return [platform.python_version(), *sorted(packages)]


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of the named packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def state_of(path: str | None) -> list[Any]:
    """What tells one content of a preset folder or file from another: names, sizes and times."""
    if path is None or not os.path.exists(path):
        return [path]
    root = Path(path)
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]


# === Training ===


def linear_schedule(peak: float, warmup_steps: int, steps: int) -> Any:
    """Linear warm-up to `peak`, then linear decay to zero."""
    import keras

    class WarmupThenLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            step = keras.ops.cast(step, "float32")
            rising = (step + 1) / (warmup_steps + 1)
            falling = (steps - step) / (steps - warmup_steps)
            return peak * keras.ops.maximum(keras.ops.minimum(rising, falling), 0.0)

        def get_config(self) -> dict[str, Any]:
            return {"peak": peak, "warmup_steps": warmup_steps, "steps": steps}

    return WarmupThenLinearDecay()


def alike_in_length(pairs: Any, batch_size: int, seed: int) -> list[Any]:
    """Shuffled batches of pairs with codes, and docstrings, of like length: little is padding."""
    pairs = sorted(pairs, key=lambda pair: len(pair["document"]))
    band = batch_size * round((len(pairs) / batch_size) ** 0.5)
    batches = []
    for start in range(0, len(pairs), band):
        like = sorted(pairs[start : start + band], key=lambda pair: len(pair["query"]))
        batches += [like[i : i + batch_size] for i in range(0, len(like), batch_size)]
    random.Random(seed).shuffle(batches)
    return [pair for batch in batches for pair in batch]


# === What is shown ===


def competitor() -> dict[str, float] | None:
    """What sentence-transformers reached from MiniLM on the same task, where that was measured."""
    try:
        found = json.loads(COMPARED.read_text(encoding="utf-8"))["summary"]["st"]
        return {name: found[name] for name in ("mrr", "recall@1", "recall@10", "seconds")}
    except (OSError, ValueError, KeyError):
        return None


def table(
    rows: Mapping[str, Mapping[str, float]], competitor: Mapping[str, float] | None = None
) -> str:
    """The measurements as a text table, the competitor's below where there are any."""
    shown = {NAMES[name]: row for name, row in rows.items()}
    if competitor is not None:
        shown["sentence-transformers¹"] = competitor
    lines = [f"{'':22}{'MRR':>8}{'recall@1':>11}{'recall@10':>11}"]
    for name, row in shown.items():
        figures = f"{row['mrr']:8.3f}{row['recall@1']:11.3f}{row['recall@10']:11.3f}"
        lines.append(f"{name:22}{figures}")
    if competitor is not None:
        lines.append(f"¹ MiniLM fine-tuned on such pairs for {duration(competitor['seconds'])}, "
                     "by benchmarks/fine_tuning.py")  # fmt: skip
    return "\n".join(f"     {line}" for line in lines)


def draw(
    ranks: Mapping[str, np.ndarray],
    untrained: Sequence[np.ndarray],
    trained: Sequence[np.ndarray],
    subject: str,
) -> Any:
    """The figure: where the right function was ranked, and how its docstring moved towards it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from sklearn.decomposition import PCA

    size = len(ranks["tfidf"])
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 5), width_ratios=[1.25, 1, 1], layout="constrained"
    )

    edges = [e for e in (1, 2, 4, 11, 31, 101, 301) if e <= size] + [size + 1]
    for shift, (name, values) in enumerate(ranks.items()):
        share = np.histogram(values, edges)[0] / size
        label = f"{NAMES[name]}, MRR {np.mean(1 / values):.2f}"
        place = np.arange(len(share)) + 0.27 * (shift - 1)
        left.bar(place, share, 0.25, color=COLOURS[name], label=label)
    spans = itertools.pairwise(edges)
    labels = [f"{a}" if b - a == 1 else f"{a}–{b - 1}" for a, b in spans]
    left.set_xticks(range(len(labels)), labels)
    left.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, 0))
    left.set(xlabel=f"rank of the right function among {size:,}", ylabel="share of docstrings")
    left.set_title("Searching a function by its docstring")
    left.legend(frameon=False)

    for axes, (queries, documents), name in (
        (middle, untrained, "untrained"),
        (right, trained, "trained"),
    ):
        points = PCA(2, random_state=0).fit_transform(np.concatenate([queries, documents]))
        q, d = points[:size], points[size:]
        shown = np.random.default_rng(0).permutation(size)[:150]
        axes.plot(
            *np.stack([q[shown], d[shown]], axis=1).transpose(2, 1, 0),
            color="#555555", alpha=0.35, linewidth=0.7, zorder=1,
        )  # fmt: skip
        axes.scatter(*q[shown].T, s=16, color="#D55E00", label="docstring", zorder=2)
        axes.scatter(*d[shown].T, s=16, color="#56B4E9", marker="^", label="its code", zorder=2)
        cosines = queries @ documents.T
        pairs = np.trace(cosines) / size
        others = (cosines.sum() - np.trace(cosines)) / (size * (size - 1))
        axes.set_title(
            f"{NAMES[name].capitalize()}\nmean cosine: own code {pairs:.2f}, others' {others:.2f}"
        )
        axes.set(xlabel="first principal component", ylabel="second principal component")
        axes.set_xticks([])
        axes.set_yticks([])
    middle.legend(frameon=False)
    figure.suptitle(subject)
    return figure
