"""Encoding of Parquet files by actors: every row once, whichever actor is killed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import toys
from tests.tiers import FULL

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))
import encode_at_scale as script  # noqa: E402

ROWS = 200_000 if FULL else 3000


def texts(count):
    return [f"thing {number} " + "x" * (number % 9) for number in range(count)]


def write_input(folder, count, files=3, group=700):
    """Rows in files of several row groups, in folders, beside what is no Parquet file."""
    (folder / "deep").mkdir(parents=True)
    (folder / "README.md").write_text("no rows")
    (folder / "_about.parquet").write_bytes(b"hidden")
    table = pa.table({"id": range(count), "text": texts(count)})
    for number in range(files):
        start, stop = number * count // files, (number + 1) * count // files
        place = folder / ("deep" if number % 2 else "") / f"{number}.parquet"
        pq.write_table(table.slice(start, stop - start), place, row_group_size=group)
    return table


def job_of(folder, **changes):
    job = script.Job(
        str(folder / "in"), str(folder / "out"), str(folder / "toy"), "text", "query", "float32",
        None, 100,
    )  # fmt: skip
    return job._replace(**changes)


def read(folder):
    table = pq.ParquetDataset(folder).read().sort_by("id")
    vectors = table["vector"].combine_chunks()
    return table, vectors.values.to_numpy().reshape(len(table), -1)


@pytest.mark.parametrize("size", [1, 64, 5000])
def test_tasks_hold_each_row_once(tmp_path, size):
    write_input(tmp_path / "in", 500, group=150)
    job = job_of(tmp_path, rows_per_task=size)
    paths = script.parquet_files(job.source)
    assert [Path(path).name for path in paths] == ["0.parquet", "2.parquet", "1.parquet"]
    tasks = list(script.tasks_of(job, paths))
    assert [task.number for task in tasks] == list(range(len(tasks)))
    rows = []
    for task in tasks:
        table = pq.ParquetFile(task.path).read_row_group(task.group)
        assert task.stop - task.start <= size
        rows += table["id"].to_pylist()[task.start : task.stop]
    assert sorted(rows) == list(range(500))


@pytest.mark.parametrize("dtype", ["float32", "float16", "binary"])
def test_an_actor_writes_the_vectors_of_one_process(tmp_path, dtype):
    table = write_input(tmp_path / "in", 90, group=40)
    embedder = toys.gpt2_embedder(1)
    embedder.save_to_preset(str(tmp_path / "toy"))
    job = job_of(tmp_path, dtype=dtype, truncate_dim=9, rows_per_task=32)
    tasks = list(script.tasks_of(job, script.parquet_files(job.source)))
    script.claim(job, tasks, script.parquet_files(job.source))
    actor = script.Encode(job)
    for task in [*tasks, tasks[1]]:  # one of them again, after a loss
        actor.write(task)
    script.check(job, tasks)
    found, vectors = read(tmp_path / "out")
    assert found.select(["id", "text"]).equals(table)
    expected = embedder.encode_text(texts(90), "query", truncate_dim=9, dtype=dtype, verbose=0)
    assert vectors.dtype == expected.dtype
    if dtype == "binary":
        assert np.mean(np.unpackbits(vectors) == np.unpackbits(expected)) > 0.99
    else:
        np.testing.assert_allclose(vectors, expected, atol=1e-3 if dtype == "float16" else 1e-6)


def test_an_output_is_of_one_job(tmp_path):
    write_input(tmp_path / "in", 30)
    job = job_of(tmp_path)
    paths = script.parquet_files(job.source)
    tasks = list(script.tasks_of(job, script.parquet_files(job.source)))
    script.claim(job, tasks, script.parquet_files(job.source))
    script.claim(job, tasks, script.parquet_files(job.source))
    with pytest.raises(SystemExit, match="differs in role"):
        script.claim(job._replace(role="document"), tasks, paths)
    with pytest.raises(SystemExit, match="differs in tasks, rows"):
        script.claim(job, tasks[:-1], paths)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "weights").write_text("other")
    with pytest.raises(SystemExit, match="differs in embedder"):
        script.claim(job, tasks, paths)
    (tmp_path / "toy" / "weights").unlink()
    (tmp_path / "toy").rmdir()
    os.utime(tmp_path / "in" / "0.parquet", (1, 1))
    with pytest.raises(SystemExit, match="differs in files"):
        script.claim(job, tasks, paths)
    pq.write_table(pa.table({"text": ["x"], "vector": [1]}), tmp_path / "in" / "v.parquet")
    with pytest.raises(SystemExit, match="has a column 'vector' already"):
        list(script.tasks_of(job, script.parquet_files(job.source)))
    with pytest.raises(SystemExit, match="has no column 'body'"):
        list(script.tasks_of(job._replace(column="body"), script.parquet_files(job.source)))


def test_bad_flags(tmp_path, capsys):
    for wrong, told in (
        ([str(tmp_path / "none"), "out"], "INPUT should be a folder"),
        (["gopher://x", "out"], "INPUT cannot be read"),
        ([str(tmp_path), str(tmp_path), "--preset", "p"], "should not lie in one another"),
        ([str(tmp_path), str(tmp_path / "out"), "--preset", "p"], "should not lie in one another"),
        ([str(tmp_path), str(tmp_path.parent), "--preset", "p"], "should not lie in one another"),
        ([str(tmp_path), "out", "--rows-per-task", "0"], "1 or more"),
        ([str(tmp_path), "out", "--dtype", "int8"], "invalid choice"),
    ):
        with pytest.raises(SystemExit):
            script.main(wrong)
        assert told in capsys.readouterr().err


@pytest.mark.slow
def test_actors_that_are_killed_lose_nothing_and_write_nothing_twice(tmp_path):
    table = write_input(tmp_path / "in", ROWS, group=ROWS // 5)
    embedder = toys.gpt2_embedder(1)
    embedder.save_to_preset(str(tmp_path / "toy"))
    marks = tmp_path / "marks"
    marks.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        # Machines that have other things to do.
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_agent_register_timeout_ms": "300000",
    }
    run_script = str(Path(__file__).parent / "encode_run.py")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as short:  # for names of sockets
        command = [run_script, tmp_path / "in", tmp_path / "out", tmp_path / "toy", marks]
        run = subprocess.run(
            [sys.executable, *map(str, command), str(ROWS // 20)], capture_output=True, text=True,
            env={**environment, "RAY_TMPDIR": short}, timeout=580,
        )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    assert sorted(mark.name for mark in marks.iterdir()) == ["after", "before"]
    found, vectors = read(tmp_path / "out")
    assert found.select(["id", "text"]).equals(table)
    some = np.linspace(0, ROWS - 1, 500).astype(int)
    expected = embedder.encode_text([texts(ROWS)[row] for row in some], "query", verbose=0)
    np.testing.assert_allclose(vectors[some], expected, atol=1e-5)


def test_a_column_of_numbers_is_refused(tmp_path):
    write_input(tmp_path / "in", 3)
    job = job_of(tmp_path)._replace(column="id")
    with pytest.raises(SystemExit, match="no texts in the column 'id', but int64"):
        list(script.tasks_of(job, script.parquet_files(job.source)))
