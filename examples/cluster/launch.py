"""Starts several workers of one training on this machine, and stops them all together.

    python examples/cluster/launch.py 2 examples/train_distributed.py --batch-size 64

Each worker gets a log, logs/worker-0.log and so on; the first one's is shown too. They find each
other by TF_CONFIG (TensorFlow) and by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID (JAX). When one fails, or on Ctrl-C, all are stopped. Exit status: that of the first
worker to fail, else 0.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

GRACE = 15.0
"""Seconds that the others get to say what is wrong, once one has failed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts, watches, stops."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("workers", type=int, help="number of processes")
    parser.add_argument("script", help="Python file that each of them runs")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="folder of the logs")
    options, rest = parser.parse_known_args(arguments)
    if options.workers < 1:
        parser.error(f"expected 1 worker or more, received {options.workers}")
    if not Path(options.script).is_file():
        parser.error(f"there is no file {options.script}")
    options.logs.mkdir(parents=True, exist_ok=True)
    logs = [options.logs / f"worker-{index}.log" for index in range(options.workers)]
    environments = local_cluster(options.workers)
    workers = []
    try:
        for log, environment in zip(logs, environments, strict=True):
            with open(log, "wb") as file:
                workers.append(
                    subprocess.Popen(
                        [sys.executable, "-u", options.script, *rest],
                        env={**os.environ, **environment},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        return watch(workers, logs)
    finally:
        stop(workers)


def local_cluster(count: int) -> list[dict[str, str]]:
    """The environment of each of `count` workers on this machine, for TensorFlow and JAX."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count + 1)]
    return [
        {
            "TF_CONFIG": json.dumps(
                {
                    "cluster": {"worker": addresses[:count]},
                    "task": {"type": "worker", "index": index},
                }
            ),
            "JAX_COORDINATOR_ADDRESS": addresses[count],
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        for index in range(count)
    ]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def watch(workers: list[subprocess.Popen[bytes]], logs: list[Path]) -> int:
    """Shows the first log until all have ended, or one has failed and the others had time."""
    failed, deadline = 0, float("inf")
    with open(logs[0], "rb") as shown:
        while True:
            states = [worker.poll() for worker in workers]
            sys.stdout.write(shown.read().decode(errors="replace"))
            sys.stdout.flush()
            for index, state in enumerate(states):
                if state and not failed:
                    failed, deadline = state, time.monotonic() + GRACE
                    print(f"\nlaunch: worker {index} ended with {state}; see {logs[index]}")
            if None not in states or time.monotonic() > deadline:
                # A signal's number is negative here; shells add it to 128.
                return 128 - failed if failed < 0 else failed
            time.sleep(0.1)


def stop(workers: list[subprocess.Popen[bytes]]) -> None:
    """Ends what still runs: asked first, then killed."""
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
    for worker in workers:
        try:
            worker.wait(timeout=5)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


if __name__ == "__main__":
    sys.exit(main())
