"""torchrun's own agent with copies of the test's process: what they import, most of a small run, is there already.

Rendezvous, environment, the end of all where one fails, and the report of it are those of `torchrun --standalone
--nproc-per-node=2`; one test of each command that can be shared starts that itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["Forked", "open_streams", "run_forked", "run_forked_torchrun"]


def run_forked_torchrun(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], cwd: Path, timeout_s: float = 240.0
) -> subprocess.CompletedProcess[str]:
    """`torchrun --standalone --nproc-per-node=2` of a command, given by its `main`."""

    def process() -> None:
        # The test may have used several threads, which a copy has not.
        import torch

        torch.set_num_threads(1)
        if code := main(arguments):
            sys.exit(code)

    def launch() -> int:
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            run_id=f"forked-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.1,
            start_method="fork",
        )
        try:
            elastic_launch(config, process)()
        except ChildFailedError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        return 0

    return run_forked(launch, cwd, timeout_s)


def open_streams() -> None:
    """Standard streams over the descriptors as they are now; what was opened before may stand at a place of a file."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = os.fdopen(number, mode, buffering=1, encoding="utf-8", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _captured(number: int) -> list[int]:
    """Descriptors that standard output (1) or error (2) goes to by pytest's hand."""
    try:
        return [(sys.stdout, sys.stderr)[number - 1].fileno()]
    except (OSError, ValueError):  # in memory, or closed
        return []


class Forked:
    """A call in a copy of this process, started at once.

    Args:
        call: Returns its exit code.
        cwd: An existing folder; what the call writes lies in it, hidden, until the call has ended.
    """

    def __init__(self, call: Callable[[], int], cwd: Path) -> None:
        self._call, self._cwd = call, cwd
        self._streams = [cwd / f".forked_{name}" for name in ("stdout", "stderr")]
        self._process = multiprocessing.get_context("fork").Process(target=self._run)
        self._process.start()

    def _run(self) -> None:
        os.setsid()
        for number, path in enumerate(self._streams, start=1):
            with path.open("wb") as file:
                # Loggers that were set up before write to what pytest has captured.
                for target in {number, *_captured(number)}:
                    os.dup2(file.fileno(), target)
        open_streams()
        # pytest makes errors of them; a command is not under pytest.
        warnings.simplefilter("ignore")
        os.chdir(self._cwd)
        sys.exit(self._call())

    def wait_for(self, text: str, timeout_s: float = 240.0) -> None:
        """Until standard output holds a text."""
        deadline = time.monotonic() + timeout_s
        while not self._streams[0].exists() or text not in self._streams[0].read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            assert self._process.is_alive(), self._streams[1].read_text(encoding="utf-8")
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        """To the copy alone."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def ended(self, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Waits; its exit code, negative where a signal ended it, and what it wrote."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
            raise subprocess.TimeoutExpired("a copy of this process", timeout_s)
        texts = [path.read_text(encoding="utf-8") for path in self._streams]
        for path in self._streams:
            path.unlink()
        return subprocess.CompletedProcess([], self._process.exitcode, *texts)


def run_forked(call: Callable[[], int], cwd: Path, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    """A call in a copy of this process, with its exit code and what it wrote."""
    return Forked(call, cwd).ended(timeout_s)
