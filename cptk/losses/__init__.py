"""Contrastive losses: objectives for the trainer, and the mathematics as pure functions."""

from cptk.losses.by_source import get
from cptk.losses.cosent import CoSENT
from cptk.losses.document_to_query import DocumentToQuery
from cptk.losses.info_nce import InfoNCE
from cptk.losses.kl_divergence import KLDivergence
from cptk.losses.margin_mse import MarginMSE
from cptk.losses.masks import same_text_mask, text_ids
from cptk.losses.matrix import cosine_logits, info_nce, symmetric_info_nce
from cptk.losses.matryoshka import Matryoshka
from cptk.losses.objective import Batch, Objective, PerAnchor
from cptk.losses.simcse import SimCSE
from cptk.losses.sum import Sum
from cptk.losses.tiled import tiled_info_nce, tiled_symmetric_info_nce
from cptk.losses.triplet import TripletLoss

__all__ = [
    "Batch",
    "CoSENT",
    "DocumentToQuery",
    "InfoNCE",
    "KLDivergence",
    "MarginMSE",
    "Matryoshka",
    "Objective",
    "PerAnchor",
    "SimCSE",
    "Sum",
    "TripletLoss",
    "cosine_logits",
    "get",
    "info_nce",
    "same_text_mask",
    "symmetric_info_nce",
    "text_ids",
    "tiled_info_nce",
    "tiled_symmetric_info_nce",
]
