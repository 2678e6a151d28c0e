"""One parser under many mutated files, in forked processes: how each file ended, in what time and memory.

A reader that crashes, hangs or runs out of memory ends its process, is written down, and the next file gets a new one.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from base.errors import UserError
from tests.faults.mutate_bytes import Mutation
from tests.faults.watch import cpu_s, peak, rewind_peak, silence, watch

__all__ = ["Failure", "Parser", "Refusal", "Summary", "reproduce", "try_files", "try_parser"]

Content = Callable[[bytes, int], bytes]

CPU_LIMIT_S = 2.0
MEMORY_LIMIT = 1 << 30
_HANG_S = 45.0  # of wall time, on a busy machine
_ADDRESS_SPACE = 6 << 30  # beyond what the process has when it starts
_BATCH = 4000  # files a process reads, so that what a library keeps does not add up
_MAX_KEPT = 40


class Refusal(Exception):  # noqa: N818 - no fault: what a command should do
    """Raised by a reader that is a command: it ended with exit code 2, and this is what it printed."""


@dataclass(frozen=True)
class Parser:
    """A reader of one kind of file.

    Attributes:
        name: Of the format; after a comma, what reads it.
        sample: Makes a folder in which everything is right.
        file: The file that is mutated, relative to that folder.
        mutate: From its bytes to others.
        prepare: Imports what is needed and returns the reader: a function of the folder that reads the file as the
            product does. It raises a `UserError` or a `Refusal` for a file that is wrong.
        weight: Share of the usual number of mutations. Readers of one format share them: most files go through the
            quickest, some through each of the others, such as whole commands.
        spawns: The reader starts processes of its own.
    """

    name: str
    sample: Callable[[Path], None]
    file: str
    mutate: Mutation
    prepare: Callable[[], Callable[[Path], object]]
    weight: float = 1.0
    spawns: bool = False

    @property
    def format(self) -> str:
        """Name of the format."""
        return self.name.partition(",")[0]

    def mutated(self, good: bytes, index: int) -> bytes:
        """The `index`-th mutation; the same on every machine."""
        return self.mutate(good, Random(f"{self.name}/{index}"))


@dataclass(frozen=True)
class Failure:
    """A file that the reader did not take and did not refuse as it should have."""

    parser: str
    index: int
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.parser} #{self.index} {self.kind}: {self.detail}"


@dataclass
class Summary:
    """Of one parser.

    Attributes:
        inputs: Files read.
        outcomes: "accepted", "refused" and kinds of failures, each with its count.
        slowest_s: CPU time of the slowest file, children included.
        largest_mb: Growth of resident memory for the largest.
        cpu_s: CPU time of all files.
        failures: The first few of each kind and place.
    """

    parser: str
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    largest_mb: float = 0.0
    cpu_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, index: int, kind: str, detail: str, cpu_s: float = 0.0, memory: int = 0) -> None:
        """Counts one file."""
        self.inputs += 1
        self.outcomes[kind] += 1
        self.cpu_s += cpu_s
        self.slowest_s, self.largest_mb = max(self.slowest_s, cpu_s), max(self.largest_mb, memory / 1e6)
        if kind not in ("accepted", "refused") and len(self.failures) < _MAX_KEPT:
            self.failures.append(Failure(self.parser, index, kind, detail))

    @property
    def num_failures(self) -> int:
        """Files that were neither accepted nor refused."""
        return self.inputs - self.outcomes["accepted"] - self.outcomes["refused"]


def try_parser(parser: Parser, folder: Path, count: int, first: int = 0) -> Summary:
    """Reads `count` mutated files, from number `first` on.

    Args:
        parser: What is tried.
        folder: An empty folder of its own.
        count: How many files.
        first: Number of the first.

    Raises:
        AssertionError: the reader refuses the file that is right.
    """
    return _try(parser, folder, parser.mutated, range(first, first + count))


def try_files(parser: Parser, folder: Path, contents: Sequence[bytes]) -> Summary:
    """The same with files that are given."""
    return _try(parser, folder, lambda _, index: contents[index], range(len(contents)))


def _try(parser: Parser, folder: Path, content: Content, indices: range) -> Summary:
    parser.sample(folder)
    read = parser.prepare()
    read(folder)  # whatever is imported or compiled late is so from here on, and the good file is one
    gc.collect()
    gc.freeze()  # what is loaded by now is not looked at again by a collection, of which some libraries ask for many
    good = (folder / parser.file).read_bytes()
    trial = _Trial(parser, folder, lambda index: content(good, index), read)
    summary = Summary(parser.name)
    index = indices.start
    while index < indices.stop:
        index = _in_child(trial, range(index, min(indices.stop, index + _BATCH)), summary)
    (folder / parser.file).write_bytes(good)
    return summary


def reproduce(parser: Parser, folder: Path, index: int) -> object:
    """Reads one mutated file in this process; for whoever looks at a failure."""
    parser.sample(folder)
    read = parser.prepare()
    file = folder / parser.file
    file.write_bytes(parser.mutated(file.read_bytes(), index))
    return read(folder)


@dataclass(frozen=True)
class _Trial:
    """What every process of a trial needs."""

    parser: Parser
    folder: Path
    content: Callable[[int], bytes]
    read: Callable[[Path], object]


def _in_child(trial: _Trial, indices: range, summary: Summary) -> int:
    """Reads files in a forked process until all are read or it ends; returns the next number to read."""
    receive, send = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            os.close(receive)
            _child(trial, indices, send)
            code = 0
        except BaseException:  # noqa: BLE001 - a fault of these tests: the parent shows it
            os.write(send, json.dumps(["broken test", traceback.format_exc()[-2500:], 0.0, 0]).encode() + b"\n")
        finally:
            os._exit(code)
    os.close(send)
    position = indices.start
    with os.fdopen(receive, "rb") as stream:
        while position < indices.stop:
            ready, _, _ = select.select([stream], [], [], _HANG_S)
            line = stream.readline() if ready else b""
            if not line:
                break
            kind, detail, cpu_s, memory = json.loads(line)
            if kind == "broken test":
                raise RuntimeError(f"{summary.parser} #{position}: {detail}")
            summary.add(position, kind, detail, cpu_s, memory)
            position += 1
        hung = position < indices.stop and not select.select([stream], [], [], 0)[0]
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if position < indices.stop:
        signal_number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        summary.add(
            position, "hang" if hung else "crash", f"no end in {_HANG_S} s" if hung else f"signal {signal_number}"
        )
        position += 1
    return position


def _child(trial: _Trial, indices: range, send: int) -> None:
    folder, read = trial.folder, trial.read
    silence(folder)
    forbidden = watch(folder, spawns=trial.parser.spawns)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE, used + _ADDRESS_SPACE))
    file = folder / trial.parser.file
    for index in indices:
        _overwrite(file, trial.content(index))
        forbidden.clear()
        before = rewind_peak()
        cpu = cpu_s()
        kind, detail = _read_one(read, folder, file.name)
        cpu = cpu_s() - cpu
        memory = max(0, peak() - before)
        if forbidden:
            kind, detail = "did what no reader may", "; ".join(sorted(set(forbidden))[:5])
        elif kind in ("accepted", "refused") and cpu > CPU_LIMIT_S:
            kind, detail = "slow", f"{cpu:.1f} s of CPU time; {kind}: {detail[:300]}"
        elif kind in ("accepted", "refused") and memory > MEMORY_LIMIT:
            kind, detail = "large", f"{memory / 1e6:.0f} MB; {kind}: {detail[:300]}"
        os.write(send, json.dumps([kind, detail[:3000], cpu, memory]).encode() + b"\n")


def _overwrite(file: Path, content: bytes) -> None:
    """In place: a new file for each content would cost more than most readers take."""
    with file.open("r+b", buffering=0) as stream:
        stream.write(content)
        stream.truncate()


def _read_one(read: Callable[[Path], object], folder: Path, usual: str) -> tuple[str, str]:
    """How reading ended, and the message or the place in the code; messages usually name the file `usual`."""
    try:
        read(folder)
    except (UserError, Refusal) as refusal:
        text = str(refusal)
        if "Traceback (most recent call last)" in text:
            return "traceback", text
        if usual not in text and not any(part.name in text for part in folder.rglob("*")):
            return "names no file", text
        return "refused", text
    except BaseException as error:  # noqa: BLE001 - whatever else ends a reader is what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-6:]]
        return f"uncaught {type(error).__name__}", f"{str(error)[:500]} at {' > '.join(places)}"
    return "accepted", ""
