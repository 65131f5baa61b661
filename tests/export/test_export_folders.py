"""The folder of an export: whole or not at all. The card, and what an upload would send."""

import json
from pathlib import Path

import pytest
from export_toys import decoder

import cptk
from cptk import files
from cptk.evaluation import Report, TaskResult
from cptk.export import model_card, sentence_transformers, target, to_sentence_transformers, upload


@pytest.fixture(scope="module")
def embedder():
    return decoder("GPT2", num_layers=1)


@pytest.fixture(scope="module")
def exported(embedder, tmp_path_factory):
    return to_sentence_transformers(embedder, tmp_path_factory.mktemp("exported") / "model")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# === Folders ===


def test_a_folder_that_exists_is_refused_and_replaced_if_asked(embedder, tmp_path):
    folder = tmp_path / "deep" / "model"
    to_sentence_transformers(embedder, folder, card="# First")
    before = content(folder)
    with pytest.raises(ValueError, match=r"`folder` exists: .*overwrite=True"):
        to_sentence_transformers(embedder, folder)
    assert content(folder) == before
    to_sentence_transformers(embedder, folder, card="# Second", overwrite=True)
    assert content(folder)["README.md"].startswith(b"# Second")
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("exchange", [True, False])
def test_nothing_changes_after_a_failure(embedder, exchange, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    folder = tmp_path / "model"
    to_sentence_transformers(embedder, folder)
    before = content(folder)

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sentence_transformers, "_write_prompts", full_disk)
        with pytest.raises(OSError, match="No space left"):
            to_sentence_transformers(embedder, folder, overwrite=True)
        with pytest.raises(OSError, match="No space left"):
            to_sentence_transformers(embedder, tmp_path / "new" / "model")
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    to_sentence_transformers(embedder, folder, card="# Again", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_no_export_wrote_is_never_replaced(embedder, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"no export of cptk wrote, \['thesis.txt'\]"):
        to_sentence_transformers(embedder, folder, overwrite=True)
    to_sentence_transformers(embedder, tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine too")
    with pytest.raises(ValueError, match=r"notes.txt"):
        to_sentence_transformers(embedder, tmp_path / "model", overwrite=True)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ValueError, match="is not replaced"):
        to_sentence_transformers(embedder, tmp_path / "file", overwrite=True)
    assert (folder / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("folder", "error", "match"),
    [
        (None, TypeError, "`folder` should be a path"),
        ("", ValueError, "`folder` should be a path"),
        (".", ValueError, "not the working directory"),
        ("model.onnx", ValueError, r"Leave .onnx out"),
        ("file/model", ValueError, "is a file"),
        ("x" * 300, ValueError, "of 300 bytes"),
        ("new/" + "x" * 300 + "/model", ValueError, "of 300 bytes"),
    ],
)
def test_folders_that_can_be_none(embedder, folder, error, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=match):
        to_sentence_transformers(embedder, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_export_left_behind_goes(tmp_path):
    left = tmp_path / ".cptk-export-dead"
    (left / "new").mkdir(parents=True)
    (left / "old").mkdir()
    (left / "name").write_text("moved")  # killed between two renames
    with target.writing(tmp_path / "model", False) as new:
        assert not left.exists()
        (new / "file").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "moved"]


# === Cards ===


def test_a_card_says_what_is_known_and_what_is_not(embedder):
    card = model_card(embedder)
    for missing in ("trained on is not stated", "Not measured", "its base is not stated"):
        assert missing in card
    assert card.startswith("---\nlibrary_name: cptk\n")
    assert "\nlicense:" not in card
    assert "| query | `'['` | `']'` |" in card


def test_a_card_has_data_recipe_report_with_intervals_and_licence(embedder):
    report = Report(
        {"films": TaskResult("accuracy", 0.75, items={"correct": [1, 0, 1, 1]})},
        intervals={"films": (0.5, 1.0)},
    )
    card = model_card(
        embedder,
        name="Mine",
        base="SmolLM2-135M",
        license="apache-2.0",
        data=["reviews", "plots | of films"],
        recipe={"batch size": 64, "loss": "InfoNCE"},
        report=report,
    )
    assert "license: apache-2.0\n---\n\n# Mine\n" in card
    assert "made from SmolLM2-135M with cptk" in card
    assert "- reviews\n- plots \\| of films" in card
    assert "| batch size | 64 |" in card
    assert "[50.0, 100.0]" in card.replace("–", ", ") or "50.0" in card
    assert model_card(embedder, report="Good.").count("Good.") == 1


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"name": 3}, TypeError, "`name` should be a string"),
        ({"license": "apache-2.0\nother: x"}, ValueError, "`license` should be one line"),
        ({"license": "mine: all mine"}, ValueError, "`license` should be a name such as"),
        ({"data": {"a": 1}}, TypeError, "`data` should be a sequence of strings"),
        ({"recipe": 3}, TypeError, "`recipe` should be a text, or settings"),
        ({"report": 3}, TypeError, "`report` should be a `cptk.evaluation.Report`"),
    ],
)
def test_cards_of_other_things(embedder, given, error, match):
    with pytest.raises(error, match=match):
        model_card(embedder, **given)
    with pytest.raises(TypeError, match="`embedder` should be"):
        model_card("model")


