"""JSON and JSON Lines read piece by piece, in memory that does not grow with the file."""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from base.errors import DataError
from base.messages import shown, shown_file
from base.reading import open_regular

__all__ = ["JsonDocument", "JsonLines", "open_text"]

_BLOCK = 1 << 20
_MAX_VALUE = 32 << 20  # characters of one frame, or of one other value
_MAX_EMPTY_LINES = 100_000
# Frames compress ten to one. What unpacks to more than this, and to more than so many times itself, is a bomb.
_MAX_UNPACKED = 8 << 20
_MAX_RATIO = 100
# Each takes microseconds, also an empty one. Block-wise writers make one of 64 KB.
_MAX_MEMBERS = 100_000
_PACKED_BLOCK = 1 << 13
_LONG_INTEGER = "an integer has more than 4,300 digits, which Python does not read"
_HALF = "a text in it holds half a surrogate pair, which no output can take"
_AFTER_VALUE = " \t\r\n,:]}"
_UNFINISHED_NUMBER = re.compile(r"-|\.|[eE][+-]?")
_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


def open_text(path: Path) -> TextIO:
    """Opens a text file, gzip-compressed if its name ends in .gz; a byte order mark is passed over.

    Raises:
        DataError: it does not exist or is no regular file.
    """
    if os.path.isdir(path):
        raise DataError(f"{shown_file(path)} cannot be read: Is a directory")
    binary = open_regular(path, "frames file")
    if path.suffix == ".gz":
        binary = cast("BinaryIO", io.BufferedReader(_Unpacked(binary, path), _BLOCK))
    return io.TextIOWrapper(binary, encoding="utf-8-sig")


class _Unpacked(io.RawIOBase):
    """The content of a gzip file, which ends in an error where it is out of all proportion to the file."""

    def __init__(self, packed: BinaryIO, path: Path) -> None:
        self._path, self._packed = path, packed
        self._member: Any = None  # what zlib gives for one of the streams that follow each other in the file
        self._waiting = b""
        self._count = self._members = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            if not self._waiting:
                self._waiting = self._packed.read(_PACKED_BLOCK)
            ended = not self._waiting
            if self._member is None:
                if self._members:  # tapes pad with zeros
                    self._waiting = self._waiting.lstrip(b"\0")
                if ended:
                    return 0
                if self._waiting:
                    self._begin()
                continue
            data = self._member.decompress(self._waiting, len(buffer))
            self._waiting = self._member.unconsumed_tail
            if self._member.eof:
                self._waiting, self._member = self._member.unused_data, None
            elif ended and not data:
                raise EOFError("it ends within its compressed content")
        self._count += len(data)
        if self._count > max(_MAX_UNPACKED, _MAX_RATIO * self._packed.tell()):
            raise DataError(
                f"{shown_file(self._path)} unpacks to more than {_MAX_RATIO} times its size, over "
                f"{self._count >> 20} MB; unpack it first if it is right"
            )
        buffer[: len(data)] = data
        return len(data)

    def _begin(self) -> None:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise DataError(f"{shown_file(self._path)} is made of over {_MAX_MEMBERS} gzip files; pack it anew as one")
        self._member = zlib.decompressobj(wbits=31)  # with gzip's header and checksum

    def close(self) -> None:
        self._packed.close()
        super().close()


# What a stream raises, in the end of all ways to be damaged.
_DAMAGE = (UnicodeDecodeError, EOFError, zlib.error, OSError)


def _damaged(path: Path, error: Exception) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return DataError(f"{shown_file(path)} is not UTF-8 text: {error}")
    if isinstance(error, OSError):
        return DataError(f"{shown_file(path)} cannot be read: {error.strerror or error}")
    return DataError(f"{shown_file(path)} is not UTF-8 text compressed with gzip, or was cut off: {error}")


