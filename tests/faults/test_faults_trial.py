"""The trial itself: every way in which a reader can fail is found, and mutations repeat."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from base.errors import DataError
from tests.faults import trial
from tests.faults.limits import MUTATIONS
from tests.faults.mutate_bytes import mutate_bytes
from tests.faults.mutate_documents import json_mutation
from tests.faults.parsers import PARSERS
from tests.faults.trial import Parser, try_parser


def _sample(folder: Path) -> None:
    (folder / "file.txt").write_bytes(b"good")


def _numbered(_: bytes, rng: Random) -> bytes:
    return b"%d" % rng.randrange(1 << 30)


def _parser(read: Callable[[Path], object]) -> Parser:
    return Parser("toy", _sample, "file.txt", _numbered, lambda: read)


def _faulty(fault: Callable[[Path], object]) -> Callable[[Path], object]:
    """A reader that takes the good file, and does `fault` with every other."""
    return lambda folder: None if (folder / "file.txt").read_bytes() == b"good" else fault(folder)


def _refuse(folder: Path) -> None:
    raise DataError(f"'{folder / 'file.txt'}' is wrong")


def _refuse_without_name(_: Path) -> None:
    raise DataError("something is wrong")


def _recurse(folder: Path) -> None:
    _recurse(folder)


def _burn(_: Path) -> None:
    start = time.process_time()
    while time.process_time() - start < trial.CPU_LIMIT_S + 0.2:
        pass


def _spend(_: Path) -> None:
    block = bytearray(trial.MEMORY_LIMIT + (64 << 20))
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])


def _connect(_: Path) -> None:
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", 1))


FAULTS: dict[str, Callable[[Path], object]] = {
    "accepted": lambda _: None,
    "refused": _refuse,
    "names no file": _refuse_without_name,
    "uncaught KeyError": lambda _: dict[str, int]()["key"],
    "uncaught RecursionError": _recurse,
    "uncaught SystemExit": lambda _: exit(3),
    "uncaught MemoryError": lambda _: bytearray(1 << 40),
    "slow": _burn,
    "large": _spend,
    "crash": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "did what no reader may": _connect,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_end_is_found(kind: str, tmp_path: Path) -> None:
    count = 1 if kind in ("slow", "large") else 3
    summary = try_parser(_parser(_faulty(FAULTS[kind])), tmp_path, count)
    assert dict(summary.outcomes) == {kind: count}
    assert summary.num_failures == (0 if kind in ("accepted", "refused") else count)
    assert (tmp_path / "file.txt").read_bytes() == b"good"


def test_a_reader_that_never_ends_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_HANG_S", 1.0)
    summary = try_parser(_parser(_faulty(lambda _: time.sleep(1000))), tmp_path, 2)
    assert dict(summary.outcomes) == {"hang": 2}


def test_a_command_that_is_run_is_found(tmp_path: Path) -> None:
    summary = try_parser(_parser(_faulty(lambda folder: os.system("true"))), tmp_path, 1)
    (failure,) = summary.failures
    assert failure.kind == "did what no reader may"
    assert "os.system" in failure.detail


def test_a_parser_that_refuses_the_good_file_is_no_parser(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        try_parser(_parser(_refuse), tmp_path, 1)


def test_names_are_unique_and_mutations_repeat() -> None:
    assert len({parser.name for parser in PARSERS}) == len(PARSERS) > 40
    good = json.dumps([{"a": 1, "b": [1.5, "text"], "c": {"d": None}}] * 3).encode()
    for mutation in (mutate_bytes, json_mutation()):
        parser = Parser("toy", _sample, "file.txt", mutation, lambda: lambda _: None)
        made = [parser.mutated(good, index) for index in range(400)]
        assert made == [parser.mutated(good, index) for index in range(400)]
        assert len(set(made)) > 300
        assert made.count(good) < 20


def test_every_format_gets_its_share() -> None:
    """2,000 files of each format in the regular run, whatever reads it."""
    shares: Counter[str] = Counter()
    for parser in PARSERS:
        shares[parser.format] += int(MUTATIONS * parser.weight)
    assert len(shares) > 20
    assert {name: share for name, share in shares.items() if share < MUTATIONS} == {}


def test_json_mutations_reach_what_no_writer_writes() -> None:
    """Keys twice, NaN, texts with half a character, integers of 4,301 digits, nesting beyond any format's."""
    good = json.dumps([{"token": "a", "size": [1.0, 2.0, 3.0], "next": ""}] * 2).encode()
    mutation = json_mutation()
    missing = {b'"next": "", "next"', b"NaN", b"\\ud800", b"9" * 4301, b"[" * 65, b'"\\u0000', b"/etc/passwd"}
    for index in range(4000):
        data = mutation(good, Random(index))
        missing -= {sign for sign in missing if sign in data}
        if not missing:
            break
    assert not missing
