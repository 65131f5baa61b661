"""The report on what was mined."""

import random

import numpy as np
import pytest

from cptk.data import Pairs
from cptk.mining import MiningReport


def parts(count=100, seed=0):
    rng = random.Random(seed)
    rows = [
        {"query": "q" * rng.randint(1, 9), "document": f"{n} " * rng.randint(1, 40), "path": str(n)}
        for n in range(count)
    ]
    return [Pairs(rows[start : start + 7]) for start in range(0, count, 7)]


def test_counts_and_lengths_are_those_of_the_pairs():
    report, several = MiningReport(), parts()
    assert list(report.watch(several)) == several
    assert report.pairs == 100
    report.counts.update(taken=100, short=3)
    text = str(report)
    assert text.startswith("100 pairs\n")
    assert {"taken", "short"} <= set(text.split())
    lengths = [len(q) for pairs in several for q in pairs["query"]]
    expected = np.histogram(lengths, [1, 2, 4, 8, 16])[0].tolist()
    line = next(line for line in text.split("\n") if line.startswith("query"))
    assert list(map(int, line.split()[1:5])) == expected
    assert sum(map(int, line.split()[1:])) == 100


def test_the_same_twenty_in_any_order():
    one, other, third = MiningReport(), MiningReport(), MiningReport(seed=1)
    several = parts()
    for report, order in ((one, several), (other, several[::-1]), (third, several)):
        list(report.watch(order))
    assert len(one.examples) == len(set(one.examples)) == 20
    assert one.examples == other.examples != third.examples
    rows = {(r["query"], r["document"], r["path"]) for pairs in several for r in pairs}
    assert set(one.examples) <= rows


def test_markdown_and_figure(tmp_path):
    report = MiningReport()
    list(report.watch([Pairs([("a | b", "c\nd")])]))
    markdown = report.to_markdown()
    assert r"'a \| b'" in markdown
    assert "| characters |" in markdown
    ax = report.plot()
    assert ax.get_xlabel() == "characters"
    ax.figure.savefig(tmp_path / "report.png")
    with pytest.raises(TypeError, match="Axes"):
        report.plot("no axes")


def test_nothing_mined_and_no_pairs():
    assert str(MiningReport()) == "0 pairs"
    assert MiningReport().to_markdown() == "0 pairs.\n"
    with pytest.raises(ValueError, match="nothing to draw"):
        MiningReport().plot()
    with pytest.raises(TypeError, match="should be Pairs"):
        list(MiningReport().watch([{"query": ["a"], "document": ["b"]}]))
    with pytest.raises(ValueError, match="seed"):
        MiningReport(seed=-1)
