"""Which tests run once, whatever the backends: the one place where that is said."""

import os
from pathlib import Path

HERE = Path(__file__).parent

#: Whether the slow tests run all texts, shapes and kills, for which CI has no time.
FULL = bool(os.environ.get("CPTK_FULL"))

#: Files and folders whose tests compute nothing on a backend. `make test` runs them once, with
#: TensorFlow's; `test_tiers.py` holds that they import no backend, and `_no_backend` of
#: conftest.py that they make no variable on one.
NO_BACKEND = [
    "benchmarks",
    "data/test_batching.py",
    "data/test_dealing.py",
    "data/test_formats.py",
    "data/test_number_columns.py",
    "data/test_pairs.py",
    "data/test_pairs_files.py",
    "datasets",
    "evaluation/test_bad_input.py",
    "evaluation/test_bootstrap.py",
    "evaluation/test_code_search.py",
    "evaluation/test_knn.py",
    "evaluation/test_linear_probe.py",
    "evaluation/test_metrics.py",
    "evaluation/test_ranking.py",
    "evaluation/test_report_and_runner.py",
    "evaluation/test_retrieval.py",
    "evaluation/test_scores_and_labels.py",
    "evaluation/test_similarity.py",
    "evaluation/test_zero_shot.py",
    "examples/test_batch_size_study.py",
    "examples/test_cluster_files.py",
    "mining",
    "search",
    "test_checks.py",
    "test_circles.py",
    "test_docstrings.py",
    "test_files.py",
    "test_imports.py",
    "test_package.py",
    "test_quantization.py",
    "test_tiers.py",
    "test_types.py",
    "test_vectors.py",
    "test_visualization.py",
]

#: Files whose tests use a backend, and tell on each of them the same: of files, of tokenizers and
#: of other tools. They too run on TensorFlow alone; what is read works on both by test_smollm2.py.
ONCE = [
    "evaluation/test_cached_encoder.py",
    "evaluation/test_index_quality.py",
    "evaluation/test_tasks_registry.py",
    "examples/test_corpus_of_code.py",
    "examples/test_corpus_of_text.py",
    "examples/test_encode_at_scale.py",
    "examples/test_evaluate_cli.py",
    "examples/test_mine_at_scale.py",
    "examples/test_quickstart.py",
    "examples/test_search_your_code.py",
    "integrations",
    "models/test_preprocessor.py",
    "models/test_preset_files.py",
    "models/test_saving.py",
    "models/test_tokenization.py",
    "models/test_tokenizer_bounds.py",
    "test_docstring_examples.py",
]

#: Folders whose files take longest.
LONG = ["training", "models"]


def listed(path: Path, names: list[str]) -> bool:
    """Whether a file is one of `names`, or in one of the folders among them."""
    return any(path.is_relative_to(HERE / name) for name in names)
