"""Files that are whole or not there."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file beside `path` that takes its place when the block ends, or is removed."""
    handle, scratch = tempfile.mkstemp(prefix=".scratch-", dir=path.parent)
    os.close(handle)
    try:
        with open(scratch, "wb") as file:
            yield file
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise
