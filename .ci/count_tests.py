"""count_tests.py STATUS LOGS TARGET…: sums up the JUnit files that a run of these targets left; fails on any failure.

STATUS is the exit code of `bazel test` and of what else was checked: a target that was killed or timed out may leave a
report without a failed case.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def count(files: list[Path]) -> tuple[int, int, int]:
    """Passed, failed, skipped test cases of some JUnit files."""
    passed = failed = skipped = 0
    for file in files:
        for case in ElementTree.parse(file).getroot().iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
    return passed, failed, skipped


def main() -> int:
    """Prints the sum; 1 where a case failed, a target has no report, or nothing passed."""
    logs = Path(sys.argv[2])
    totals = [0, 0, 0]
    for target in sys.argv[3:]:
        folder = logs / target.removeprefix("//").replace(":", "/")
        files = sorted(folder.rglob("test.xml"))
        if files:
            totals = [total + more for total, more in zip(totals, count(files), strict=True)]
        else:
            sys.stdout.write(f"ci: {target} left no report: it did not build or did not run\n")
            totals[1] += 1
    if sys.argv[1] != "0" and totals[1] == 0:
        why = "build, crash, time limit, servers"
        sys.stdout.write(f"ci: the checks ended with {sys.argv[1]} though no case failed ({why})\n")
        totals[1] += 1
    passed, failed, skipped = totals
    sys.stdout.write(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "") + "\n")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
