"""How every command begins and ends: arguments that all have, logging, signals, errors to a message and an exit code.

    def main(argv: Sequence[str] | None = None) -> int:
        args = parser().parse_args(argv)
        return run_command(lambda: work(args), args.log_level)

    if __name__ == "__main__":
        run_main(main)

An exception that nobody foresaw is a bug of the tool: its traceback is shown, with a line that says so.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import NoReturn

from base.checks import checking
from base.errors import BackendUnavailable, UserError
from base.lazy import missing_package
from base.messages import plain_lines
from base.signals import SIGNALS, Stopped, is_listening, listening

__all__ = [
    "EXIT_BUG",
    "EXIT_FAILED",
    "EXIT_PASSED",
    "EXIT_USAGE",
    "LOG_LEVELS",
    "add_log_level",
    "run_command",
    "run_main",
]

EXIT_PASSED, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: neither the user's mistake (2) nor a result (0, 1)."""
_EXIT_SIGNAL = 128

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FORMAT, _TIME = "%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"
_CHATTY = ("matplotlib", "numba", "PIL", "mmengine")

_TRACEBACK_HINT = "--log-level=DEBUG shows where it happened."
# What to do about an error of the operating system. Its own words say what is wrong.
_REMEDIES = {
    errno.ENOSPC: "Free space, or write to another disk.",
    errno.EDQUOT: "Free space, or write to another disk.",
    errno.EFBIG: "Write to a file system that takes files of this size.",
    errno.EACCES: "Give a path that this user may use, or change its permissions.",
    errno.EPERM: "Give a path that this user may use, or change its permissions.",
    errno.EROFS: "Give a path on a file system that can be written.",
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.ENOTDIR: "A part of the path is a file; give a path of folders.",
    errno.EISDIR: "Give the path of a file.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "Raise the system's limit of open files.",
    errno.EAGAIN: "Raise the limits of processes and threads (ulimit -u).",
    errno.ENOMEM: "Free memory, or run on a machine with more of it.",
}

_logger = logging.getLogger(__name__)


def add_log_level(parser: argparse.ArgumentParser, default: str = "INFO") -> None:
    """Adds `--log-level`, which every command has."""
    parser.add_argument("--log-level", choices=LOG_LEVELS, default=default, help="default %(default)s")


def run_command(work: Callable[[], int | None], log_level: str = "INFO", accept: Iterable[str] = ()) -> int:
    """Does a command's work and turns how it ended into a message on standard error and an exit code.

    Args:
        work: Returns the exit code; None is 0.
        log_level: What is logged to standard error, of `LOG_LEVELS`.
        accept: Checks whose errors are warnings (`base.checks.add_accept`).

    Returns:
        The work's own code; 2 for what the user can mend: wrong input or configuration (`UserError`), a machine that
        cannot do it (`BackendUnavailable`), an error of the operating system, a lack of memory; 128 + n where signal n
        stopped it; 141 where whoever read standard output went away; 70 for a bug, with its traceback.
    """
    is_inside_another = is_listening()
    with _logging(log_level):
        try:
            with listening(), checking(accept):
                return _ended(work)
        except KeyboardInterrupt as interrupt:
            if is_inside_another:
                raise
            return _stopped(interrupt)


