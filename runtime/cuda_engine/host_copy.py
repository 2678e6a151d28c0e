"""Host memory to page-locked memory by several threads, part by part, so that each part can travel on at once."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["PART_BYTES", "HostCopy"]

PART_BYTES = 1 << 19
"""Bytes that one thread copies in some tens of microseconds: less is not worth another one."""
_MOST_THREADS = 4
# Parts of several threads are as large as their shares, up to this many times PART_BYTES: between two parts a thread
# waits for the interpreter, and waking it takes as long as copying a quarter of a megabyte.
_LARGEST_PART = 4

_Job = tuple["NDArray[np.float32]", "NDArray[np.float32]", list[slice], "SimpleQueue[slice | Exception]"]


class HostCopy:
    """Copies rows. numpy lets other threads run while it copies, so that each takes a share of the parts."""

    def __init__(self, threads: int | None = None) -> None:
        """Args:
        threads: That copy at a time, the caller's among them; by default half of the process' cores, four at most.
            Those beside the caller's start with the first cloud of more than one part.
        """
        cores = len(os.sched_getaffinity(0))
        self._threads = max(1, min(_MOST_THREADS, cores // 2)) if threads is None else threads
        self._jobs: list[SimpleQueue[_Job | None]] = []

    def copy(self, target: NDArray[np.float32], source: NDArray[np.float32], copied: Callable[[slice], None]) -> None:
        """Copies all rows of `source` into as many of `target`.

        Args:
            target: (N, C), contiguous.
            source: (N, C).
            copied: Called by this thread for each part, when it is in `target`; parts come in any order.
        """
        rows = max(1, PART_BYTES // max(1, source.shape[1] * source.itemsize))
        helpers = max(min(self._threads, -(-len(source) // rows)), 1) - 1
        if helpers:
            rows = min(-(-len(source) // (helpers + 1)), _LARGEST_PART * rows)
        parts = [slice(first, min(first + rows, len(source))) for first in range(0, len(source), rows)]
        done: SimpleQueue[slice | Exception] = SimpleQueue()
        for index in range(helpers):
            self._helper(index).put((target, source, parts[index + 1 :: helpers + 1], done))
        own = parts[:: helpers + 1]
        for part in own:
            target[part] = source[part]
            copied(part)
        for _ in range(len(parts) - len(own)):
            found = done.get()
            if isinstance(found, Exception):
                raise found
            copied(found)

    def close(self) -> None:
        """Ends the threads; calling it again does nothing."""
        for jobs in self._jobs:
            jobs.put(None)
        self._jobs.clear()

    def _helper(self, index: int) -> SimpleQueue[_Job | None]:
        while index >= len(self._jobs):
            jobs: SimpleQueue[_Job | None] = SimpleQueue()
            threading.Thread(target=_work, args=(jobs,), name="cloud-copy", daemon=True).start()
            self._jobs.append(jobs)
        return self._jobs[index]


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        target, source, parts, done = job
        for part in parts:
            try:
                target[part] = source[part]
            except (ValueError, MemoryError) as problem:  # told where the cloud is waited for
                done.put(problem)
            else:
                done.put(part)
        del job, target, source
