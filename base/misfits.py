"""What is wrong with a value, in words: pydantic's errors as phrases with place, value and what it must be."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from base.messages import shown, shown_place

__all__ = ["phrases"]

_PHRASED = 50


def phrases(kind: Any, value: object, failure: ValidationError, at: Sequence[str | int] = ()) -> list[str]:
    """One phrase a place, in the order of the document; the alternatives of a union are joined by 'or'.

    Of thousands only the first 50 have words.
    """
    musts: dict[tuple[Any, ...], list[str]] = {}
    out: dict[tuple[Any, ...], str] = {}
    errors = failure.errors(include_url=False)
    for found in errors[:_PHRASED]:
        keys, parent = _keys_inside(value, found["loc"], found["type"])
        code, place = found["type"], shown_place((*at, *keys)) or "it"
        if code == "missing":
            *above, key = keys
            owner = shown_place((*at, *above)) or "it"
            if isinstance(parent, Sequence):  # told once, for the last of the values that are lacking
                out[(*above, "values")] = f"{owner} has {len(parent)} values, but must have {key + 1}"
            else:
                out[keys] = f"{owner} lacks '{key}'"
        elif code == "extra_forbidden":
            out[keys] = f"{place} is no known key{_suggestion(kind, found['loc'])}"
        elif found["loc"][-1:] == ("[key]",):
            owner = shown_place((*at, *keys[:-1])) or "it"
            out[(*keys, "[key]")] = f"key {shown(found['input'])} of {owner} must be {_must(found)}"
        elif code in ("value_error", "assertion_error"):
            reason = found["msg"].split(", ", 1)[-1]
            whole = isinstance(found["input"], Mapping | BaseModel)
            out[keys] = f"{place}: {reason}" if whole else f"{place} is {shown(found['input'])}, but {reason}"
        else:
            musts.setdefault(keys, []).append(_must(found))
            nothing = ["null"] if type(None) in _kinds_at(kind, found["loc"]) else []
            alternatives = " or ".join(dict.fromkeys(musts[keys] + nothing))
            out[keys] = f"{place} is {shown(found['input'])}, but must be {alternatives}"
    # What is not put into words is counted; no message shows as many.
    return [*out.values(), *("" for _ in errors[_PHRASED:])]


def _keys_inside(value: Any, loc: Sequence[Any], code: str) -> tuple[tuple[Any, ...], Any]:
    """The part of an error's location that leads through the document, and the container of its last key.

    pydantic also counts the alternatives of unions and '[key]' as steps; those are in no document.
    """
    keys: list[Any] = []
    parent: Any = value
    for index, step in enumerate(loc):
        last = index == len(loc) - 1
        if _leads(value, step):
            parent, value = value, value[step]
        elif last and code == "missing":
            parent = value
        else:
            continue
        keys.append(step)
    return tuple(keys), parent


def _leads(value: Any, step: Any) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)


_MUST = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_unicode": "valid Unicode text",
    "list_type": "a list",
    "is_instance_of": "a list",
    "tuple_type": "a list",
    "dict_type": "a dictionary",
    "mapping_type": "a dictionary",
    "model_type": "a dictionary",
    "none_required": "null",
}
_LIMITS = {
    "greater_than": ("gt", "above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "at most {}"),
    "string_too_short": ("min_length", "text of at least {} characters"),
    "string_too_long": ("max_length", "text of at most {} characters"),
    "too_short": ("min_length", "at least {} values long"),
    "too_long": ("max_length", "at most {} values long"),
    "literal_error": ("expected", "{}"),
    "enum": ("expected", "{}"),
    "string_pattern_mismatch": ("pattern", "text that matches '{}'"),
}


def _must(found: Any) -> str:
    code, context = found["type"], found.get("ctx", {})
    if code in _MUST:
        return _MUST[code]
    if code in _LIMITS:
        key, words = _LIMITS[code]
        if code == "string_too_short" and context[key] == 1:
            return "text that is not empty"
        return words.format(context[key])
    message: str = found["msg"]
    return message.removeprefix("Input should be ")


def _suggestion(kind: Any, loc: Sequence[Any]) -> str:
    known = sorted({name for leaf in _kinds_at(kind, loc[:-1]) for name, _ in _fields(leaf)})
    close = difflib.get_close_matches(str(loc[-1])[:100], known, n=1)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known are {', '.join(known)})" if known else ""


def _kinds_at(kind: Any, loc: Sequence[Any]) -> list[Any]:
    """Types that a place may have."""
    kinds = [kind]
    for step in loc:
        kinds = [inner for kind in kinds for inner in _inner(kind, step)]
    return [leaf for kind in kinds for leaf in _leaves(kind)]


def _leaves(kind: Any) -> list[Any]:
    """A type without `Annotated` and unions."""
    if typing.get_origin(kind) is Annotated:
        return _leaves(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, type(int | str)):
        return [leaf for part in typing.get_args(kind) for leaf in _leaves(part)]
    return [kind]


def _fields(kind: Any) -> list[tuple[str, Any]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [(field.alias or name, field.annotation) for name, field in kind.model_fields.items()]
    return []


def _inner(kind: Any, step: Any) -> list[Any]:
    """Types that one step of a location can lead to."""
    out: list[Any] = []
    for leaf in _leaves(kind):
        named = dict(_fields(leaf))
        if step in named:
            out.append(named[step])
        elif named:
            out.append(leaf)  # the name of a union's alternative
        else:
            out.extend(part for part in typing.get_args(leaf) if part is not Ellipsis)
    return out
