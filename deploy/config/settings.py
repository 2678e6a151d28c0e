"""One key of a configuration: its default, its meaning and what it may be."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

__all__ = [
    "STRICT",
    "Section",
    "Setting",
    "choices_of",
    "is_section",
    "limits_of",
    "setting",
    "settings_of",
    "variants",
]

# Nothing is coerced, an unknown key is an error, and no number is NaN or infinite.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Section:
    """A dictionary of a configuration: `@dataclass(frozen=True, config=STRICT) class Export(Section)`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        schema = handler(source)
        # A strict dataclass of pydantic's takes no dictionary; its values stay strict.
        typing.cast(dict[str, Any], handler.resolve_ref_schema(schema))["strict"] = False
        return schema


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key.

    Attributes:
        doc: One sentence for the reference page.
        kind: Its type, with the limits of numbers.
        default: `...` for a required key.
    """

    doc: str
    kind: Any
    default: Any


def setting(default: Any, doc: str) -> Any:
    """A field with its documentation; a callable default is a factory, `...` marks a required key."""
    if default is not ... and callable(default):
        return Field(default_factory=default, description=doc)
    return Field(default, description=doc)


def settings_of(section: Any) -> dict[str, Setting]:
    """The keys of a section in the order of its definition."""
    kinds = typing.get_type_hints(section, include_extras=True)
    return {
        name: Setting(
            field.description, kinds[name], ... if field.is_required() else field.get_default(call_default_factory=True)
        )
        for name, field in section.__pydantic_fields__.items()
    }


def is_section(kind: Any) -> bool:
    """Whether a type is a dictionary with known keys."""
    return isinstance(kind, type) and issubclass(kind, Section)


def variants(kind: Any) -> list[Any]:
    """The alternatives of a union, without annotations."""
    if typing.get_origin(kind) is Annotated:
        return variants(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return [variant for option in typing.get_args(kind) for variant in variants(option)]
    return [kind]


def choices_of(kind: Any) -> list[Any]:
    """The values of a type that lists them."""
    return [choice for item in variants(kind) if typing.get_origin(item) is Literal for choice in typing.get_args(item)]


def limits_of(kind: Any) -> tuple[float | None, float | None]:
    """Smallest and largest number of a type, of the values of a table or of the items of a list."""
    if typing.get_origin(kind) is Literal:
        return None, None
    limits: tuple[float | None, float | None] = (None, None)
    for item in (*typing.get_args(kind), *getattr(kind, "__metadata__", ())):
        found = (
            [(getattr(part, "ge", None), getattr(part, "le", None)) for part in item.metadata]
            if isinstance(item, FieldInfo)
            else [limits_of(item)]
        )
        for low, high in found:
            limits = (low if limits[0] is None else limits[0], high if limits[1] is None else limits[1])
    return limits
