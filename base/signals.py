"""What SIGINT, SIGTERM and SIGHUP do to a command: one exception, so that everything that was opened is closed.

The first signal raises `Stopped` in the main thread, wherever that is, and `finally` blocks run. A second one ends the
process at once. Processes that were forked meanwhile do not listen: who forked them ends them, and they end with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from base.children import end_with_parent

__all__ = ["SIGNALS", "Stopped", "held", "is_listening", "listening"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# GNU timeout, a closing terminal and process managers send the same request twice, to the process and to its group.
_SAME_REQUEST_S = 0.1
_AGAIN_AFTER_S = 0.01


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end. Libraries know it as a KeyboardInterrupt, and clean up as they do for that.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class _Listener:
    """The handlers of one command, and what they heard."""

    def __init__(self) -> None:
        self.heard: int | None = None
        self.heard_at = 0.0
        self.holding = 0
        self.before: dict[signal.Signals, Any] = {}
        self.process, self.thread = os.getpid(), threading.get_ident()

    def install(self) -> None:
        for number in SIGNALS:
            # `nohup` and background jobs of scripts ignore signals on purpose; None was set by other than Python.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self.before[number] = signal.signal(number, self.hear)

    def restore(self) -> None:
        for number, before in self.before.items():
            signal.signal(number, before)

    def hear(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.heard is not None:
            if now - self.heard_at > _SAME_REQUEST_S:
                os._exit(128 + number)
            return
        self.heard, self.heard_at = number, now
        if not self.holding:
            raise Stopped(number)

    def repeat(self, number: int) -> None:
        """Raises once more what Python could not pass on, out of a destructor or a callback."""
        self.heard = None
        # To the main thread, so that the signal also ends what it waits for.
        threading.Timer(_AGAIN_AFTER_S, signal.pthread_kill, (self.thread, number)).start()

    def leave_child(self) -> None:
        """In a process that was forked: whoever forked it ends it; Ctrl-C reaches the whole group and is theirs."""
        for number in self.before:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        # The kernel takes the end of the thread that forked for the end of the parent; the main one ends last.
        if threading.get_ident() == self.thread:
            end_with_parent(self.process)


_listener: _Listener | None = None


def _forked() -> None:
    global _listener
    if _listener is not None:
        _listener.leave_child()
        _listener = None


os.register_at_fork(after_in_child=_forked)


def is_listening() -> bool:
    """Whether this is inside a block of `listening`."""
    return _listener is not None


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within, the first signal raises `Stopped`; a signal that the process was started to ignore stays ignored.

    Nothing changes inside another such block, and outside the main thread, where Python takes no signals.
    """
    global _listener
    if is_listening() or threading.current_thread() is not threading.main_thread():
        yield
        return
    listener, unraisable = _Listener(), sys.unraisablehook
    sys.unraisablehook = _passing_on(listener, unraisable)
    _listener = listener
    try:
        listener.install()
        yield
    finally:
        listener.restore()
        _listener, sys.unraisablehook = None, unraisable


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within, the first signal waits: for the few calls that must happen together or not at all."""
    listener = _listener
    if listener is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = listener.heard
    listener.holding += 1
    try:
        yield
    finally:
        listener.holding -= 1
    if listener.heard is not None and heard is None and not listener.holding:
        raise Stopped(listener.heard)


def _passing_on(listener: _Listener, otherwise: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Stopped):
            listener.repeat(unraisable.exc_value.number)
        else:
            otherwise(unraisable)

    return hook
