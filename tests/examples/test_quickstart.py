import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "quickstart.py"

# Runs the script and ends it, as a power cut would, when it has made its second backup.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
import quickstart, cptk
class Backup(cptk.training.ExactBackupAndRestore):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
cptk.training.ExactBackupAndRestore = Backup
quickstart.main(sys.argv[1:])
"""


def _run(*arguments, code=None):
    program = ["-c", code, str(SCRIPT.parent)] if code else [str(SCRIPT)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": keras.backend.backend()}
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=570, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    output = tmp_path_factory.mktemp("quickstart")
    run = _run("--smoke", "--output", output)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout, output


@pytest.mark.slow
def test_smoke_run_leaves_all_that_it_promises(first_run):
    stdout, output = first_run
    results = json.loads((output / "results.json").read_text())
    assert set(results["rows"]) == {"tfidf", "untrained", "trained"}
    for row in results["rows"].values():
        assert set(row) == {"mrr", "recall@1", "recall@10"}
        assert 0 < row["mrr"] <= 1
        assert row["recall@1"] <= row["recall@10"]
    assert set(results["seconds"]) == {"pairs", "loading", "before", "training", "after", "index"}
    assert results["pairs_per_second"] > 0
    assert results["backend"] == keras.backend.backend()
    assert results["versions"]["keras"] == keras.__version__
    assert (output / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "embedder" / "config.json").exists()
    assert not (output / "backup").exists()
    assert not list(output.glob(".scratch*"))
    assert stdout.count(".py:") == 15  # five questions, three functions each
    assert "6/6" in stdout
    assert "500 functions." in stdout  # more than the 100 held out
    assert "Time: " in stdout
    assert str(output) not in (output / "results.json").read_text()


@pytest.mark.slow
def test_the_answers_say_what_the_functions_do(first_run):
    stdout, output = first_run
    read = json.loads((output / "pairs.json").read_text())["value"]["read"]
    said = {f"{pair['path']}:{pair['line']}": pair["query"] for pair in read}
    lines = stdout.splitlines()
    for place, below in itertools.pairwise(lines):
        if ".py:" in place:
            assert below.strip() == said[place.split()[1]][:80].strip()


@pytest.mark.slow
def test_a_decoder_answers_from_the_held_out_functions(tmp_path):
    run = _run("--smoke", "--base", "smollm2", "--output", tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "     100 functions." in run.stdout
    assert run.stdout.count(".py:") == 15
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["lora_rank"] == 4


@pytest.mark.slow
def test_splits_share_nothing(first_run):
    data = json.loads((first_run[1] / "pairs.json").read_text())["value"]
    assert len(data["held_out"]) == 100
    for column in ("query", "document", "path"):
        held_out = {pair[column] for pair in data["held_out"]}
        assert held_out.isdisjoint(pair[column] for pair in data["training"])


@pytest.mark.slow
def test_second_run_reuses_and_reaches_the_same(first_run):
    stdout, output = first_run
    before = json.loads((output / "results.json").read_text())
    run = _run("--smoke", "--output", output)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Epoch" not in run.stdout
    assert run.stdout.count("from an earlier run") + run.stdout.count("in an earlier run") == 4
    after = json.loads((output / "results.json").read_text())
    assert after["rows"] == before["rows"]
    # The answers of the reloaded preset are those of the embedder that was trained.
    assert _answers(run.stdout) == _answers(stdout)


@pytest.mark.full
@pytest.mark.slow
def test_killed_run_goes_on_where_it_was(tmp_path, first_run):
    killed = _run("--smoke", "--output", tmp_path, code=KILLED)
    assert killed.returncode == -9, killed.stdout + killed.stderr
    resumed = _run("--smoke", "--output", tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "Going on from the backup" in resumed.stdout
    assert "Epoch 2/4" not in resumed.stdout
    assert "Epoch 3/4" in resumed.stdout
    rows = [json.loads((p / "results.json").read_text())["rows"] for p in (tmp_path, first_run[1])]
    assert rows[0]["trained"]["mrr"] == pytest.approx(rows[1]["trained"]["mrr"], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "1"], "--batch-size must be at least 2"),
        (["--pairs", "3"], "--pairs must be at least the batch size, 256. Got 3"),
        (["--base", "gpt5"], "invalid choice: 'gpt5'"),
        (["--preset", "x.gguf"], "--base minilm reads no GGUF file. Add --base smollm2"),
        (["--seed", "-1"], "--seed must be between"),
        (["--backend", "numpy"], "invalid choice: 'numpy'"),
        (["--output", str(SCRIPT)], "--output must be a folder"),
        (["--prest", "x"], "unrecognized arguments: --prest"),
    ],
)
def test_bad_flags(arguments, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import quickstart

    with pytest.raises(SystemExit, match="2"):
        quickstart.parse_arguments(arguments)
    assert message in capsys.readouterr().err


def _answers(stdout):
    return [line.split()[1:] for line in stdout.splitlines() if ".py:" in line]


def test_the_competitors_line_is_there_when_it_was_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import quickstart_parts as parts

    rows = {"trained": {"mrr": 0.5, "recall@1": 0.25, "recall@10": 0.75}}
    file = tmp_path / "fine_tuning.json"
    monkeypatch.setattr(parts, "COMPARED", file)
    assert parts.competitor() is None
    assert "sentence-transformers" not in parts.table(rows, parts.competitor())
    st = {"mrr": 0.125, "recall@1": 0.0625, "recall@10": 0.5, "seconds": 400.2, "seeds": 3}
    file.write_text(json.dumps({"summary": {"st": st}}))
    lines = parts.table(rows, parts.competitor()).splitlines()
    assert lines[2].split() == ["sentence-transformers¹", "0.125", "0.062", "0.500"]
    assert "for 6 min 40 s" in lines[3]
