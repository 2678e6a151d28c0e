"""Commands as processes that start in no time: a parent has imported what they import, and forks for each.

Run as a module it is that parent: a line of JSON on standard input is a request, one on standard output the answer.
`Spawner` is the other side.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["MARK", "Process", "Spawner"]

MARK = "CENTERPOINT_FAULT_RUN"
"""Environment variable by which what a command started is known."""


class Process:
    """A command that runs.

    Attributes:
        pid: Of its process, which leads a session and a group of its own.
        log: File of what it prints.
        cpu_s: CPU time that it took, its children included; once it was waited for.
        memory_kb: Largest resident memory, what it shares with the parent included; once it was waited for.
    """

    cpu_s = 0.0
    memory_kb = 0

    def __init__(self, pid: int, log: Path, spawner: Spawner) -> None:
        self.pid, self.log, self._spawner = pid, log, spawner
        self._code: int | None = None

    def wait(self) -> int:
        """Exit code; -n where signal n ended it."""
        if self._code is None:
            ended = self._spawner.ask(wait=self.pid)
            self._code = os.waitstatus_to_exitcode(ended["status"])
            self.cpu_s, self.memory_kb = ended["cpu_s"], ended["memory_kb"]
        return self._code

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


class Spawner:
    """Starts commands. A context manager.

    Args:
        modules: What the parent imports.
        environment: Of the parent, and so of the commands.
    """

    def __init__(self, modules: Sequence[str], environment: dict[str, str]) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.spawner", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._answer()

    def __enter__(self) -> Spawner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._parent.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._parent.stdin.close()
        self._parent.wait()
        assert self._parent.stdout is not None
        self._parent.stdout.close()

    def warm(self, module: str, arguments: Sequence[object]) -> None:
        """Runs a command in the parent itself, so that what it imports late is there for those that follow."""
        assert self.ask(warm=module, arguments=[str(argument) for argument in arguments])["code"] == 0

    def start(
        self,
        module: str,
        arguments: Sequence[object],
        folder: Path,
        log: Path,
        mark: str = "",
        *,
        stops_locked: bool = False,
    ) -> Process:
        """Starts `python -m module arguments` in a folder; it prints into `log`.

        With `stops_locked` it stops itself, as SIGSTOP does, when it has locked its first file.
        """
        given = [str(argument) for argument in arguments]
        answer = self.ask(
            start=module, arguments=given, folder=str(folder), log=str(log), mark=mark, stops_locked=stops_locked
        )
        return Process(answer["pid"], log, self)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The parent's answer to a request."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._parent.stdout is not None
        line = self._parent.stdout.readline()
        if not line:
            raise RuntimeError("the parent of the commands has ended")
        return dict(json.loads(line))


def _serve(modules: Sequence[str]) -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    for module in modules:
        importlib.import_module(module)
    os.write(answers, b'{"ready": true}\n')
    for line in sys.stdin:
        answer = _answer(json.loads(line), answers)
        os.write(answers, json.dumps(answer).encode() + b"\n")


def _answer(request: dict[str, Any], answers: int) -> dict[str, Any]:
    if "wait" in request:
        _, status, usage = os.wait4(request["wait"], 0)
        return {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime, "memory_kb": usage.ru_maxrss}
    if "warm" in request:
        code = importlib.import_module(request["warm"]).main(request["arguments"])
        gc.collect()
        gc.freeze()
        return {"code": code}
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        _be_command(request)
    return {"pid": pid}


def _be_command(request: dict[str, Any]) -> None:
    """What a process of its own would do, from the start of `__main__` on."""
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(request["folder"])
        os.environ[MARK] = request["mark"]
        if request["stops_locked"]:
            _stop_at_the_first_lock()
        sys.argv = [request["start"], *request["arguments"]]
        from base.command import run_main

        run_main(importlib.import_module(request["start"]).main)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
        os._exit(code)


def _stop_at_the_first_lock() -> None:
    """Whoever looks from outside may look too late: on a busy machine a lock comes and goes between two looks."""
    lock = fcntl.flock

    def flock(file: Any, operation: int) -> None:
        lock(file, operation)
        if operation & fcntl.LOCK_EX:
            fcntl.flock = lock
            os.kill(os.getpid(), signal.SIGSTOP)

    fcntl.flock = flock


if __name__ == "__main__":
    _serve(sys.argv[1:])
