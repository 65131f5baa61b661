import importlib.util
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import pytest
from toys import backbone, gpt2_embedder, save_hugging_face

EXAMPLES = Path(__file__).parents[2] / "examples"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Done]:
    """The script's `main`, in this process: Keras is imported already."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("evaluate_script", EXAMPLES / "evaluate.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for kind in ("http", "https"):  # nothing is fetched in a test
        monkeypatch.setenv(f"{kind}_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # which remembers proxies
    monkeypatch.setenv("CPTK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CPTK_DATA_DIR", str(tmp_path))  # put back after what `main` sets
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")

    def call(*arguments: Any) -> Done:
        code = script.main(list(map(str, arguments)))
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STS-B in small, and a search of three documents."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "STS-B").mkdir()
    rows = [f"a man number {i},a man number {i * j},{j % 6}\n" for i in range(5) for j in range(6)]
    (folder / "STS-B" / "dev.csv").write_text("".join(rows))
    beir = folder / "cranfield"
    (beir / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": f"wing {i}"}) for i in range(3)]
    (beir / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (beir / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "wing 1"}) + "\n")
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    return folder


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preset") / "toy"
    gpt2_embedder(num_layers=1).save_to_preset(str(folder))
    return folder


@pytest.mark.slow
def test_a_report_in_three_forms_past_what_is_missing_and_resumed(
    run: Callable[..., Done], preset: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [preset, "--tasks", "stsb", "sst2", "--data", data, "--output", output]
    first = run(*command)
    assert first.returncode == 0, first.stdout + first.stderr
    report = json.loads((output / "report.json").read_text())
    assert set(report["results"]) == {"stsb"}
    assert report["results"]["stsb"]["split"] == "validation"
    assert {"sst2_knn", "sst2_linear_probe"} <= set(report["missing"])
    assert report["about"]["embedder"]["name"] == "toy"
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "| stsb | spearman |" in (output / "report.md").read_text()
    assert "Not run: sst2" in first.stdout
    assert "[1/5] stsb" in first.stdout
    assert "to go; at " in first.stdout
    assert not list(output.rglob(".scratch*"))
    assert str(tmp_path) not in json.dumps(report["about"])

    # More tasks: what is done stays, embeddings are found again, missing data is looked for again.
    second = run(preset, "--tasks", "stsb,cranfield", "--data", data, "--output", output)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "stsb: done in an earlier run" in second.stdout
    assert "4 texts embedded" in second.stdout
    again = json.loads((output / "report.json").read_text())
    assert again["results"]["stsb"] == report["results"]["stsb"]
    assert set(again["results"]) == {"stsb", "cranfield"}

    # Another split: the old report is kept aside.
    third = run(
        preset, "--tasks", "stsb", "--split", "validation", "--data", data, "--output", output
    )
    assert third.returncode == 0, third.stdout + third.stderr
    assert "0 texts embedded" in third.stdout
    assert len(list(output.glob("report-*.json"))) == 1


@pytest.mark.slow_on_jax
def test_hugging_face_folder_in_a_form_and_nothing_that_could_be_run(
    run: Callable[..., Done], data: Path, tmp_path: Path
) -> None:
    folder = save_hugging_face(tmp_path / "llama", backbone("Llama3", 2), "smollm")
    output = tmp_path / "out"
    options = ["--form", "prompt", "--num-layers", "1", "--dtype", "float32", "--output", output]
    none = run(folder, "--tasks", "sst2_knn", "--data", data, *options)
    assert none.returncode == 1
    assert "no task could be run" in none.stderr
    assert "not run: " in none.stdout
    some = run(folder, "--tasks", "stsb", "--data", data, *options)
    assert some.returncode == 0, some.stdout + some.stderr
    embedder = json.loads((output / "report.json").read_text())["about"]["embedder"]
    assert embedder["num_layers"] == 1
    assert list(embedder["roles"]) == ["text"]
    assert embedder["sequence_length"] == 64


@pytest.mark.parametrize(
    ("tasks", "message"),
    [("sst2_kn", "no task or group named 'sst2_kn'. Did you mean"), ("sst2", "nowhere")],
)
def test_wrong_arguments_are_two(
    tasks: str, message: str, run: Callable[..., Done], tmp_path: Path
) -> None:
    done = run("nowhere", "--tasks", tasks, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr


def test_wrong_flags(run: Callable[..., Done], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("nowhere", "--data", "not_there")
    assert "--data must be a folder. not_there" in capsys.readouterr().err