class JsonDocument:
    """One JSON object whose members are read in order, the items of a list one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = open_text(path)
        self._text = ""
        self._at = 0
        self._line = 1
        self._column = 1
        self._ended = False
        self._keys: list[str] = []

    def members(self, stream_key: str) -> Iterator[tuple[str, Any]]:
        """(key, value) of each member; of `stream_key`, whose value must be a list, (key, item) of each item.

        Raises:
            DataError: the file is not one JSON object, or is cut off; the message gives the line.
        """
        with self._stream:
            if not self._peek():
                raise DataError(f"'{self.path}' is empty")
            self._expect("{", "the file must hold one JSON object")
            if self._peek() != "}":
                while True:
                    self._peek()
                    key = self._value("a key")
                    if not isinstance(key, str):
                        raise self._error(f"{shown(key)} stands where a key in quotes must come")
                    self._expect(":", f"after the key {shown(key)}")
                    self._keys.append(key)
                    if key == stream_key:
                        yield from ((key, item) for item in self._items(key))
                    else:
                        self._peek()
                        yield key, self._value(f"the value of {shown(key)}")
                    if self._peek() != ",":
                        break
                    self._advance(1)
            self._expect("}", "at the end of the object")
            rest = self._peek()
            if rest:
                raise self._error(f"{rest!r} follows the end of the object; a file of one value a line is named .jsonl")

    def _items(self, key: str) -> Iterator[Any]:
        self._expect("[", f"'{key}' must be a list")
        if self._peek() == "]":
            self._advance(1)
            return
        number = 0
        while True:
            self._peek()
            yield self._value(f"{key}[{number}]")
            number += 1
            if self._peek() != ",":
                break
            self._advance(1)
        self._expect("]", f"after {key}[{number - 1}]")

    def _more(self) -> bool:
        """Reads on; False at the end of the file."""
        if self._ended:
            return False
        # Twice as much as is waiting, so that a long value is not scanned many times.
        try:
            block = self._stream.read(max(_BLOCK, len(self._text) - self._at))
        except _DAMAGE as error:
            raise _damaged(self.path, error) from error
        self._ended = not block
        self._text = self._text[self._at :] + block
        self._at = 0
        return bool(block)

    def _advance(self, count: int) -> None:
        lines = self._text.count("\n", self._at, self._at + count)
        end = self._at + count
        self._line += lines
        self._column = end - self._text.rfind("\n", self._at, end) if lines else self._column + count
        self._at = end

    def _peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._advance((match.end() if match else self._at) - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, character: str, context: str) -> None:
        found = self._peek()
        if found != character:
            what = f"{found!r} stands" if found else "the file ends"
            raise self._error(f"{what} where '{character}' must come: {context}", ended=not found)
        self._advance(1)

    def _value(self, what: str) -> Any:
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # An error well before the end of what was read is no matter of reading on.
                cut = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if not cut:
                    self._advance(error.pos - self._at)
                    raise self._error(f"{what}: {error.msg}") from error
            except RecursionError as error:
                raise self._error(f"{what} is nested too deeply") from error
            except ValueError as error:
                raise self._error(f"{what}: {_LONG_INTEGER}") from error
            else:
                self._refuse_halves(value, end, what)
                # A number at the end of the block may go on in the next: "1" of "1.5", even "1." of it.
                if self._ended or (end < len(self._text) and self._text[end] in _AFTER_VALUE):
                    self._advance(end - self._at)
                    return value
            if len(self._text) - self._at > _MAX_VALUE:
                raise self._error(f"{what} is longer than {_MAX_VALUE >> 20} MB; is a bracket missing?")
            if not self._more():
                self._must_be_whole(what)

    def _refuse_halves(self, value: Any, end: int, what: str) -> None:
        if _has_halves(value, self._text[self._at : end]):
            raise self._error(f"{what}: {_HALF}")

    def _must_be_whole(self, what: str) -> None:
        """At the end of the file."""
        try:
            _decode(self._text, self._at)
        except json.JSONDecodeError as error:
            if _is_cut(error, self._text):
                raise self._error(f"{what} is not complete", ended=True) from error
            self._advance(error.pos - self._at)
            raise self._error(f"{what}: {error.msg}") from error

    @property
    def keys(self) -> tuple[str, ...]:
        """The members read so far."""
        return tuple(self._keys)

    def _error(self, text: str, *, ended: bool = False) -> DataError:
        advice = "; the file is truncated: write or copy it again" if ended else ""
        return DataError(f"'{self.path}' line {self._line} column {self._column} is not valid JSON: {text}{advice}")


def _has_halves(value: Any, text: str) -> bool:
    """Whether half a surrogate pair is in a value that was read from a text."""
    if "\\ud" not in text and "\\uD" not in text:
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_cut(error: json.JSONDecodeError, text: str) -> bool:
    """Whether more text could have made the value whole."""
    rest = text[error.pos :].strip()
    return (
        error.msg.startswith(("Unterminated string", "Invalid \\uXXXX escape"))
        or bool(_UNFINISHED_NUMBER.fullmatch(rest))
        or any(word.startswith(rest) for word in ("true", "false", "null", "NaN", "Infinity", "-Infinity"))
    )


class JsonLines:
    """One JSON value a line; empty lines are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def values(self) -> Iterator[tuple[int, Any]]:
        """(line number, value).

        Raises:
            DataError: a line is no JSON value, or too long to be one frame.
        """
        with open_text(self.path) as stream:
            number = empty = 0
            while line := self._line(stream, number + 1):
                number += 1
                if not line.strip():
                    empty += 1
                    if empty > _MAX_EMPTY_LINES:
                        raise DataError(f"'{self.path}' line {number}: over {_MAX_EMPTY_LINES} lines are empty")
                    continue
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    cut = not line.endswith("\n") and _is_cut(error, line)
                    raise DataError(
                        f"'{self.path}' line {number} is not valid JSON: {error.msg.removesuffix(' at')} at column "
                        f"{error.colno}" + ("; the file is truncated: write or copy it again" if cut else "")
                    ) from error
                except RecursionError as error:
                    raise DataError(f"'{self.path}' line {number} is nested too deeply") from error
                except ValueError as error:
                    raise DataError(f"'{self.path}' line {number}: {_LONG_INTEGER}") from error
                if _has_halves(value, line):
                    raise DataError(f"'{self.path}' line {number}: {_HALF}")
                yield number, value

    def _line(self, stream: TextIO, number: int) -> str:
        try:
            line = stream.readline(_MAX_VALUE)
        except _DAMAGE as error:
            raise _damaged(self.path, error) from error
        if len(line) == _MAX_VALUE and not line.endswith("\n"):
            raise DataError(
                f"'{self.path}' line {number} is longer than {_MAX_VALUE >> 20} MB; JSON Lines hold one frame a line. "
                "If the file is one JSON object, name it .json"
            )
        return line
