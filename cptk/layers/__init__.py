"""Layers of the contrastive model: pooling and the head. They know nothing of text."""

from cptk.layers.contrastive_head import ContrastiveHead
from cptk.layers.pooling import EOSPooling, MeanPooling, WeightedMeanPooling

__all__ = ["ContrastiveHead", "EOSPooling", "MeanPooling", "WeightedMeanPooling"]