# === Uploads ===


def test_a_dry_run_lists_the_export_and_nothing_else(exported):
    (exported.folder / "secret.txt").write_text("mine")
    planned = upload(exported.folder, "somebody/model")
    assert (planned.sent, planned.address) == (False, "")
    assert planned.files == exported.files
    (exported.folder / "secret.txt").unlink()


def test_an_upload_sends_what_the_dry_run_listed(exported, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="pip install cptk[hub]")
    calls = []

    class Api:
        def __init__(self, token):
            calls.append(token)

        def create_repo(self, repo_id, **options):
            calls.append((repo_id, options))
            return f"https://example.org/{repo_id}"

        def upload_folder(self, **options):
            calls.append(options)

    monkeypatch.setattr(hub, "HfApi", Api)
    sent = upload(exported.folder, "somebody/model", dry_run=False, token="hf_x")
    assert sent.sent
    assert sent.address == "https://example.org/somebody/model"
    assert calls[:2] == ["hf_x", ("somebody/model", {"private": True, "exist_ok": True})]
    assert sorted(calls[2]["allow_patterns"]) == sorted(exported.files)


def test_uploads_that_are_none(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is none at"):
        upload(tmp_path / "nothing", "somebody/model")
    with pytest.raises(ValueError, match=r"has no cptk_export.json"):
        upload(tmp_path, "somebody/model")
    for name in ("model", "a/b/c", "", None, "some body/x"):
        with pytest.raises(ValueError, match="`repo_id` should be a name such as"):
            upload(exported.folder, name)
    with pytest.raises(TypeError, match="`dry_run` should be True or False"):
        upload(exported.folder, "somebody/model", dry_run="no")
    (tmp_path / "cptk_export.json").write_text(json.dumps({"files": ["gone.bin"]}))
    with pytest.raises(FileNotFoundError, match=r"gone.bin"):
        upload(tmp_path, "somebody/model")
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "model").mkdir()
    for name in ("../secret", str(tmp_path / "secret")):
        (tmp_path / "model" / "cptk_export.json").write_text(json.dumps({"files": [name]}))
        with pytest.raises(FileNotFoundError, match=r"secret.*missing"):
            upload(tmp_path / "model", "somebody/model")
    (tmp_path / "cptk_export.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        upload(tmp_path, "somebody/model")


def test_the_room_lists_its_names():
    assert dir(cptk.export) == sorted(cptk.export.__all__)
    assert callable(cptk.export.upload)
    with pytest.raises(AttributeError, match="no attribute 'to_torch'"):
        cptk.export.to_torch  # noqa: B018
