"""From a plain dictionary to typed settings; every complaint names the key path, the value and what is allowed."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

from base.errors import ConfigError
from deploy.config.settings import Setting, settings_of

__all__ = ["nearest", "parse_section"]

T = TypeVar("T")


def nearest(name: str, known: typing.Iterable[str]) -> str | None:
    """The known name most like `name`, or None if none is close."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def parse_section(section: type[T], raw: Any, path: str, source: str) -> T:
    """Builds the frozen dataclass `section` from a dictionary.

    Args:
        section: A dataclass whose fields are made by `setting`.
        raw: What the file holds under `path`.
        path: Key path for messages, e.g. `evaluation.backends`; empty at the top.
        source: File the values come from, for messages.

    Raises:
        ConfigError: an unknown, missing or wrongly typed key, or a value out of range.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{source}: '{path}' must be a dictionary, got {type(raw).__name__} {raw!r}. {_keys(section, path)}"
        )
    known = settings_of(section)
    for key in raw:
        if key not in known:
            raise ConfigError(_unknown_key(section, str(key), path, source))
    hints = typing.get_type_hints(section)
    values: dict[str, Any] = {}
    for key, (rule, default) in known.items():
        where = f"{path}.{key}" if path else key
        if key in raw:
            values[key] = _parse_value(hints[key], raw[key], rule, where, source)
        elif default is ...:
            raise ConfigError(f"{source}: '{where}' is missing. {rule.doc}{_allowed(rule)}")
    return section(**values)


def _keys(section: type, path: str) -> str:
    return f"Known keys of '{path or 'the top level'}': {', '.join(settings_of(section))}."


def _unknown_key(section: type, key: str, path: str, source: str) -> str:
    where = f"{path}.{key}" if path else key
    guess = nearest(key, settings_of(section))
    suggestion = f" Did you mean '{path + '.' if path else ''}{guess}'?" if guess else ""
    return f"{source}: unknown key '{where}'.{suggestion} {_keys(section, path)}"


def _allowed(rule: Setting) -> str:
    text = ""
    if rule.choices:
        text += f" Allowed: {', '.join(repr(choice) for choice in rule.choices)}."
    if rule.minimum is not None:
        text += f" At least {rule.minimum:g}."
    return text


def _type_name(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(option) for option in typing.get_args(kind))
    if origin is tuple:
        return f"a list of {_type_name(typing.get_args(kind)[0])}"
    if origin is dict:
        return f"a table of {_type_name(typing.get_args(kind)[1])}"
    if is_dataclass(kind):
        return "a dictionary"
    names = {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "a string",
        types.NoneType: "None",
    }
    return names.get(kind, str(kind))


def _parse_value(kind: Any, value: Any, rule: Setting, where: str, source: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        for option in typing.get_args(kind):
            if _matches(option, value):
                return _parse_value(option, value, rule, where, source)
        raise _wrong_type(kind, value, rule, where, source)
    if not _matches(kind, value):
        raise _wrong_type(kind, value, rule, where, source)
    if is_dataclass(kind):
        return parse_section(typing.cast(type, kind), value, where, source)
    if origin is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_parse_value(item, entry, rule, f"{where}[{i}]", source) for i, entry in enumerate(value))
    if origin is dict:
        item = typing.get_args(kind)[1]
        return {str(key): _parse_value(item, entry, rule, f"{where}.{key}", source) for key, entry in value.items()}
    if kind is types.NoneType:
        return None
    if rule.choices and value not in rule.choices:
        guess = nearest(value, rule.choices) if isinstance(value, str) else None
        suggestion = f" Did you mean {guess!r}?" if guess else ""
        reason = f" Reason: {rule.hints[value]}." if value in rule.hints else ""
        raise ConfigError(f"{source}: '{where}' is {value!r}.{suggestion}{_allowed(rule)}{reason}")
    # Negated, so that NaN, which compares false with everything, is refused too.
    if rule.minimum is not None and isinstance(value, int | float) and not value >= rule.minimum:
        raise ConfigError(f"{source}: '{where}' is {value!r}.{_allowed(rule)}")
    return float(value) if kind is float else value


def _matches(kind: Any, value: Any) -> bool:
    origin = typing.get_origin(kind)
    if kind is types.NoneType:
        return value is None
    if is_dataclass(kind) or origin is dict:
        return isinstance(value, Mapping)
    if origin is tuple:
        return isinstance(value, list | tuple)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _wrong_type(kind: Any, value: Any, rule: Setting, where: str, source: str) -> ConfigError:
    return ConfigError(
        f"{source}: '{where}' must be {_type_name(kind)}, got {type(value).__name__} {value!r}.{_allowed(rule)}"
    )
