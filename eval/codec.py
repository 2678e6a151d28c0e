"""Frozen dataclasses to JSON and back, and the JSON schema that their annotations imply."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

from base.errors import DataError
from base.messages import shown

__all__ = ["from_json", "json_schema", "to_json"]

T = TypeVar("T")

_MAX_INTEGER = 2**63 - 1

_NONE: Mapping[str, type] = MappingProxyType({})


def to_json(value: Any) -> Any:
    """Plain JSON values: NaN becomes null, infinities the strings "inf" and "-inf", tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def from_json(kind: type[T], value: Any, where: str = "", names: Mapping[str, type] = _NONE) -> T:
    """The dataclass that `to_json` was given.

    Args:
        kind: Its type.
        value: Parsed JSON.
        where: Name of the document, for messages.
        names: Types that annotations name and their module imports for type checkers alone.

    Raises:
        DataError: a field is missing, unknown or of another type; the message gives its path.
    """
    result: T = _decode(kind, value, where or kind.__name__, names)
    return result


def _optional(kind: Any) -> Any:
    """X of `X | None`, else None."""
    if get_origin(kind) in (Union, types.UnionType):
        rest = [item for item in get_args(kind) if item is not type(None)]
        if len(rest) == 1 and len(get_args(kind)) == 2:
            return rest[0]
        raise TypeError(f"only X | None is supported, not {kind}")
    return None


def _decode(kind: Any, value: Any, where: str, names: Mapping[str, type]) -> Any:
    if kind is Any:
        return value
    inner = _optional(kind)
    if inner is not None:
        return None if value is None else _decode(inner, value, where, names)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where, names)
    origin = get_origin(kind)
    if origin is tuple:
        _expect(list, value, where)
        element = get_args(kind)[0]
        return tuple(_decode(element, item, f"{where}[{index}]", names) for index, item in enumerate(value))
    if origin is dict:
        _expect(dict, value, where)
        element = get_args(kind)[1]
        return {key: _decode(element, item, f"{where}.{key}", names) for key, item in value.items()}
    if origin is typing.Literal:
        if value not in get_args(kind):
            raise DataError(f"{where} is {shown(value)}; it must be one of {list(get_args(kind))}")
        return value
    if kind is float:
        if value is None:
            return math.nan
        if value in ("inf", "-inf"):
            return float(value)
        if isinstance(value, float) or (_is_integer(value) and abs(value) <= _MAX_INTEGER):
            return float(value)
        raise DataError(f"{where} is {shown(value)}; it must be a number")
    _expect(kind, value, where)
    return value


def _decode_dataclass(kind: Any, value: Any, where: str, known: Mapping[str, type]) -> Any:
    _expect(dict, value, where)
    hints = _hints(kind, tuple(known.items()))
    names = [field.name for field in dataclasses.fields(kind)]
    unknown, missing = sorted(set(value) - set(names)), sorted(set(names) - set(value))
    if unknown or missing:
        raise DataError(f"{where} has unknown keys {unknown} and lacks {missing}; another version wrote it")
    fields = {name: _decode(hints[name], value[name], f"{where}.{name}", known) for name in names}
    try:
        return kind(**fields)
    except ValueError as error:  # what the class itself refuses
        raise DataError(f"{where}: {error}") from error


@lru_cache(maxsize=256)
def _hints(kind: Any, known: tuple[tuple[str, type], ...]) -> dict[str, Any]:
    return get_type_hints(kind, localns=dict(known))


def _expect(kind: type, value: Any, where: str) -> None:
    if not isinstance(value, kind) or (kind is int and not _is_integer(value)):
        raise DataError(f"{where} is {type(value).__name__} {shown(value)}; it must be {kind.__name__}")
    if kind is int and isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise DataError(f"{where} is {shown(value)}; no count is that large")


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def json_schema(kind: type, title: str, names: Mapping[str, type] = _NONE) -> dict[str, Any]:
    """JSON schema (2020-12) of what `to_json` writes for a dataclass; field descriptions come from the docstrings.

    `names` as in `from_json`.
    """
    definitions: dict[str, Any] = {}
    root = _schema(kind, definitions, names)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **root,
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }


def _schema(kind: Any, definitions: dict[str, Any], names: Mapping[str, type]) -> dict[str, Any]:
    simple: dict[Any, dict[str, Any]] = {
        Any: {},
        str: {"type": "string"},
        int: {"type": "integer"},
        bool: {"type": "boolean"},
        float: {"anyOf": [{"type": ["number", "null"]}, {"enum": ["inf", "-inf"]}]},
    }
    if kind in simple:
        return simple[kind]
    inner = _optional(kind)
    if inner is not None:
        return {"anyOf": [_schema(inner, definitions, names), {"type": "null"}]}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            hints = get_type_hints(kind, localns=dict(names))
            described = _descriptions(kind)
            properties = {}
            for field in dataclasses.fields(kind):
                entry = dict(_schema(hints[field.name], definitions, names))
                if field.name in described:
                    entry["description"] = described[field.name]
                properties[field.name] = entry
            definitions[kind.__name__] = {
                "type": "object",
                "description": (kind.__doc__ or "").strip().split("\n")[0],
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin = get_origin(kind)
    if origin is tuple:
        return {"type": "array", "items": _schema(get_args(kind)[0], definitions, names)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(get_args(kind)[1], definitions, names)}
    if origin is typing.Literal:
        return {"enum": list(get_args(kind))}
    raise TypeError(f"no JSON schema for {kind}")


def _descriptions(kind: type) -> dict[str, str]:
    """Field -> its text under 'Attributes:' in the docstring."""
    found: dict[str, str] = {}
    name = ""
    _, _, attributes = (kind.__doc__ or "").partition("Attributes:")
    for line in attributes.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text and indent <= 8:
            name, _, text = text.partition(": ")
            found[name] = text
        elif text and name:
            found[name] += " " + text
    return found
