"""How a command ends: exit code, last words, and what a signal leaves behind, in processes of their own."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from base.command import EXIT_BUG, run_command
from base.errors import (
    BackendUnavailable,
    CheckpointError,
    ConfigError,
    DataError,
    EngineBuildError,
    ExportError,
    MissingDependencyError,
    UserError,
)

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A command that says when it is inside its work, and whose work is the body that a test gives.
COMMAND = """
import os, signal, sys, time
from contextlib import contextmanager
from base.command import run_command, run_main

def ready():
    print("ready", flush=True)

def work():
{body}

run_main(lambda: run_command(work, "INFO"))
"""

CLEANING = """
@contextmanager
def temporary(path):
    open(path, "w").close()
    try:
        yield
    finally:
        os.unlink(path)
        print("cleaned", flush=True)

with temporary(sys.argv[1]):
    ready()
    time.sleep(60)
"""


def command(body: str) -> list[str]:
    return [sys.executable, "-c", COMMAND.format(body=textwrap.indent(textwrap.dedent(body), "    "))]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def default_signals() -> None:
    """A test run in the background of a script, or under nohup, ignores signals, and its processes would, too."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def started(
    body: str, *arguments: str, stdin: int | None = None, preexec_fn: Callable[[], object] = default_signals
) -> Iterator[subprocess.Popen[str]]:
    """A command that has said that it is ready."""
    process = subprocess.Popen(
        [*command(body), *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=preexec_fn,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(body), capture_output=True, text=True, env=environment(), check=False)


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize("code", [None, 0, 1, 2])
def test_the_work_s_own_code(code: int | None) -> None:
    assert run_command(lambda: code) == (code or 0)


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (UserError, "input"),
        (DataError, "input"),
        (CheckpointError, "input"),
        (ExportError, "input"),
        (EngineBuildError, "input"),
        (ConfigError, "configuration"),
        (MissingDependencyError, "installation"),
        (BackendUnavailable, "machine"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_2(
    error: type[Exception], label: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error("'x.json' is empty. Write it again."))) == 2
    assert capsys.readouterr().err == f"error ({label}): 'x.json' is empty. Write it again.\n"


def test_a_kind_of_a_kind_keeps_its_label(capsys: pytest.CaptureFixture[str]) -> None:
    class KeyUnknownError(ConfigError):
        pass

    assert run_command(raising(KeyUnknownError("no such key"))) == 2
    assert capsys.readouterr().err == "error (configuration): no such key\n"


def test_errors_of_the_system_name_the_path_and_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def read(path: Path) -> int:
        return len(path.read_bytes())

    (tmp_path / "file").touch()
    for path, text in (
        (tmp_path / "file" / "inside", "Not a directory. A part of the path is a file; give a path of folders."),
        (tmp_path / ("n" * 300), "File name too long. Give a shorter name."),
        (tmp_path, "Is a directory. Give the path of a file."),
        (tmp_path / "absent", "No such file or directory."),
    ):
        assert run_command(partial(read, path)) == 2
        assert capsys.readouterr().err == f"error (system): '{path}': {text}\n"


def test_memory_and_depth_are_no_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    def deep() -> int:
        return deep()

    assert run_command(raising(MemoryError("Unable to allocate 7.28 TiB for an array"))) == 2
    assert capsys.readouterr().err.startswith(
        "error (memory): Memory ran out: Unable to allocate 7.28 TiB for an array. Use smaller sizes, or"
    )
    assert run_command(deep) == 2
    assert capsys.readouterr().err.startswith("error (input): The input is nested too deeply to be read. --log-level")


def test_a_package_that_is_not_installed_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        importlib.import_module(".".join(("no_such_package_anywhere", "part")))

    assert run_command(work) == 2
    assert "error (installation): Python package 'no_such_package_anywhere' is needed" in capsys.readouterr().err


def test_a_module_that_an_installed_package_lacks_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        __import__("base.no_such_module")

    assert run_command(work) == EXIT_BUG
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_shown_with_its_traceback() -> None:
    done = run("{}['key']")
    assert done.returncode == EXIT_BUG == 70
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith(
        "error (bug): KeyError: this is a fault of the tool, not of its input. Please report it.\n"
    )


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(DataError("broken")), "DEBUG") == 2
    found = capsys.readouterr().err
    assert "in work" in found
    assert found.endswith("error (input): broken\n")


