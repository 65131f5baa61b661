"""Commands that tests run: what hangs says where."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_child(
    command: Sequence[object],
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` with what it prints; past the time, an error with the stacks of its threads.

    It imports this checkout, unless `environment` says otherwise.

    Its Python processes end one by one, the youngest first: each prints its stacks, and what one
    has printed is shown by the one that waits for it.
    """
    arguments = [str(part) for part in command]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, **(environment or {}), "PYTHONFAULTHANDLER": "1"}
    child = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        env={**os.environ, **own}, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for process in reversed(_session(child.pid)):
            _end(process)
        out, err = child.communicate(timeout=60)
        raise AssertionError(
            f"Still running after {timeout} s: {' '.join(arguments)[:300]}\n{out}\n{err}"
        ) from None
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(arguments, child.returncode, out, err)


def _session(leader: int) -> list[int]:
    """The processes that a command has started, itself first."""
    found = {leader}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == leader:
            found.add(int(folder.name))
    return sorted(found)


def _end(process: int) -> None:
    try:
        os.kill(process, signal.SIGABRT)
        for _ in range(50):  # its stacks take a moment, and its parent is to read them
            os.kill(process, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        return
