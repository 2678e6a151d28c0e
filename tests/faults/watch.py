"""What a reader does besides reading, and what it costs: for a process that reads files of strangers in a test."""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

__all__ = ["cpu_s", "peak", "rewind_peak", "silence", "watch"]

# Nothing of these is any reader's business.
_EVENTS = frozenset(
    {
        *(
            "os.system",
            "os.exec",
            "os.spawn",
            "os.startfile",
            "pty.spawn",
            "os.putenv",
            "ctypes.dlopen",
            "webbrowser.open",
        ),
        *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "ftplib.connect"),
    }
)
_PROCESS_EVENTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"})
# Only in the folder of the test and in that of temporary files.
_FILE_EVENTS = frozenset(
    {
        "os.remove",
        "os.rmdir",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.symlink",
        "os.rename",
        "os.truncate",
        "shutil.rmtree",
    }
)
# What mutations name to see whether somebody opens it.
_BAIT = ("/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem")


def silence(folder: Path) -> None:
    """Output of libraries and warnings go nowhere; the process stands in `folder`."""
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    sys.stdout, sys.stderr = open(os.devnull, "w"), open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    logging.getLogger().handlers.clear()
    warnings.simplefilter("ignore")
    os.chdir(folder)


def watch(folder: Path, *, spawns: bool) -> list[str]:
    """A list that fills with what Python is asked to do and no reader may.

    No wall: things are done all the same.

    Args:
        folder: In it, files may be made and removed.
        spawns: Whether processes may be started.
    """
    seen: list[str] = []
    inside = (os.path.realpath(folder), os.path.realpath(tempfile.gettempdir()))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            found = not _plainly_below(arguments[0], inside[0]) and _real(arguments[0]) in _BAIT
        elif event in _FILE_EVENTS:
            found = not _real(arguments[0]).startswith(inside)
        else:
            found = event in _EVENTS or (not spawns and event in _PROCESS_EVENTS)
        if found:
            seen.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)
    return seen


def _plainly_below(path: object, folder: str) -> bool:
    """Whether a path is in a folder, without links and ways up: most are, and asking the system costs more."""
    return isinstance(path, str) and path.startswith(folder + os.sep) and ".." not in path and not os.path.islink(path)


def _real(path: object) -> str:
    """Where a path leads; nothing for a descriptor and for what can be no path."""
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    text = os.fsdecode(path)
    return "" if "\0" in text else os.path.realpath(text)


def rewind_peak() -> int:
    """Lets the kernel count the peak of resident memory anew; returns what is resident now, bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Largest resident memory since `rewind_peak`, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_s() -> float:
    """CPU time of this process and of its children that have ended, seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
