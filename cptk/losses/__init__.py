"""Contrastive losses: pure functions, one value per anchor."""

from cptk.losses.info_nce import cosine_logits, info_nce, symmetric_info_nce
from cptk.losses.masks import same_text_mask, text_ids
from cptk.losses.tiled import tiled_info_nce, tiled_symmetric_info_nce

__all__ = [
    "cosine_logits",
    "info_nce",
    "same_text_mask",
    "symmetric_info_nce",
    "text_ids",
    "tiled_info_nce",
    "tiled_symmetric_info_nce",
]
