"""What `import cptk` does and leaves alone, who may import TensorFlow, and life without it."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cptk

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cptk"
#: The only module that may import TensorFlow.
TENSORFLOW_MODULE = PACKAGE / "data" / "tensorflow.py"


def run(script: str, *, cwd: Path | None = None, **environment: str) -> str:
    """Runs `script` in a fresh interpreter that sees this checkout; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def stub_keras_hub(folder: Path) -> None:
    """A `keras_hub` that is imported in no time, as a package with a submodule."""
    (folder / "keras_hub").mkdir()
    (folder / "keras_hub" / "__init__.py").write_text("from keras_hub import models\n")
    (folder / "keras_hub" / "models.py").write_text("NAME = 'stub'\n")


# --- importing cptk -------------------------------------------------------------------------------


def test_import_is_light_and_changes_no_environment_variable() -> None:
    printed = run(
        """
        import json, os, sys

        os.environ.clear()  # this test's own `import cptk` has been inherited
        import cptk

        heavy = {"keras", "tensorflow", "keras_hub", "jax", "torch", "numpy", "sklearn"}
        print(json.dumps([sorted(heavy & set(sys.modules)), dict(os.environ)]))
        """
    )
    assert json.loads(printed) == [[], {}]


def test_public_names_are_listed_and_an_unknown_one_is_refused() -> None:
    assert set(cptk.__all__) <= set(dir(cptk))
    with pytest.raises(AttributeError, match=r"no attribute 'trainer'; it has ContrastiveTrainer"):
        cptk.trainer  # noqa: B018


@pytest.mark.parametrize("name", [None, "evaluation", "export", "integrations"])
def test_completion_offers_what_is_public_alone(name: str | None) -> None:
    room = cptk if name is None else getattr(cptk, name)
    assert dir(room) == sorted(room.__all__)


