"""Figures of embeddings and of what is measured on them.

Each function takes `ax=`, a matplotlib `Axes` to draw on, or makes a new one; and returns it. The
colours are Okabe and Ito's, which colour-blind people tell apart.
"""

from cptk.visualization.curves import (
    accuracy_against_k,
    confusion_matrix,
    expected_calibration_error,
    learning_curve,
    reliability,
    roc,
)
from cptk.visualization.geometry import (
    alignment,
    alignment_uniformity,
    score_margins,
    similarity_heatmap,
    similarity_histogram,
    uniformity,
)
from cptk.visualization.maps import embedding_map

__all__ = [
    "accuracy_against_k",
    "alignment",
    "alignment_uniformity",
    "confusion_matrix",
    "embedding_map",
    "expected_calibration_error",
    "learning_curve",
    "reliability",
    "roc",
    "score_margins",
    "similarity_heatmap",
    "similarity_histogram",
    "uniformity",
]
