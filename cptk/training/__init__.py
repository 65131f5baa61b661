"""Contrastive training with `compile` and `fit`."""

from cptk.training.callbacks import ExactBackupAndRestore
from cptk.training.lora import enable_lora
from cptk.training.trainer import ContrastiveTrainer

__all__ = ["ContrastiveTrainer", "ExactBackupAndRestore", "enable_lora"]