@pytest.mark.parametrize("name", cptk.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(cptk, name) is not None


# --- KerasHub learns cptk's classes ---------------------------------------------------------------


@pytest.mark.parametrize(
    "imports",
    [
        "import cptk, keras_hub",
        "import keras_hub, cptk",
        "import cptk, keras_hub.models",
        "import cptk, cptk, importlib; importlib.reload(cptk); import keras_hub",
    ],
)
def test_models_are_imported_once_keras_hub_is(imports: str, tmp_path: Path) -> None:
    stub_keras_hub(tmp_path)
    printed = run(
        f"""
        import sys, types

        sys.path.insert(0, {str(tmp_path)!r})

        class Models:
            def find_spec(self, fullname, path, target=None):
                if fullname == "cptk.models":
                    import importlib.util

                    assert sys.modules["keras_hub"].models.NAME == "stub"
                    print("models")
                    return importlib.util.spec_from_loader(fullname, self)

            def create_module(self, spec):
                return None

            def exec_module(self, module):
                import keras_hub

        sys.meta_path.insert(0, Models())
        {imports}
        print("both")
        import importlib

        importlib.reload(keras_hub)
        assert "exec_module" not in vars(keras_hub.__spec__.loader)
        """
    )
    assert printed.split() == ["models", "both"]


def test_a_fault_of_cptk_is_a_warning_in_keras_hub(tmp_path: Path) -> None:
    stub_keras_hub(tmp_path)
    printed = run(
        f"""
        import sys, warnings

        sys.path.insert(0, {str(tmp_path)!r})
        sys.modules["cptk.models"] = None  # importing it raises
        import cptk

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import keras_hub
        print(keras_hub.models.NAME, [str(w.message) for w in caught if "cptk" in str(w.message)])
        """
    )
    assert printed.startswith("stub ")
    assert "could not register its classes with keras_hub" in printed


def test_keras_hub_without_installation_stays_an_import_error() -> None:
    run(
        """
        import sys

        sys.path = [p for p in sys.path if "site-packages" not in p]
        import cptk

        try:
            import keras_hub
        except ModuleNotFoundError as error:
            assert error.name == "keras_hub"
        else:
            raise AssertionError("found")
        """
    )


# --- TensorFlow -----------------------------------------------------------------------------------


def imported_modules(path: Path) -> set[str]:
    """The absolute names that a file imports anywhere, strings given to `import_module` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            names |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    return names


def test_tensorflow_is_imported_by_its_own_module_alone() -> None:
    sources = sorted(PACKAGE.rglob("*.py"))
    assert TENSORFLOW_MODULE in sources
    guilty = [
        str(path.relative_to(ROOT))
        for path in sources
        # The first two run on TensorFlow alone; in the others functions that do import it.
        if path.relative_to(PACKAGE).as_posix()
        not in (
            "data/tensorflow.py",
            "training/gradient_cache/tensorflow.py",
            "losses/rows.py",
            "models/forward.py",
            "processes.py",
            "distribution/tensorflow.py",
            "distribution/tensorflow_step.py",
            "export/graph.py",
            "export/litert.py",
            "export/saved_model.py",
            "export/word_piece_graph.py",
        )
        and any(
            name.split(".")[0] in {"tensorflow", "tensorflow_text"}
            for name in imported_modules(path)
        )
    ]
    assert guilty == []


WITHOUT_TENSORFLOW = """
    import sys
    from importlib.machinery import PathFinder

    find_spec = PathFinder.find_spec

    def find_other_spec(fullname, path=None, target=None):
        if fullname.split(".")[0] not in {"tensorflow", "tensorflow_text"}:
            return find_spec(fullname, path, target)

    PathFinder.find_spec = staticmethod(find_other_spec)  # absent, to whoever imports or asks
    try:
        import tensorflow
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("TensorFlow is not blocked")

    import cptk
    import keras
    import keras_hub
    import numpy as np

    keras.utils.set_random_seed(0)
    visible = [chr(i) for i in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    alphabet = [*visible, *(chr(256 + i) for i in range(256 - len(visible)))]
    merges = ["o p", "op e", "ope n", "f i", "l e", "fi le", "Ġ file"]
    words = [*alphabet, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(
        vocabulary={word: i for i, word in enumerate(words)}, merges=merges
    )
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(words),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=32,
    )
    preprocessor = cptk.models.GPT2TextEmbedderPreprocessor(tokenizer, sequence_length=16)
    embedder = cptk.models.GPT2TextEmbedder(backbone, preprocessor)

    queries = [f"open file {i}" for i in range(8)]
    documents = [f"def open_{i}(): return {i}" for i in range(8)]
    trainer = cptk.ContrastiveTrainer(embedder, seed=0)
    trainer.compile(optimizer=keras.optimizers.AdamW(1e-3))
    history = trainer.fit(
        {"query": queries, "document": documents}, batch_size=4, epochs=1, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all(), history.history

    vectors = embedder.encode_text(queries, role="query", verbose=0)
    assert vectors.shape == (8, 16) and vectors.dtype == np.float32, (vectors.shape, vectors.dtype)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)

    embedder.save_to_preset("preset")
    for cls in (cptk.models.GPT2TextEmbedder, keras_hub.models.TextEmbedder):
        reloaded = cls.from_preset("preset")
        again = reloaded.encode_text(queries, role="query", verbose=0)
        np.testing.assert_allclose(again, vectors, atol=1e-6)

    assert not any(m.split(".")[0] in {"tensorflow", "tensorflow_text"} for m in sys.modules)
    print(keras.backend.backend())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=marks)
        for name, marks in {"jax": [], "torch": [pytest.mark.full]}.items()
        if importlib.util.find_spec(name)
    ],
)
def test_fit_encode_save_and_reload_where_tensorflow_cannot_be_imported(
    backend: str, tmp_path: Path
) -> None:
    printed = run(WITHOUT_TENSORFLOW, cwd=tmp_path, KERAS_BACKEND=backend)
    assert printed.split()[-1] == backend