def run_main(main: Callable[[], int]) -> NoReturn:
    """Runs a command as a process, and ends the process with its exit code: what stands under `__main__`.

    Before and after the command's own work nothing is unfinished: a signal ends the process then without more ado.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files and signs of tables must not fail on a terminal that lacks them.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    heeded = [number for number in SIGNALS if number not in ignored]

    def end_now(number: int, _frame: FrameType | None) -> None:
        os._exit(_EXIT_SIGNAL + number)

    def ignore_signals() -> None:
        for number in heeded:
            signal.signal(number, signal.SIG_IGN)

    for number in heeded:
        signal.signal(number, end_now)
    # Registered first, called last: Python forgets handlers on its way out, and a late signal would kill.
    atexit.register(ignore_signals)
    code = main()

    def end_as_done(_number: int, _frame: FrameType | None) -> None:
        os._exit(code)

    for number in heeded:
        signal.signal(number, end_as_done)
    sys.exit(code)


def _ended(work: Callable[[], int | None]) -> int:
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()
    except (UserError, BackendUnavailable) as error:
        # Without a traceback: the message says what to do, and the code that found out does not help with that.
        return _failed(error.label, str(error), error)
    except BrokenPipeError as error:
        if _is_read(sys.stdout):
            return _failed("system", _system_message(error), error)
        _discard_output()
        return _EXIT_SIGNAL + signal.SIGPIPE
    except OSError as error:
        _discard_output()
        return _failed("system", _system_message(error), error)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        return _bug(error) if missing is None else _failed(missing.label, str(missing), error)
    except RecursionError as error:
        return _failed("input", f"The input is nested too deeply to be read. {_TRACEBACK_HINT}", error)
    except Exception as error:  # noqa: BLE001 - every other one is a bug, and shown as such with its traceback
        if _is_out_of_memory(error):
            what = str(error).strip().split("\n")[0]
            text = f"Memory ran out{': ' + what if what else ''}. Use smaller sizes, or a machine with more memory."
            return _failed("memory", f"{text} {_TRACEBACK_HINT}", error)
        return _bug(error)
    return EXIT_PASSED if code is None else code


def _bug(error: Exception) -> int:
    traceback.print_exception(error, file=sys.stderr)
    _say(f"error (bug): {type(error).__name__}: this is a fault of the tool, not of its input. Please report it.")
    _logger.debug("bug", exc_info=error)
    return EXIT_BUG


def _failed(label: str, message: str, error: Exception) -> int:
    _logger.debug("where the error came from", exc_info=error)
    _say(f"error ({label}): {message}")
    for note in getattr(error, "__notes__", ()):
        _say(note)
    return EXIT_USAGE


def _stopped(interrupt: KeyboardInterrupt) -> int:
    _logger.debug("where the command was", exc_info=interrupt)
    # A library may have put Python's own handler of SIGINT back.
    number = interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT
    name = signal.Signals(number).name
    _say(f"stopped by {name}: finished files are whole and were kept, unfinished ones were removed.")
    for note in getattr(interrupt, "__notes__", ()):
        _say(note)
    return _EXIT_SIGNAL + number


def _say(text: str) -> None:
    # Nobody may be there any more to hear it.
    with contextlib.suppress(OSError, ValueError):
        print(plain_lines(text), file=sys.stderr, flush=True)  # noqa: T201 - the command's last word


def _system_message(error: OSError) -> str:
    paths = [f"'{os.fsdecode(path)}'" for path in (error.filename, error.filename2) if isinstance(path, (str, bytes))]
    where = f"{' and '.join(paths)}: " if paths else ""
    remedy = _REMEDIES.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}. {remedy}".rstrip()


def _is_out_of_memory(error: Exception) -> bool:
    # torch has a class of its own for a GPU's memory, and none for the CPU's.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate memory" in str(error))
    )


def _is_read(stream: object) -> bool:
    """Whether somebody is at the other end of a stream."""
    try:
        descriptor = stream.fileno()  # type: ignore[attr-defined]  # ValueError and its kin tell otherwise
    except (AttributeError, OSError, ValueError):
        return True
    poll = select.poll()
    poll.register(descriptor, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """What is still in the buffer of standard output cannot be written; Python would try again when it ends."""
    try:
        sys.stdout.flush()
    except (AttributeError, ValueError):
        return
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """`logging`'s; what a terminal would obey is escaped."""
        return plain_lines(super().format(record))


@contextlib.contextmanager
def _logging(level: str) -> Iterator[None]:
    """Logs to standard error; handlers of whoever calls the command stay as they are."""
    root, handler = logging.getLogger(), logging.StreamHandler()
    handler.setFormatter(_PlainFormatter(_FORMAT, _TIME))
    chatty = [logging.getLogger(name) for name in _CHATTY]
    before = [(logger, logger.level) for logger in (root, *chatty)]
    root.addHandler(handler)
    _set_level(root, logging.getLevelNamesMapping()[level])
    for logger in chatty:
        _set_level(logger, logging.WARNING)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, earlier in before:
            _set_level(logger, earlier)


def _set_level(logger: logging.Logger, level: int) -> None:
    """Sets a level that is not set: `logging` then forgets what it knows of each of a thousand loggers."""
    if logger.level != level:
        logger.setLevel(level)
