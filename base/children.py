"""Processes that a command starts: they end when it ends, however that happens."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from base.errors import UserError

__all__ = ["end_with_parent", "in_processes", "run_child"]

S = TypeVar("S")

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Makes this process end when `parent` does, killed with SIGKILL included; ends it now where that has happened.

    Args:
        parent: Process that started this one. Asked of the system here it could be the one that took an orphan in.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "prctl"):  # Linux alone has it
        return
    if library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # The parent may have ended before the kernel knew that this matters.
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def run_child(module: str, task: bytes) -> subprocess.CompletedProcess[bytes]:
    """Runs a module as a process of its own that reads `task` from stdin, and waits for it.

    The module's first argument is the number of this process, for `end_with_parent`. Any exception here, such as that
    of a signal, ends the child first; signals of the terminal do not reach it.
    """
    return subprocess.run(
        [sys.executable, "-m", module, str(os.getpid())],
        input=task,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
        process_group=0,
        check=False,
    )


def in_processes(work: Callable[[S], Iterator[Any]], shares: Sequence[S], what: str = "parts") -> Iterator[Any]:
    """Everything that `work(share)` yields, for each share in a process of its own, in order of arrival.

    The processes are forked: they share the memory of what the caller holds (a model's weights) and need no pickling of
    `work`. What they yield is pickled. Closing the iterator ends them.

    Args:
        work: Yields what can be pickled.
        shares: One for each process.
        what: They work on, for messages: "frames".

    Raises:
        UserError: one of them raised it; its kind and text are kept.
        OSError: one of them met it.
        RuntimeError: one ended in another way; its own traceback, if it had one, went to standard error.
    """
    context = multiprocessing.get_context("fork")
    processes: dict[Connection, Any] = {}
    ended: set[Connection] = set()
    try:
        for share in shares:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(work, share, sender, os.getpid()), daemon=True)
            process.start()
            sender.close()
            processes[receiver] = process
        while waiting := [connection for connection in processes if connection not in ended]:
            for ready in wait(waiting):
                connection = cast(Connection, ready)
                try:
                    kind, content = connection.recv()
                except EOFError:
                    processes[connection].join()
                    raise RuntimeError(
                        f"A process ended with exit code {processes[connection].exitcode} before its {what} were done. "
                        "-9 is usually a lack of memory: use fewer workers."
                    ) from None
                if kind == "error":
                    raise content
                if kind == "end":
                    ended.add(connection)
                else:
                    yield content
    finally:
        for connection, process in processes.items():
            if connection not in ended:
                process.kill()
            process.join()
            connection.close()


def _work(work: Callable[[S], Iterator[Any]], share: S, sender: Connection, parent: int) -> None:
    end_with_parent(parent)
    try:
        for item in work(share):
            sender.send(("item", item))
    except (UserError, OSError) as error:
        sender.send(("error", error))
        return
    sender.send(("end", None))
