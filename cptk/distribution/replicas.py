"""How a batch is cut."""

from __future__ import annotations

from typing import NamedTuple


class Replicas(NamedTuple):
    """How the global batch is cut: into `total` shares, of which this process has `own`.

    Example:

    ```pycon
    >>> import cptk
    >>> cptk.distribution.Replicas(total=4, first=2, own=2, processes=2)  # the second process
    Replicas(total=4, first=2, own=2, processes=2)

    ```
    """

    total: int = 1
    first: int = 0
    own: int = 1
    processes: int = 1
