"""Files of work that was cut into shares: each says of what it is a part, and only parts that make up one whole merge.

A part is JSON (`base.sealed`): the share, the work (what every part of it must agree in: model, data, settings) and the
content. Equal parts are equal bytes. What the content is, its format says (`base.parsing`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from base.errors import DataError
from base.files import atomic_path
from base.messages import shown, shown_file
from base.parsing import NonEmptyStr, PositiveInt, Record, parse
from base.sealed import Sealed
from base.shares import Share

__all__ = ["PART_MARK", "Part", "read_parts", "write_part"]

T = TypeVar("T")

PART_MARK = b'"part of an? '
"""What is found in every part, of whatever it is one (`base.keeping.require_ours`)."""


class _ShareForm(Record):
    number: PositiveInt
    of: PositiveInt


class _PartForm(Record):
    format: NonEmptyStr
    version: int
    share: _ShareForm
    work: dict[NonEmptyStr, Any]
    content: Any


@dataclass(frozen=True, eq=False)
class Part(Generic[T]):
    """One part of a whole.

    Attributes:
        file: Where it lies.
        share: Which of the parts it is.
        content: What it holds.
        work: What the whole is; the same of all parts.
    """

    file: Path
    share: Share
    content: T
    work: Mapping[str, Any]


def write_part(
    path: str | os.PathLike[str], kind: str, share: Share, work: Mapping[str, Any], content: Mapping[str, Any]
) -> None:
    """Writes one part atomically; equal parts give equal bytes.

    Args:
        path: The file.
        kind: What it is a part of, such as "calibration".
        share: Which part.
        work: What all parts must agree in, as plain values; each key is named where they do not.
        content: Plain values without NaN and infinities.
    """
    value = {"share": dataclasses.asdict(share), "work": dict(work), "content": dict(content)}
    with atomic_path(path) as temporary:
        temporary.write_text(_text(_documents(kind).sealed(value)) + "\n", encoding="utf-8")


def read_parts(
    paths: Sequence[str | os.PathLike[str]], kind: str, content: type[T], expected: Mapping[str, Any] | None = None
) -> list[Part[T]]:
    """Reads the parts of one whole.

    Args:
        paths: All of them, in any order.
        kind: As given to `write_part`.
        content: Type of a part's content, as `base.parsing.parse` takes it.
        expected: What the work must be; None: what the first part says.

    Returns:
        The parts, by number.

    Raises:
        DataError: a file is missing, broken, changed, or no such part; or the parts are not those of one whole: another
            model, other data or settings (the first that differs is named, with both values), a part twice, or one
            missing.
    """
    if not paths:
        raise DataError(f"There are no parts of {_a(kind)} to merge; give the files that were written with --part.")
    parts = [_read(Path(path), kind, content) for path in paths]
    first = parts[0]
    for part in parts:
        if expected is not None:
            _require_same_work(part, expected, "this command", kind)
        _require_same_work(part, first.work, shown_file(first.file), kind)
        if part.share.of != first.share.of:
            raise DataError(
                f"{shown_file(part.file)} is part {part.share} of {_a(kind)}, but {shown_file(first.file)} is part "
                f"{first.share}: they are of two divisions of the work. Merge parts of one."
            )
    found: dict[int, Part[T]] = {}
    for part in parts:
        other = found.setdefault(part.share.number, part)
        if other is not part:
            raise DataError(
                f"{shown_file(part.file)} and {shown_file(other.file)} are both part {part.share} of {_a(kind)}. "
                "Give each once."
            )
    missing = [str(Share(number, first.share.of)) for number in range(1, first.share.of + 1) if number not in found]
    if missing:
        raise DataError(f"Of the {first.share.of} parts of {_a(kind)}, {', '.join(missing)} {_are(missing)} missing.")
    return [found[number] for number in sorted(found)]


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _documents(kind: str) -> Sealed:
    what = f"part of {_a(kind)}"
    return Sealed(what, 1, what, "Give files that were written with --part.", f"Make this part of the {kind} again.")


def _are(items: Sequence[str]) -> str:
    return "is" if len(items) == 1 else "are"


def _read(path: Path, kind: str, content: type[T]) -> Part[T]:
    documents = _documents(kind)
    remedy, parsed = documents.remedy, documents.read(path, _PartForm)
    try:
        share = Share(parsed.share.number, parsed.share.of)
    except ValueError as error:
        raise DataError(f"{shown_file(path)}: {error}. {remedy}") from None
    return Part(path, share, parse(content, parsed.content, file=path, at=("content",), remedy=remedy), parsed.work)


def _require_same_work(part: Part[Any], work: Mapping[str, Any], whose: str, kind: str) -> None:
    for key in dict.fromkeys((*work, *part.work)):
        here, there = part.work.get(key), work.get(key)
        if _text(here) != _text(there):
            raise DataError(
                f"{shown_file(part.file)} is a part of another {kind}: its {key} is {shown(here)}, that of {whose} is "
                f"{shown(there)}. Merge parts that were made with the same model, data and settings."
            )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
