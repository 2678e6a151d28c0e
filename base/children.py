"""Processes that a command starts: they end when it ends, however that happens."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["end_with_parent"]

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
