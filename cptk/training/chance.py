"""A word where an epoch has taught nothing."""

import logging

import keras

from cptk.processes import is_chief
from cptk.types import Logs

STEPS = 5
"""Steps after which a loss at chance is worth a word; the first few of any training are there."""

_LOG = logging.getLogger(__name__)


class WarnAtChance(keras.callbacks.Callback):  # type: ignore[misc]
    """Says once, after an epoch whose loss was the logarithm of the batch, that it was.

    Such a loss is that of embeddings which are all alike, or of a temperature at which it does not
    matter what they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said = self._seen = False
        self._steps = 0  # Since the loss was last away from chance.

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # Counted here: the optimizer's counter is no plain number under a strategy.
        self._steps += 1

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._seen = False

    def on_test_begin(self, logs: Logs = None) -> None:
        # Validation, which follows the epoch, forgets the epoch's loss.
        self._look()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._look()

    def _look(self) -> None:
        if self._seen or self._said:
            return
        self._seen = True
        if not self.model._loss_tracker.at_chance():
            self._steps = 0
        elif self._steps >= STEPS and is_chief(self.model):
            self._said = True
            temperature = float(keras.ops.convert_to_numpy(self.model.head.temperature))
            _LOG.warning(
                "For a whole epoch the loss was at chance, the logarithm of the batch: the "
                "embeddings tell no pair from another (temperature %.3g). Start from pre-trained "
                "weights, train longer, or try another learning rate. This is said once.",
                temperature,
            )
