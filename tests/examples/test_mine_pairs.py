"""The example that mines a folder into a store, from its command line."""

import importlib.util
from pathlib import Path

import pytest

from cptk.data import TokenStore
from tests import toys

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mine_pairs_script", EXAMPLES / "mine_pairs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset") / "toy"
    toys.embedder().save_to_preset(str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "project"
    place.mkdir()
    code = [f"# Adds {word} to it all.\ndef add_{word}(a)\n  a + 1\nend\n" for word in ("x", "y")]
    (place / "a.rb").write_text("\n".join(code))
    sentences = [f"This is the sentence number {word} of it." for word in "abcdefgh"]
    (place / "b.md").write_text(" ".join(sentences))
    (place / "c.md").write_bytes(b"\xff\xfe")
    return place


@pytest.mark.parametrize(("kind", "found"), [("code", 2), ("text", 2)])
def test_a_folder_becomes_a_store_and_a_report(
    script, preset, folder, tmp_path, capsys, kind, found
):
    arguments = [str(folder), str(tmp_path / "store"), "--kind", kind, "--preset", str(preset)]
    for _ in range(2):  # a second call finds it written
        script.main([*arguments, "--keep-text"])
        store = TokenStore(tmp_path / "store")
        assert len(store) >= found
        assert f"TokenStore({str(tmp_path / 'store')!r}" in capsys.readouterr().out
    assert "query" in store.pairs().columns
    report = (tmp_path / "store" / "report.md").read_text()
    assert "taken" in report
    assert ("wrong encoding" in report) == (kind == "text")
    assert (tmp_path / "store" / "report.png").stat().st_size > 1000


def test_bad_flags(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "nowhere"), str(tmp_path / "store")])
    assert "FOLDER should be a folder" in capsys.readouterr().err
