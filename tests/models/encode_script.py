"""Encodes into a file, and kills itself after some batches: `encode_script.py OUT COUNT KILL`."""

import os
import signal
import sys

from cptk import vector_writing
from cptk.models import encode
from tests import toys


def texts(count):
    """Short ones, some of them twice."""
    return (f"thing {number % (count - 7)} " + "x" * (number % 13) for number in range(count))


def main(output, count, kill):
    encode.BLOCK = 64
    vector_writing.BETWEEN = 0.0
    embedder = toys.gpt2_embedder(1)
    batches = 0

    def after_a_batch(done, total):
        nonlocal batches
        batches += 1
        if batches == int(kill):
            os.kill(os.getpid(), signal.SIGKILL)

    embedder.encode_text(
        texts(int(count)), output=output, batch_tokens=256, dtype="int8", progress=after_a_batch
    )
    print(batches)


if __name__ == "__main__":
    main(*sys.argv[1:])
