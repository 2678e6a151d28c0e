"""Frozen dataclasses to JSON and back, and the JSON schema that their annotations imply."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from base.errors import DataError
from base.messages import shown

__all__ = ["from_json", "json_schema", "to_json"]

T = TypeVar("T")
Names: TypeAlias = tuple[tuple[str, type], ...]
# The document, or a place and what leads on from there: ("results.json", ".", "backends").
Place: TypeAlias = "str | tuple[Place, str, str | int]"
Decoder: TypeAlias = Callable[[Any, Place], Any]

_MAX_INTEGER = 2**63 - 1

_NONE: Mapping[str, type] = MappingProxyType({})


def to_json(value: Any) -> Any:
    """Plain JSON values: NaN is null, infinities are the strings "inf" and "-inf", tuples lists; numpy is converted."""
    if isinstance(value, np.generic):
        return to_json(value.item())
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
    hashable: Any = kind
    result: T = _decoder(hashable, tuple(names.items()))(value, where or kind.__name__)
    return result


def _optional(kind: Any) -> Any:
    """X of `X | None`, else None."""
    if get_origin(kind) in (Union, types.UnionType):
        rest = [item for item in get_args(kind) if item is not type(None)]
        if len(rest) == 1 and len(get_args(kind)) == 2:
            return rest[0]
        raise TypeError(f"only X | None is supported, not {kind}")
    return None


@lru_cache(maxsize=1024)
def _decoder(kind: Any, names: Names) -> Decoder:
    """What decodes a value of a type: the type is looked at once, and not again for each of a file's values."""
    if kind is Any:
        return lambda value, where: value
    inner = _optional(kind)
    if inner is not None:
        decode = _decoder(inner, names)
        return lambda value, where: None if value is None else decode(value, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(kind, names)
    origin = get_origin(kind)
    if origin is tuple:
        return _tuple_decoder(_decoder(get_args(kind)[0], names))
    if origin is dict:
        return _dict_decoder(_decoder(get_args(kind)[1], names))
    if origin is typing.Literal:
        return _literal_decoder(get_args(kind))
    return _decode_float if kind is float else _plain_decoder(kind)


def _dataclass_decoder(kind: Any, names: Names) -> Decoder:
    decoders: dict[str, Decoder] = {}

    def decode(value: Any, where: Place) -> Any:
        if not decoders:  # at the first value, since a type may hold itself
            hints = get_type_hints(kind, localns=dict(names))
            decoders.update((field.name, _decoder(hints[field.name], names)) for field in dataclasses.fields(kind))
        _expect(dict, value, where)
        if value.keys() != decoders.keys():
            unknown, missing = sorted(value.keys() - decoders.keys()), sorted(decoders.keys() - value.keys())
            raise DataError(f"{_text(where)} has unknown keys {unknown} and lacks {missing}; another version wrote it")
        fields = {name: decoder(value[name], (where, ".", name)) for name, decoder in decoders.items()}
        try:
            return kind(**fields)
        except ValueError as error:  # what the class itself refuses
            raise DataError(f"{_text(where)}: {error}") from error

    return decode


def _tuple_decoder(element: Decoder) -> Decoder:
    def decode(value: Any, where: Place) -> Any:
        _expect(list, value, where)
        return tuple(element(item, (where, "[", index)) for index, item in enumerate(value))

    return decode


def _dict_decoder(element: Decoder) -> Decoder:
    def decode(value: Any, where: Place) -> Any:
        _expect(dict, value, where)
        return {key: element(item, (where, ".", key)) for key, item in value.items()}

    return decode


def _literal_decoder(choices: tuple[Any, ...]) -> Decoder:
    def decode(value: Any, where: Place) -> Any:
        if value not in choices:
            raise DataError(f"{_text(where)} is {shown(value)}; it must be one of {list(choices)}")
        return value

    return decode


def _plain_decoder(kind: Any) -> Decoder:
    def decode(value: Any, where: Place) -> Any:
        _expect(kind, value, where)
        return value

    return decode


def _decode_float(value: Any, where: Place) -> float:
    if value is None:
        return math.nan
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, float) or (_is_integer(value) and abs(value) <= _MAX_INTEGER):
        return float(value)
    raise DataError(f"{_text(where)} is {shown(value)}; it must be a number")


def _text(where: Place) -> str:
    """`results.json.backends[0].name` of a place, which is put together where it is told alone."""
    if isinstance(where, str):
        return where
    outer, mark, key = where
    return f"{_text(outer)}{mark}{key}{']' if mark == '[' else ''}"


def _expect(kind: type, value: Any, where: Place) -> None:
    if not isinstance(value, kind) or (kind is int and not _is_integer(value)):
        raise DataError(f"{_text(where)} is {type(value).__name__} {shown(value)}; it must be {kind.__name__}")
    if kind is int and isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise DataError(f"{_text(where)} is {shown(value)}; no count is that large")


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
