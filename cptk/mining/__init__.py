"""Pairs out of what is there without labels, and hard negatives and a guide for them."""

from cptk.mining.archives import read_archive
from cptk.mining.code import functions_in_source, mine_functions
from cptk.mining.consistency import consistent
from cptk.mining.copies import deduplicate, exclude_copies, split_by_module
from cptk.mining.decontamination import decontaminate
from cptk.mining.documents import Document
from cptk.mining.filters import keep_clean
from cptk.mining.folders import read_folder
from cptk.mining.guide import guide_vectors
from cptk.mining.hard_negatives import hard_negatives
from cptk.mining.mail import read_mail
from cptk.mining.many_languages import LANGUAGE_OF, Rules, functions
from cptk.mining.mining_report import MiningReport
from cptk.mining.near_duplicates import drop_near_duplicates
from cptk.mining.negatives_report import NegativesReport
from cptk.mining.neighbours import neighbouring_text
from cptk.mining.readers import read
from cptk.mining.records import read_records
from cptk.mining.repositories import read_git
from cptk.mining.text import mine_halves
from cptk.mining.titles import titled_text
from cptk.mining.web import read_web

__all__ = [
    "LANGUAGE_OF",
    "Document",
    "MiningReport",
    "NegativesReport",
    "Rules",
    "consistent",
    "decontaminate",
    "deduplicate",
    "drop_near_duplicates",
    "exclude_copies",
    "functions",
    "functions_in_source",
    "guide_vectors",
    "hard_negatives",
    "keep_clean",
    "mine_functions",
    "mine_halves",
    "neighbouring_text",
    "read",
    "read_archive",
    "read_folder",
    "read_git",
    "read_mail",
    "read_records",
    "read_web",
    "split_by_module",
    "titled_text",
]
