"""Run by test_mine_at_scale.py, in a process of its own, as Ray leaves threads and warnings.

    python cluster_run.py FOLDER PRESET

On a cluster of two nodes, of one and three workers: survivors with 1, 2 and 4 workers at a
time, for `survivors.json`; then all of the example, with the larger node killed
while mining, for `killed`.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import mine_at_scale as script
import mine_at_scale_parts as work
import ray.data
from ray.cluster_utils import Cluster
from ray.data import ExecutionResources

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
JOB = work.Job("", "", "text", "paragraph", "document", 0.8, "", 8, False)


def survivors(folder: Path) -> dict[int, dict[str, list[int]]]:
    """The rows of each unit that fall, by the number of workers."""
    found = {}
    options = ray.data.DataContext.get_current().execution_options
    for workers in (1, 2, 4):
        options.resource_limits = ExecutionResources.for_limits(cpu=workers)
        (folder / f"on-{workers}").mkdir()
        os.symlink(folder / "planted" / "mined", folder / f"on-{workers}" / "mined")
        job = JOB._replace(work=str(folder / f"on-{workers}"))
        pairs = {n: work.got_table(work.mined(job, n)).num_rows for n in range(6)}
        fallen = script.drop_near_duplicates(job, pairs)
        found[workers] = {
            str(n): work.got_table(work.fallen_of(job, n))["row"].to_pylist() for n in fallen
        }
    return found


def kill_in_the_middle(folder: Path) -> None:
    """End a node without warning when a part of the files has been mined."""
    while len(list(folder.glob("killed.work/mined/*"))) < 2:
        time.sleep(0.02)
    (folder / "when.txt").write_text(str(len(list(folder.glob("killed.work/mined/*")))))
    cluster.remove_node(victim, allow_graceful=False)


if __name__ == "__main__":
    place, preset = Path(sys.argv[1]), sys.argv[2]
    ray.cloudpickle.register_pickle_by_value(work)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": sys.argv[3]})
    victim = cluster.add_node(**{**NODE, "num_cpus": 3})
    ray.init(address=cluster.address)
    (place / "survivors.json").write_text(json.dumps(survivors(place)))
    ray.shutdown()
    threading.Thread(target=kill_in_the_middle, args=[place], daemon=True).start()
    script.main(
        [str(place / "project"), str(place / "killed"), "--address", cluster.address, "--kind",
         "text", "--unit", "paragraph", "--preset", preset, "--files-per-task", "2",
         "--rows-per-shard", "8"]
    )  # fmt: skip
    cluster.shutdown()
