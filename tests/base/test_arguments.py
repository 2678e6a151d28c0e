"""Numbers of a command line: within limits or exit code 2."""

from __future__ import annotations

import argparse

import pytest

from base.arguments import FRAMES, SEED, THREADS, number, whole_number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "0 must be 1 to 100"),
        ("-5", "-5 must be 1 to 100"),
        ("1000000000000", "1000000000000 must be 1 to 100"),
        ("1" + "0" * 4000, "an integer of 13288 bits must be 1 to 100"),
        ("1" + "0" * 5000, "is no whole number"),
        ("2.0", "'2.0' is no whole number"),
        ("\x1b[31m", r"'\x1b[31m' is no whole number"),
        ("", "'' is no whole number"),
    ],
)
def test_whole_numbers_out_of_range(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=whole_number(1, 100))
    with pytest.raises(SystemExit, match=r"^2$"):
        parser.parse_args([f"--frames={text}"])
    assert f"argument --frames: {message}" in (error := capsys.readouterr().err) or message in error


@pytest.mark.parametrize("text", ["nan", "inf", "-1e-9", "1.0001", "1e999", "x", "--", "1,5"])
def test_numbers_out_of_range(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        number(0.0, 1.0)(text)


def test_numbers_in_range() -> None:
    assert [whole_number(-2, 100)(text) for text in ("-2", " 7 ", "100")] == [-2, 7, 100]
    assert [number(0, 1)(text) for text in ("0", "1e-3", "1")] == [0.0, 1e-3, 1.0]


def test_kinds_that_commands_share() -> None:
    assert [FRAMES("-1"), SEED(str(2**32 - 1)), THREADS("1024")] == [-1, 2**32 - 1, 1024]
    for kind, text in ((FRAMES, "-2"), (SEED, "-1"), (SEED, str(2**32)), (THREADS, "0"), (THREADS, "1025")):
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)
