"""What CI says at its end: its sections with seconds, the slowest tests, and how many passed."""

import sys
from pathlib import Path
from xml.etree import ElementTree

SHOWN = 20


def main(folder: str) -> None:
    """Print all of it, from the files that `.ci/run` has left in a folder."""
    seconds = [line.split(" ", 1) for line in Path(folder, "sections").read_text().splitlines()]
    print("\n===== Sections")
    for took, name in seconds:
        print(f"{took:>6} s  {name}")
    print(f"{sum(int(took) for took, _ in seconds):>6} s  together")

    tests, counts = [], dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for path in sorted(Path(folder).glob("*.xml")):
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            for name in counts:
                counts[name] += int(suite.get(name, 0))
            for case in suite.iter("testcase"):
                name = f"{case.get('classname')}::{case.get('name')}"
                tests.append((float(case.get("time", 0)), path.stem, name))
    print(f"\n===== The {SHOWN} slowest tests, in seconds")
    for took, run, name in sorted(tests, reverse=True)[:SHOWN]:
        print(f"{took:>8.1f}  {run:<20}  {name[:120]}")

    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    print(f"\n{passed} passed, {failed} failed, {counts['skipped']} skipped")


if __name__ == "__main__":
    main(sys.argv[1])
