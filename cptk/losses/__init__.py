"""Contrastive losses: pure functions of logits, one value per anchor."""

from cptk.losses.info_nce import cosine_logits, info_nce, symmetric_info_nce
from cptk.losses.masks import same_text_mask

__all__ = ["cosine_logits", "info_nce", "same_text_mask", "symmetric_info_nce"]
