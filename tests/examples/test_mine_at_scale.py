"""Mining on a cluster: the survivors and the bytes of one process, on any number of nodes."""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cptk.data import Pairs, TokenStore
from cptk.mining import drop_near_duplicates, neighbouring_text, read_folder
from cptk.mining.copies import jaccard, shingles
from tests import toys
from tests.mining.test_near_duplicates import WORDS, by_all_comparisons, planted
from tests.tiers import FULL

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))
import mine_at_scale as script  # noqa: E402
import mine_at_scale_parts as work  # noqa: E402

JOB = work.Job("", "", "text", "paragraph", "document", 0.8, "", 8, False)
UNITS = 6


def rows_with_copies():
    """Texts, changed copies, equal texts of other queries, and pairs that are equal."""
    rows = planted(seed=2, originals=30)
    rows += [(f"other {i}", rows[i][1].upper()) for i in range(10)] + rows[5:15]
    return random.Random(3).sample(rows, len(rows))


def as_units(rows, folder):
    """The rows in files of mined pairs."""
    pairs = {}
    job = JOB._replace(work=str(folder))
    for unit in range(UNITS):
        part = rows[unit * len(rows) // UNITS : (unit + 1) * len(rows) // UNITS]
        work.put_table(work.mined(job, unit), Pairs(part).to_arrow())
        pairs[unit] = len(part)
    return job, pairs


def falling(rows):
    """Of each unit the rows that one process drops."""
    numbered = Pairs(
        {"query": [r[0] for r in rows], "document": [r[1] for r in rows],
         "number": list(range(len(rows)))}
    )  # fmt: skip
    stay = set(drop_near_duplicates(numbered)["number"])
    found = {}
    for unit in range(UNITS):
        start, stop = unit * len(rows) // UNITS, (unit + 1) * len(rows) // UNITS
        rows_of = [row - start for row in range(start, stop) if row not in stay]
        if rows_of:
            found[str(unit)] = rows_of
    return found


def shuffled(tables, by, function):
    """A shuffle without Ray: the tables that a function makes of each group."""
    table = pa.concat_tables(tables)
    order = np.random.default_rng(0).permutation(table.num_rows)
    table = table.take(pa.array(order))
    keys = table[by].to_numpy()
    return [function(table.filter(pa.array(keys == key))) for key in np.unique(keys)]


@pytest.mark.parametrize("buckets", [1, 7])
def test_the_steps_leave_what_one_process_leaves(tmp_path, buckets):
    rows = rows_with_copies()
    job, pairs = as_units(rows, tmp_path)
    units = {"unit": np.array(list(pairs))}
    made = shuffled(work.keyed(units, job, buckets), "bucket", work.met)
    assert sum(map(len, made)) < 25 * len(rows)  # what meets no other is gone
    made = shuffled(made, "unit", lambda table: work.with_texts(table, job))
    made = shuffled(made, "bucket", lambda table: work.decided(table, job))
    shuffled(made, "unit", lambda table: work.noted(table, job))
    expected = falling(rows)
    assert len(expected) == UNITS
    found = {
        unit: work.got_table(work.fallen_of(job, int(unit)))["row"].to_pylist() for unit in expected
    }
    assert found == expected


@pytest.mark.parametrize("size", [1, 4, 100])
def test_shards_are_cut_where_one_process_cuts(size):
    parts = list(script.shards_of({0: 5, 1: 0, 2: 9, 3: 3}, {0: 2, 3: 3}, size))
    left = [(0, row) for row in range(3)] + [(2, row) for row in range(9)]
    cut = [[(unit, row) for unit, _, a, b in each for row in range(a, b)] for each in parts]
    assert cut == [left[start : start + size] for start in range(0, len(left), size)]
    assert all(falls == (2 if unit == 0 else 0) for each in parts for unit, falls, _, _ in each)


def test_near_duplicates_are_found_at_a_similarity_of_08():
    """Of texts and a changed copy of each, those fall whose index is 0.8 or more, and no others."""
    rng = random.Random(5)
    rows, near = [], []
    for number in range(300):
        words = rng.choices(WORDS, k=80)
        copy = list(words)
        for place in rng.sample(range(80), rng.choice([2, 6, 8, 10, 11, 12, 13, 15])):
            copy[place] = rng.choice(WORDS)
        rows += [(f"q{number}", " ".join(words)), (f"q{number}", " ".join(copy))]
        near.append(jaccard(*(shingles(text) for _, text in rows[-2:])) >= 0.8)
    stay = Counter(drop_near_duplicates(Pairs(rows))["query"])
    found = np.array([stay[f"q{number}"] == 1 for number in range(300)])
    assert 50 < sum(near) < 250
    assert (near & found).sum() >= 0.95 * sum(near)  # recall
    assert (near & found).sum() >= 0.95 * found.sum()  # precision


def test_files_are_listed_as_one_process_reads_them(tmp_path):
    for name in ("a/x.md", "a.md", "B/y.TXT", "a/.hidden/z.md", "tests/t.md", "a/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Words.")
    paths = work.listed(str(tmp_path), work.ENDINGS["text"])
    assert paths == [each.path for each in read_folder(tmp_path, work.ENDINGS["text"])]
    assert paths == ["B/y.TXT", "a/x.md", "a.md"]
    assert work.listed(f"fsspec+file://{tmp_path}", work.ENDINGS["text"]) == paths


def test_what_lies_between_is_on_any_file_system(tmp_path):
    for folder in (str(tmp_path / "plain"), f"fsspec+file://{tmp_path}/other"):
        address = work.below(folder, "deep", "a.arrow")
        assert not work.is_there(address)
        work.put_table(address, pa.table({"row": [1, 2]}))
        assert work.got_table(address)["row"].to_pylist() == [1, 2]
        assert work.is_there(address)
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert names == ["a.arrow", "a.arrow"]


def test_a_folder_of_work_is_of_one_job(tmp_path):
    job = JOB._replace(work=str(tmp_path))
    script.claim(job, ["a.md"])
    script.claim(job, ["a.md"])
    with pytest.raises(SystemExit, match="differs in similarity"):
        script.claim(job._replace(similarity=0.9), ["a.md"])
    with pytest.raises(SystemExit, match="differs in files"):
        script.claim(job, ["a.md", "b.md"])


def test_a_stamp_changes_with_the_file(tmp_path):
    (tmp_path / "a.md").write_text("One.")
    first = work.stamps(str(tmp_path), ["a.md", "gone.md", "\udcff.md"])
    assert first == work.stamps(str(tmp_path), ["a.md", "gone.md", "\udcff.md"])
    (tmp_path / "a.md").write_text("Two, and longer.")
    second = work.stamps(str(tmp_path), ["a.md", "gone.md", "\udcff.md"])
    assert [one == two for one, two in zip(first, second, strict=True)] == [False, True, True]


def test_bad_flags(tmp_path, capsys):
    for wrong, told in (
        ([str(tmp_path / "none"), "out"], "INPUT should be a folder"),
        (["gopher://x", "out"], "INPUT cannot be read"),
        ([str(tmp_path), "out", "--similarity", "0.1"], "from 0.5 to 1"),
        ([str(tmp_path), "out", "--files-per-task", "0"], "1 or more"),
    ):
        with pytest.raises(SystemExit):
            script.main(wrong)
        assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="a cluster takes minutes to start: CPTK_FULL=1")
