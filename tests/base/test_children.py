"""Processes that are started end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.children import in_processes, run_child
from base.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def ends(pid: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def test_an_orphan_ends_although_nobody_was_there_to_see_its_parent_end() -> None:
    """The parent is gone before the child has told the kernel that this matters."""
    child = "import sys, time\nfrom base.children import end_with_parent\n"
    child += "sys.stdin.readline()\nend_with_parent(int(sys.argv[1]))\ntime.sleep(60)\n"
    parent = (
        "import os, subprocess, sys\n"
        f"process = subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())], stdin=sys.stdin)\n"
        "print(process.pid, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as started:
        assert started.stdout is not None
        assert started.stdin is not None
        orphan = int(started.stdout.readline())
        started.wait()
        assert is_running(orphan)
        started.stdin.write("go on\n")
        started.stdin.flush()
        assert ends(orphan)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_its_command(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "waiting.py").write_text(
        "import os, sys, time\nfrom base.children import end_with_parent\nend_with_parent(int(sys.argv[1]))\n"
        f"open({str(tmp_path / 'pid')!r} + '.part', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'pid')!r} + '.part', {str(tmp_path / 'pid')!r})\ntime.sleep(60)\n"
    )
    code = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "from base.children import run_child\nfrom base.command import run_command, run_main\n"
        "run_main(lambda: run_command(lambda: run_child('waiting', b'').returncode))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, stderr=subprocess.DEVNULL) as command:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        child = int((tmp_path / "pid").read_text())
        command.send_signal(number)
        assert ends(child)
    assert command.returncode == (128 + number if number == signal.SIGTERM else -number)


def test_a_child_s_answer() -> None:
    done = run_child("platform", b"")
    assert done.returncode == 0
    assert done.stdout.decode().startswith("Linux-")


def test_shares_come_back_and_errors_keep_their_kind() -> None:
    def work(share: int) -> Iterator[int]:
        yield share
        if share == 2:
            raise DataError("frame 2 is broken")

    assert sorted(in_processes(work, [0, 1])) == [0, 1]
    with pytest.raises(DataError, match="frame 2 is broken"):
        list(in_processes(work, [0, 1, 2]))


def test_an_iterator_that_is_left_ends_its_processes() -> None:
    def work(share: int) -> Iterator[int]:
        yield os.getpid()
        time.sleep(60)

    messages = in_processes(work, [0, 1])
    children = [next(messages), next(messages)]
    assert len(set(children)) == 2
    messages.close()  # type: ignore[attr-defined]  # a generator
    assert all(ends(child) for child in children)


def test_a_process_that_vanishes_is_said() -> None:
    def work(share: int) -> Iterator[int]:
        yield share
        os._exit(7)

    with pytest.raises(RuntimeError, match="ended with exit code 7 before its scenes were done"):
        list(in_processes(work, [0], "scenes"))
