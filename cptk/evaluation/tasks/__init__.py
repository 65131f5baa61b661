"""The tasks, one file a kind; importing the room enters them into the registry.

A new task is a new file with a tuple `TASKS`, and its name in the list below.
"""

from cptk.evaluation.tasks import (
    code_search,
    knn,
    linear_probe,
    retrieval,
    similarity,
    zero_shot,
)
from cptk.evaluation.tasks.registry import register_task

for _module in (linear_probe, zero_shot, knn, similarity, retrieval, code_search):
    for _task in _module.TASKS:
        register_task(_task)