def test_a_cluster_that_loses_a_node_writes_the_bytes_of_one_process(tmp_path):
    rows = rows_with_copies()
    as_units(rows, tmp_path / "planted")
    project = tmp_path / "project"
    project.mkdir()
    for number in range(24):
        texts = [document for _, document in rows[number * 5 : number * 5 + 6]]
        (project / f"{number:02}.md").write_text("\n\n".join(texts))
    embedder = toys.embedder()
    embedder.save_to_preset(str(tmp_path / "toy"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES.parent),
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        # Machines that have other things to do.
        "RAY_raylet_start_wait_time_s": "600",
        "RAY_agent_register_timeout_ms": "600000",
        "RAY_worker_register_timeout_seconds": "600",
        "RAY_health_check_initial_delay_ms": "60000",
        "RAY_health_check_timeout_ms": "60000",
    }
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as short:  # for names of sockets
        command = [str(Path(__file__).parent / "cluster_run.py"), tmp_path, tmp_path / "toy", short]
        run = subprocess.run(
            [sys.executable, *map(str, command)], capture_output=True, text=True,
            env=environment, timeout=3000,
        )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    # The same survivors with 1, 2 and 4 workers, which are those of one process and of the rule.
    found = json.loads((tmp_path / "survivors.json").read_text())
    assert list(found) == ["1", "2", "4"]
    assert all(fallen == falling(rows) for fallen in found.values())
    assert sum(map(len, falling(rows).values())) == by_all_comparisons(rows, 0.8).count(False)
    # One node was killed when few of the twelve units had been mined.
    assert 2 <= int((tmp_path / "when.txt").read_text()) < 10
    parts = list(neighbouring_text(read_folder(project, [".md"]), unit="paragraph"))
    pairs = drop_near_duplicates(Pairs.concat(parts))
    assert 8 < len(pairs) < len(Pairs.concat(parts))
    TokenStore.write(tmp_path / "one", pairs, embedder.preprocessor, rows_per_shard=8, verbose=0)
    contents = [
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.is_file()}
        for name in ("one", "killed")
    ]
    assert contents[0] == contents[1]
