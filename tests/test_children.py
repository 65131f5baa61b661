import sys

import pytest

from tests.children import run_child

INNER = "import time\ndef sleeper(): time.sleep(600)\nsleeper()"
OUTER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {INNER!r}])"


def test_what_is_printed():
    run = run_child([sys.executable, "-c", "print('here'); raise SystemExit(3)"], 60)
    assert (run.returncode, run.stdout) == (3, "here\n")


def test_what_hangs_says_where():
    with pytest.raises(AssertionError, match="Still running after 2 s") as error:
        run_child([sys.executable, "-c", OUTER], 2)
    assert "in sleeper" in str(error.value)
