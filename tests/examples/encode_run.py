"""`encode_at_scale.py` with actors that are killed once before and once after they have written.

encode_run.py INPUT OUTPUT PRESET MARKS
"""

import os
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import encode_at_scale as script

MARKS = Path(sys.argv[4])


class Killed(script.Encode):
    """An actor that the system kills."""

    def write(self, task):
        if task.number == 3:
            self.die("before")
        super().write(task)
        if task.number == 7:
            self.die("after")

    def die(self, when):
        mark = MARKS / when
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    script.Encode = Killed
    options = ["--preset", sys.argv[3], "--workers", "2", "--role", "query"]
    script.main([sys.argv[1], sys.argv[2], *options, "--rows-per-task", sys.argv[5]])
