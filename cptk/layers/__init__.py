"""Layers of the contrastive model: pooling and the head. They know nothing of text."""

from cptk.layers.contrastive_head import ContrastiveHead
from cptk.layers.pooling import (
    CLSPooling,
    EOSPooling,
    MaxPooling,
    MeanPooling,
    WeightedMeanPooling,
)

__all__ = [
    "CLSPooling",
    "ContrastiveHead",
    "EOSPooling",
    "MaxPooling",
    "MeanPooling",
    "WeightedMeanPooling",
]