def test_the_log_goes_to_stderr_at_its_level_and_no_longer(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)

    def work() -> None:
        logging.getLogger("anybody").info("told")
        logging.getLogger("anybody").debug("not told")

    assert run_command(work, "INFO") == 0
    assert (root.level, list(root.handlers)) == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(" INFO    told")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_an_exception_a_message_and_128_plus_n(number: signal.Signals, tmp_path: Path) -> None:
    temporary = tmp_path / "unfinished"
    with started(CLEANING, str(temporary)) as process:
        assert temporary.exists()
        process.send_signal(number)
        out, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert out == "cleaned\n"
    assert error == f"stopped by {number.name}: finished files are whole and were kept, unfinished ones were removed.\n"
    assert not temporary.exists()


def test_notes_of_what_was_underway_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    interrupt = KeyboardInterrupt()
    interrupt.add_note("'out' keeps: a.onnx")
    assert run_command(raising(interrupt)) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "'out' keeps: a.onnx"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    body = """
    try:
        ready()
        time.sleep(60)
    finally:
        ready()
        time.sleep(60)
    """
    with started(body) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM


def test_the_same_request_sent_twice_is_one(tmp_path: Path) -> None:
    # As GNU timeout does it: to the process, then to its group.
    with started(CLEANING, str(tmp_path / "unfinished")) as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=30)
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGHUP)
    assert out == "cleaned\n"


def test_what_the_process_was_started_to_ignore_stays_ignored() -> None:
    body = """
    ready()
    sys.stdin.readline()
    """

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with started(body, stdin=subprocess.PIPE, preexec_fn=ignore) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate("go on\n", timeout=30)
        assert process.returncode == 0


def test_what_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        logging.getLogger("x").info("frame \x1b[2J\nnext line")
        raise DataError("'a\x1b[31m\x9b\u202eb\r' is wrong\nsecond line")

    assert run_command(work) == 2
    said = capsys.readouterr().err
    assert r"frame \x1b[2J" in said
    assert r"'a\x1b[31m\x9b\u202eb\r' is wrong" in said
    assert {"next line", "second line"} < set(said.splitlines())


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    body = """
    class Slow:
        def __del__(self):
            ready()
            time.sleep(60)

    Slow()
    time.sleep(60)
    """
    with started(body) as process:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Exception ignored" not in error


def test_calls_that_belong_together_are_not_parted() -> None:
    body = """
    from base.signals import held
    with held():
        ready()
        sys.stdin.readline()
        print("together", flush=True)
    print("not reached", flush=True)
    """
    with started(body, stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        out, _ = process.communicate("go on\n", timeout=30)
    assert process.returncode == 130
    assert out == "together\n"


def test_whoever_stops_reading_ends_a_command_without_a_word() -> None:
    body = """
    ready()
    for _ in range(100_000):
        print("a line of a long table")
    """
    with started(body) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 128 + signal.SIGPIPE
        assert process.stderr.read() == ""
        process.stdout = None  # communicate() would flush it


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_standard_output() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("print('result')"), stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), check=False
        )
    assert done.returncode == 2
    assert done.stderr == "error (system): No space left on device. Free space, or write to another disk.\n"


def test_names_that_a_terminal_cannot_show() -> None:
    done = subprocess.run(
        command("print('\\udcff, ≥')"),
        capture_output=True,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"\\udcff, \\u2265\n")


FORKING = """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
process.start()
print(process.pid, flush=True)
process.join()
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_forked_process_ends_with_a_command_that_is_killed() -> None:
    with started("ready()" + FORKING) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_running(child)
        process.kill()
        assert wait_until(lambda: not is_running(child))


def test_a_command_within_a_command_leaves_signals_to_the_outer_one() -> None:
    body = """
    def inner():
        ready()
        time.sleep(60)
    try:
        run_command(inner)
    finally:
        print("outer", flush=True)
    """
    with started(body) as process:
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (128 + signal.SIGTERM, "outer\n")
    assert error.count("stopped by") == 1
