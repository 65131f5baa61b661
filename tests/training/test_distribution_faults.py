"""Workers are killed at random moments; the same command started again goes on.

The slow tier kills once, on JAX; CPTK_FULL=1 ten times, on both. (On TensorFlow it kills a process
that trains alone: `test_trainer_resume.py`.)
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from tiers import FULL

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent.parent / "examples" / "cluster"))
import launch  # noqa: E402

#: CPTK_FULL=1 for ten.
KILLS, EPOCHS = (10, 60) if FULL else (1, 12)
WORKERS = 2
BOUND = 60  # Seconds in which the others must have ended.
LOST = "was lost or cannot be reached"


def start(
    folder: Path, run: str, request: pytest.FixtureRequest
) -> list[tuple[subprocess.Popen[bytes], Path]]:
    workers = []
    for index, environment in enumerate(launch.local_cluster(WORKERS)):
        log = folder / f"{run}-{index}.log"
        command = [sys.executable, str(HERE / "faulty_script.py")]
        command += [str(folder / "backup"), str(folder / "end.npz"), str(EPOCHS)]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                command,
                env={
                    **os.environ,
                    **environment,
                    "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),  # Not read.
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1]))),
                },
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        workers.append((process, log))
        request.addfinalizer(process.kill)
    return workers


def wait_for(text: str, workers: list[tuple[subprocess.Popen[bytes], Path]]) -> None:
    deadline = time.monotonic() + 240
    while text not in workers[0][1].read_text(errors="replace"):
        for process, log in workers:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, f"nothing said {text!r}"
        time.sleep(0.05)


def end(workers: list[tuple[subprocess.Popen[bytes], Path]]) -> None:
    for process, log in workers:
        assert process.wait(timeout=240) == 0, log.read_text(errors="replace")[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "jax" and not (FULL and keras.backend.backend() == "tensorflow"),
    reason="one process on torch; on TensorFlow with CPTK_FULL=1",
)
def test_killed_again_and_again(tmp_path, request):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    end(start(whole, "run", request))
    rng, begun = random.Random(0), []

    def first_epoch(workers):
        return int(re.search(r"epoch (\d+) begins", read(workers[0][1])).group(1))

    for number in range(KILLS):
        workers = start(broken, f"run{number}", request)
        # By then the first run has made a backup.
        wait_for("epoch 2 begins" if number == 0 else "step", workers)
        time.sleep(rng.uniform(0, 1.5))
        victims = rng.choice([[0], [1], [0, 1]])
        for victim in victims:
            workers[victim][0].kill()
        for index, (process, log) in enumerate(workers):
            code = process.wait(timeout=BOUND)
            if index not in victims:
                assert code != 0
                said = re.search(f"{LOST}|distributed service|coordination", read(log))
                assert said, read(log)[-3000:]
        begun.append(first_epoch(workers))
    workers = start(broken, "last", request)
    end(workers)
    assert f"epoch {EPOCHS - 1} begins" in read(workers[0][1])
    begun.append(first_epoch(workers))
    assert begun == sorted(begun)
    assert begun[-1] > 0, "no run went on where another was killed"
    expected, got = np.load(whole / "end.npz"), np.load(broken / "end.npz")
    assert len(expected.files) == len(got.files) > 10
    for name in expected.files:
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-6)


def read(log: Path) -> str:
    return log.read_text(errors="replace")
