"""JSON and YAML files of anybody: bounded in size and depth, no key twice, typed by `base.parsing`."""

from __future__ import annotations

import json
import os
import re
from typing import Any, TypeVar, overload

import numpy as np

from base.collector import without_collections
from base.errors import DataError, UserError
from base.messages import printable, shown, shown_file
from base.reading import read_bounded

__all__ = ["MAX_DEPTH", "parse_json", "parse_yaml", "read_json", "read_yaml"]

T = TypeVar("T")

MAX_DEPTH = 64
"""Lists and dictionaries inside each other; no format of ours has more than ten."""
_MAX_JSON_BYTES = 1 << 28
_MAX_YAML_BYTES = 1 << 20
_BLOCK = 1 << 20
_NOT_STRUCTURE = bytes(code for code in range(256) if chr(code) not in '"[]{}')


@overload
def read_json(
    path: str | os.PathLike[str],
    kind: type[T],
    *,
    limit: int = ...,
    allow_nan: bool = ...,
    error: type[UserError] = ...,
    remedy: str = ...,
) -> T: ...
@overload
def read_json(
    path: str | os.PathLike[str],
    kind: Any = ...,
    *,
    limit: int = ...,
    allow_nan: bool = ...,
    error: type[UserError] = ...,
    remedy: str = ...,
) -> Any: ...
def read_json(
    path: str | os.PathLike[str],
    kind: Any = Any,
    *,
    limit: int = _MAX_JSON_BYTES,
    allow_nan: bool = False,
    error: type[UserError] = DataError,
    remedy: str = "",
) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        kind: What it holds, as `base.parsing.parse` takes it; any value by default.
        limit: Most bytes of it.
        allow_nan: Take the words NaN and Infinity, which JSON lacks and Python's writer writes.
        error: Kind of the error raised.
        remedy: Sentence added to messages: what to do.

    Raises:
        UserError: of the kind `error`: the file is missing, no regular file, too large, no JSON (the message gives line
            and column), nested deeper than 64, holds a key twice, or does not fit `kind`.
    """
    data = read_bounded(path, limit, "JSON file", error=error, remedy=remedy)
    return parse_json(data, kind, file=path, allow_nan=allow_nan, error=error, remedy=remedy)


def parse_json(
    data: bytes | str,
    kind: Any = Any,
    *,
    file: str | os.PathLike[str],
    allow_nan: bool = False,
    error: type[UserError] = DataError,
    remedy: str = "",
) -> Any:
    """`read_json` for what was read already; `file` is its name in messages."""

    def refuse(reason: str) -> UserError:
        return error(f"{shown_file(file)} is not valid JSON: {reason}." + (f" {remedy}" if remedy else ""))

    try:
        raw = data.encode() if isinstance(data, str) else data
        text = raw.decode("utf-8-sig")
    except UnicodeError as failure:
        raise refuse(f"it is no UTF-8 text ({printable(str(failure))})") from None
    depth = _json_depth(raw)
    if depth > MAX_DEPTH:
        raise refuse(f"lists and dictionaries are nested {depth} deep; {MAX_DEPTH} is the most that is read")
    try:
        with without_collections():  # plain values have no circles
            constant = None if allow_nan else _refuse_constant
            value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=constant)
        if b"\\ud" in raw or b"\\uD" in raw:  # half a character, which no output can take
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as failure:
        raise refuse(f"{failure.msg}: line {failure.lineno} column {failure.colno}") from None
    except UnicodeEncodeError:
        raise refuse("a text in it holds half a surrogate pair") from None
    except ValueError as failure:  # ours, and Python's of integers over 4,300 digits
        raise refuse(printable(str(failure))) from None
    return _typed(kind, value, file, error, remedy)


@overload
def read_yaml(
    path: str | os.PathLike[str],
    kind: type[T],
    *,
    limit: int = ...,
    error: type[UserError] = ...,
    remedy: str = ...,
) -> T: ...
@overload
def read_yaml(
    path: str | os.PathLike[str],
    kind: Any = ...,
    *,
    limit: int = ...,
    error: type[UserError] = ...,
    remedy: str = ...,
) -> Any: ...
def read_yaml(
    path: str | os.PathLike[str],
    kind: Any = Any,
    *,
    limit: int = _MAX_YAML_BYTES,
    error: type[UserError] = DataError,
    remedy: str = "",
) -> Any:
    """Reads a YAML file: plain values only. Dates stay text; anchors, aliases, tags and merge keys are refused.

    Args:
        path: The file.
        kind: What it holds, as `base.parsing.parse` takes it; any value by default.
        limit: Most bytes of it.
        error: Kind of the error raised.
        remedy: Sentence added to messages: what to do.

    Raises:
        UserError: of the kind `error`: the file is missing, no regular file, too large, no YAML (the message gives line
            and column), nested deeper than 64, holds a key twice, or does not fit `kind`.
    """
    data = read_bounded(path, limit, "YAML file", error=error, remedy=remedy)
    return parse_yaml(data, kind, file=path, error=error, remedy=remedy)


def parse_yaml(
    data: bytes | str,
    kind: Any = Any,
    *,
    file: str | os.PathLike[str],
    error: type[UserError] = DataError,
    remedy: str = "",
) -> Any:
    """`read_yaml` for what was read already; `file` is its name in messages."""
    from base.yaml_values import YamlError, yaml_value

    try:
        value = yaml_value(data.decode("utf-8-sig") if isinstance(data, bytes) else data, MAX_DEPTH)
    except UnicodeDecodeError as failure:
        raise error(f"{shown_file(file)} is no UTF-8 text ({failure}). {remedy}".rstrip()) from None
    except YamlError as failure:
        raise error(f"{shown_file(file)} is not valid YAML: {failure}. {remedy}".rstrip()) from None
    return _typed(kind, value, file, error, remedy)


def _typed(kind: Any, value: Any, file: str | os.PathLike[str], error: type[UserError], remedy: str) -> Any:
    if kind is Any:
        return value
    from base.parsing import parse

    with without_collections():  # plain values have no circles
        return parse(kind, value, file=file, error=error, remedy=remedy)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shown(twice)} stands twice in one dictionary")
    return out


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _json_depth(data: bytes) -> int:
    """Deepest nesting of brackets outside texts: before Python's own reader recurses over them.

    On text that is no JSON it is right up to the first fault, where the reader stops.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return 0
    if b"\\" in data:
        data = re.sub(rb"\\.", b"", data, flags=re.DOTALL)
    codes = np.frombuffer(data.translate(None, _NOT_STRUCTURE), np.uint8)
    depth = deepest = quotes = 0
    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK]
        seen = np.cumsum(block == ord('"'), dtype=np.int32) + quotes
        folded = block | 0x20  # [ and {, ] and } differ in this bit
        steps = (folded == ord("{")).astype(np.int8) - (folded == ord("}")).astype(np.int8)
        steps[seen % 2 == 1] = 0
        levels = np.cumsum(steps, dtype=np.int32) + depth
        depth, quotes = int(levels[-1]), int(seen[-1]) % 2
        deepest = max(deepest, int(levels.max()))
    return deepest
