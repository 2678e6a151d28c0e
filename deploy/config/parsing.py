"""From a plain dictionary to typed settings; every complaint names the key path, the value and what is allowed."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from base.errors import ConfigError
from base.messages import printable, shown
from deploy.config.settings import choices_of, is_section, limits_of, settings_of, variants

__all__ = ["nearest", "parse_settings"]

T = TypeVar("T")

_MAX_PROBLEMS = 5
# First word of pydantic's name of an error -> the type that was asked for.
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "string": "a string",
    "dict": "a table",
    "is": "a list",
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None if none is close."""
    matches = difflib.get_close_matches(name.lower()[:100], list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def parse_settings(section: type[T], raw: object, source: str) -> T:
    """The section that a dictionary describes.

    Args:
        section: A kind of `Section`.
        raw: What the file holds.
        source: File the values come from, for messages.

    Raises:
        ConfigError: unknown, missing or wrongly typed keys, or values out of range; a line for each.
    """
    try:
        return TypeAdapter(section).validate_python(raw)
    except ValidationError as failure:
        problems = _problems(raw, failure)
    lines = [f"{source}: {_sentence(section, keys, errors)}" for keys, errors in problems[:_MAX_PROBLEMS]]
    more = [f"… and {len(problems) - _MAX_PROBLEMS} more"] if len(problems) > _MAX_PROBLEMS else []
    raise ConfigError("\n".join(lines + more))


def _problems(raw: object, failure: ValidationError) -> list[tuple[tuple[Any, ...], list[Any]]]:
    """Places that are wrong, each with its errors."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for error in failure.errors(include_url=False):
        found.setdefault(_keys(raw, error), []).append(error)
    # Of a value that may be a number or a table, the table's wrong entry says more than that it is no number.
    outer = {keys[:end] for keys in found for end in range(len(keys))}
    return [(keys, errors) for keys, errors in found.items() if keys not in outer or not keys]


def _keys(value: Any, error: Any) -> tuple[Any, ...]:
    """The part of an error's location that leads through the configuration; pydantic counts types as steps too."""
    keys: list[Any] = []
    for step in error["loc"]:
        is_listed = isinstance(value, list | tuple) and step in range(len(value))
        if is_listed or (isinstance(value, Mapping) and step in value):
            value = value[step]
        elif error["type"] != "missing" or step != error["loc"][-1]:
            continue
        keys.append(step)
    return tuple(keys)


def _sentence(root: type, keys: tuple[Any, ...], errors: Sequence[Any]) -> str:
    # What is of the right type, but out of range, was meant.
    error = next((item for item in errors if not item["type"].endswith("_type")), errors[0])
    code, value = error["type"], error["input"]
    section, kind, doc = _setting_at(root, keys)
    where = _path(keys)
    low, high = limits_of(kind)
    allowed = f" Allowed: {', '.join(map(repr, choices_of(kind)))}." if choices_of(kind) else ""
    allowed += f" At least {low:g}." if low is not None else ""
    allowed += f" At most {high}." if high is not None else ""
    is_unknown = code in ("unexpected_keyword_argument", "invalid_key")
    outer = _path(keys[:-1] if is_unknown else keys)
    known = f"Known keys of '{outer or 'the top level'}': {', '.join(settings_of(section))}."
    if is_unknown:
        guess = nearest(str(keys[-1]), settings_of(section))
        suggestion = f" Did you mean '{_path((*keys[:-1], guess))}'?" if guess else ""
        return f"unknown key '{where}'.{suggestion} {known}"
    if code == "missing":
        return f"'{where}' is missing. {doc}{allowed}"
    if code.startswith("dataclass"):
        return f"'{where or 'the top level'}' must be a dictionary, got {type(value).__name__} {shown(value)}. {known}"
    if code == "literal_error":
        texts = [choice for choice in choices_of(kind) if isinstance(choice, str)]
        guess = nearest(value, texts) if isinstance(value, str) else None
        return f"'{where}' is {shown(value)}.{f' Did you mean {guess!r}?' if guess else ''}{allowed} {doc}"
    if code == "value_error":
        return f"'{where}' is {shown(value)}, but {error['msg'].split(', ', 1)[-1]}. {doc}"
    wanted = [_TYPES[word] for item in errors if (word := item["type"].split("_")[0]) in _TYPES]
    if not wanted or error is not errors[0] or not code.endswith(("_type", "_of", "from_float")):
        return f"'{where}' is {shown(value)}.{allowed} {doc}"
    wanted += ["None"] if type(None) in variants(kind) else []
    return f"'{where}' must be {' or '.join(wanted)}, got {type(value).__name__} {shown(value)}.{allowed}"


def _path(keys: Sequence[Any]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{printable(str(key), 100)}" for key in keys)
    return text.removeprefix(".")


def _setting_at(root: type, keys: Sequence[Any]) -> tuple[Any, Any, str]:
    """(innermost section, type, meaning) at a place."""
    section, kind, doc = root, root, ""
    for key in keys:
        for variant in variants(kind):
            if is_section(variant):
                section, setting = variant, settings_of(variant).get(key)
                kind, doc = (setting.kind, setting.doc) if setting else (Any, "")
            elif typing.get_origin(variant) in (tuple, dict):
                kind = next(inner for inner in reversed(typing.get_args(variant)) if inner is not ...)
    inner = next((item for item in variants(kind) if is_section(item)), section)
    return inner, kind, doc
