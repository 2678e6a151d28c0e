"""Whether a point file's bytes are the float32 records that its reader takes them for; else what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from base.checks import Finding, settle
from base.messages import shown_file
from datasets.record_layout import LIKELY_COLUMNS, MIN_WORDS, LayoutVerdict, container_of, judge_layout
from models.known_checks import KNOWN_CHECKS

__all__ = ["ColumnsAdvice", "check_bytes"]


@dataclass(frozen=True)
class ColumnsAdvice:
    """How the reader of a file is told another number of columns.

    Attributes:
        how: Of a number of columns: what to give or to write; None where that number cannot be read.
        confirm: Whether a word is said where the values cannot confirm the number that was given.
    """

    how: Callable[[int], str | None]
    confirm: bool = False


def check_bytes(data: bytes, columns: int, name: str, advice: ColumnsAdvice) -> None:
    """Reports what speaks against reading a file as so many float32 a point.

    Args:
        data: Its content.
        columns: Numbers a point that it is read with.
        name: The file, for messages.
        advice: Of its reader.

    Raises:
        DataError: its bytes are something else, and nobody accepted that.
    """
    settle(_findings(data, columns, name, advice))


def _findings(data: bytes, columns: int, name: str, advice: ColumnsAdvice) -> Iterator[Finding]:
    place = f"Point file {shown_file(name)}"
    container = container_of(data)
    if container is not None:
        what, remedy = container
        value = f"it is {what}, not float32 records"
        yield Finding(KNOWN_CHECKS["point-file-kind"], place, value, remedy=f"{remedy}.")
        return
    verdict = judge_layout(data, columns)
    size = f"{len(data)} bytes, read as {columns} float32 a point"
    if verdict.kind or (verdict.refuted and verdict.columns is None):
        share = f"{1 - verdict.sound_share:.0%} of its coordinates are values that no sensor makes"
        value = f"{size}: {share}" + (f"; it holds {verdict.kind}, {verdict.columns} a point" if verdict.kind else "")
        yield Finding(KNOWN_CHECKS["point-file-numbers"], place, value, remedy=_convert(data, verdict, name, advice))
    elif verdict.refuted and verdict.columns is not None:
        remedy = _other_columns(data, verdict.columns, advice)
        value = f"{size}, but its values look like {verdict.columns} a point"
        yield Finding(KNOWN_CHECKS["point-file-columns"], place, value, remedy=remedy)
    elif advice.confirm and not verdict.confirmed and len(data) >= 4 * MIN_WORDS:
        others = [n for n in LIKELY_COLUMNS if n != columns and len(data) % (4 * n) == 0]
        if others and len(data) % (4 * columns) == 0:
            yield Finding(
                KNOWN_CHECKS["point-file-columns-unclear"],
                place,
                f"{size}; its size would fit {' or '.join(map(str, others))} too, and its values cannot tell",
                remedy="Look at the picture: are there a ground and objects?",
            )


def _convert(data: bytes, verdict: LayoutVerdict, name: str, advice: ColumnsAdvice) -> str:
    if not verdict.kind or verdict.columns is None:
        return "It is damaged, or holds no float32 numbers. Make it again: array.astype('<f4').tofile('scan.bin')."
    how = f"Save it as float32: np.fromfile({shown_file(name)}, '{verdict.dtype}').astype('<f4').tofile('new.bin')"
    if verdict.dtype in ("<i4", "<i2"):
        return f"{how}, x, y, z in metres (whole numbers are often millimetres or centimetres)."
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.frombuffer(data, verdict.dtype).astype("<f4").tobytes()
    step = advice.how(verdict.columns)
    # What is advised is tried first.
    if step is None or judge_layout(converted, verdict.columns).refuted:
        return f"{how}."
    return f"{how}, and read that: {step}."


def _other_columns(data: bytes, columns: int, advice: ColumnsAdvice) -> str:
    rest = len(data) % (4 * columns)
    if rest:
        return f"The file ends with {rest} bytes of a point of {columns}: it was cut off. Copy it again."
    step = advice.how(columns)
    if step is None or judge_layout(data, columns).refuted:
        return f"Points of {columns} numbers cannot be read: x, y, z and what else the model takes are needed."
    return f"{step[0].upper()}{step[1:]}."
