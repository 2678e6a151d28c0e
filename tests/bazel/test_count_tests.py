"""CI's counter: what it prints and returns for reports as pytest writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path.cwd() / ".ci/count_tests.py"
CASES = '<testcase name="a"/><testcase name="b"><skipped/></testcase>'


def run(logs: Path, *targets: str, status: int = 0) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(status), str(logs), *targets], capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout.splitlines()[-1]


def report(logs: Path, place: str, cases: str) -> None:
    folder = logs / place
    folder.mkdir(parents=True)
    (folder / "test.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")


def test_sums_targets_and_shards(tmp_path: Path) -> None:
    report(tmp_path, "tests/x/x/shard_1_of_2", CASES)
    report(tmp_path, "tests/x/x/shard_2_of_2", '<testcase name="c"/>')
    report(tmp_path, "tests/y/y", '<testcase name="d"/>')
    assert run(tmp_path, "//tests/x:x", "//tests/y:y") == (0, "3 passed, 0 failed, 1 skipped")


def test_failure_and_error_are_failures(tmp_path: Path) -> None:
    report(tmp_path, "t/t", '<testcase name="a"><failure/></testcase><testcase name="b"><error/></testcase>')
    assert run(tmp_path, "//t:t") == (1, "0 passed, 2 failed")


def test_target_without_report_fails(tmp_path: Path) -> None:
    report(tmp_path, "t/t", '<testcase name="a"/>')
    assert run(tmp_path, "//t:t", "//gone:gone") == (1, "1 passed, 1 failed")


def test_nothing_ran_fails(tmp_path: Path) -> None:
    assert run(tmp_path) == (1, "0 passed, 0 failed")


def test_target_that_was_killed_after_its_last_case_fails(tmp_path: Path) -> None:
    report(tmp_path, "t/t", '<testcase name="a"/>')
    assert run(tmp_path, "//t:t", status=3) == (1, "1 passed, 1 failed")
