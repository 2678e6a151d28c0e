"""Shares of work in processes of their own, whose messages come back as they are made."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from base.errors import UserError

__all__ = ["in_processes"]

S = TypeVar("S")


def in_processes(work: Callable[[S], Iterator[Any]], shares: Sequence[S]) -> Iterator[Any]:
    """Everything that `work(share)` yields, for each share in a process of its own, in order of arrival.

    The processes are forked: they share the memory of what the caller holds (a model's weights) and need no pickling of
    `work`. What they yield is pickled. Closing the iterator ends them.

    Raises:
        UserError: one of them raised it; its kind and text are kept.
        RuntimeError: one ended in another way; its own traceback, if it had one, went to standard error.
    """
    context = multiprocessing.get_context("fork")
    processes: dict[Connection, Any] = {}
    waiting: list[Connection] = []
    try:
        for share in shares:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(work, share, sender), daemon=True)
            process.start()
            sender.close()
            processes[receiver] = process
        waiting = list(processes)
        while waiting:
            for ready in wait(waiting):
                connection = cast(Connection, ready)
                try:
                    kind, content = connection.recv()
                except EOFError:
                    processes[connection].join()
                    raise RuntimeError(
                        f"A calibration process ended with exit code {processes[connection].exitcode} before its "
                        "frames were done. "
                        "-9 is usually a lack of memory: use fewer workers."
                    ) from None
                if kind == "error":
                    raise content
                if kind == "end":
                    waiting.remove(connection)
                else:
                    yield content
    finally:
        for connection, process in processes.items():
            if process.is_alive() and connection in waiting:
                process.terminate()
            process.join()
            connection.close()


def _run(work: Callable[[S], Iterator[Any]], share: S, sender: Connection) -> None:
    try:
        for item in work(share):
            sender.send(("item", item))
    except UserError as error:
        sender.send(("error", error))
        return
    sender.send(("end", None))
