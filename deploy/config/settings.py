"""One key of a configuration: its default, its meaning and what it may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

__all__ = ["Setting", "setting", "settings_of"]


@dataclass(frozen=True)
class Setting:
    """What is allowed for a key beyond its Python type.

    Attributes:
        doc: One sentence for the reference page.
        choices: The allowed values, where they can be listed.
        minimum: Smallest allowed number (inclusive).
        hints: Value -> what to do instead, appended to the message that refuses it.
    """

    doc: str
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    hints: Mapping[Any, str] = field(default_factory=dict)


def setting(
    default: Any,
    doc: str,
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    hints: Mapping[Any, str] | None = None,
) -> Any:
    """A dataclass field with its documentation; a callable default is a factory, `...` marks a required key."""
    metadata = {"setting": Setting(doc, choices, minimum, hints or {})}
    if default is ...:
        return field(metadata=metadata)
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def settings_of(section: type) -> dict[str, tuple[Setting, Any]]:
    """Key -> (setting, default) of a section in the order of its definition; the default of a required key is `...`."""
    result: dict[str, tuple[Setting, Any]] = {}
    for item in fields(section):
        if item.default is not MISSING:
            default = item.default
        elif item.default_factory is not MISSING:
            default = item.default_factory()
        else:
            default = ...
        result[item.name] = (item.metadata["setting"], default)
    return result
