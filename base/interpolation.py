"""References between the values of a document, written as `${key.of.another}`: what they come to, at bounded cost.

The forms of OmegaConf that configs use: absolute (`${a.b}`, `${list.0}`, `${list[0]}`), relative to the dictionary that
holds the value (`${.b}`, `${..b}`), inside text (`${root}/points`), inside each other (`${a.${b}}`), and
`${oc.env:NAME}` of variables that the caller gives. Values are worked out where they are asked for: what nobody reads
may refer to anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from base.errors import ConfigError
from base.messages import shown, shown_file, shown_place

__all__ = ["MISSING", "References"]

MISSING = "???"
"""What stands for a value that another file has to give."""

_MAX_STEPS = 20_000
_MAX_DEPTH = 40
_MAX_TEXT = 1 << 16
_OPEN, _CLOSE = "${", "}"

Place = tuple[str | int, ...]


class References:
    """A document whose values refer to each other.

    Args:
        values: Plain dictionaries, lists and scalars.
        file: Where they come from, for messages.
        environment: Variables that values take as if they were of the environment; of the real one they take nothing.
    """

    def __init__(
        self, values: Mapping[str, Any], file: str | os.PathLike[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._root = values
        self._file = shown_file(file)
        self._environment = dict(environment or {})
        self._steps = 0

    def value(self, *place: str | int) -> Any:
        """What stands at a place, with everything below it worked out; None where nothing stands there.

        Raises:
            ConfigError: a value is `???`, or a reference leads nowhere, to itself, or is of a form that is not known;
                names the file, the place and the reference.
        """
        self._steps = 0
        found = self._find(place, place, 0)
        return None if found is None else self._whole(found, 0)

    def holds(self, *place: str | int) -> bool:
        """Whether something other than `???` stands at a place."""
        self._steps = 0
        found = self._find(place, place, 0)
        return found is not None and self._at(found) not in (None, MISSING)

    def _at(self, place: Place) -> Any:
        node: Any = self._root
        for key in place:
            node = node[key]
        return node

    def _whole(self, place: Place, depth: int) -> Any:
        self._step(place, depth)
        node = self._at(place)
        if isinstance(node, Mapping):
            return {key: self._whole((*place, key), depth + 1) for key in node}
        if isinstance(node, list):
            return [self._whole((*place, index), depth + 1) for index in range(len(node))]
        if node == MISSING:
            raise ConfigError(
                f"{self._file}: {shown_place(place)} is '{MISSING}', which another file of the config, or whoever "
                "trains, has to replace. Give its value."
            )
        if not isinstance(node, str) or _OPEN not in node:
            return node
        target = self._target(node, place, depth)
        return self._text(node, place, depth) if target is None else self._whole(target, depth + 1)

    def _find(self, place: Place, origin: Place, depth: int) -> Place | None:
        """The place where the value really stands: what lies on the way may refer elsewhere."""
        here: Place = ()
        for key in place:
            here = self._followed(here, depth)
            node = self._at(here)
            if isinstance(node, list) and isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:
                key = int(key)
            known = isinstance(node, Mapping) and key in node
            known = known or (isinstance(node, list) and isinstance(key, int) and 0 <= key < len(node))
            if not known:
                return None
            here = (*here, key)
            self._step(origin, depth)
        return here

    def _followed(self, place: Place, depth: int) -> Place:
        """Where a value stands that may be one whole reference."""
        node = self._at(place) if place else self._root
        if not isinstance(node, str) or _OPEN not in node:
            return place
        self._step(place, depth)
        target = self._target(node, place, depth)
        return place if target is None else self._followed(target, depth + 1)

    def _target(self, text: str, place: Place, depth: int) -> Place | None:
        """The place that a text of one reference to another place stands for; None for any other text."""
        if not text.startswith(_OPEN) or self._end(text, 0, place) != len(text):
            return None
        inner = self._text(text[len(_OPEN) : -len(_CLOSE)], place, depth)
        return None if ":" in inner else self._referred(inner, place, depth)

    def _referred(self, reference: str, place: Place, depth: int) -> Place:
        dots = len(reference) - len(reference.lstrip("."))
        keys: Place = tuple(part for part in re.split(r"[.\[\]]+", reference[dots:]) if part)
        base: Place = place[: max(0, len(place) - dots)] if dots else ()
        readable = keys and dots <= len(place) and not re.search(r"[\s{}$,'\"]", reference)
        found = self._find((*base, *keys), place, depth + 1) if readable else None
        if found is None:
            raise ConfigError(
                f"{self._file}: {shown_place(place)} refers to {shown(_OPEN + reference + _CLOSE)}, but nothing stands "
                "there. Correct the reference, or add what it names."
            )
        return found

    def _text(self, text: str, place: Place, depth: int) -> str:
        """A text with the references in it replaced by what they come to."""
        self._step(place, depth)
        parts: list[str] = []
        start = 0
        while (found := text.find(_OPEN, start)) >= 0:
            if found and text[found - 1] == "\\":  # an escaped one is text
                parts.append(text[start : found - 1] + _OPEN)
                start = found + len(_OPEN)
                continue
            end = self._end(text, found, place)
            inner = self._text(text[found + len(_OPEN) : end - len(_CLOSE)], place, depth + 1)
            parts += (text[start:found], self._scalar(inner, place, depth + 1))
            start = end
            if sum(map(len, parts)) > _MAX_TEXT:
                raise self._too_much(place)
        return "".join([*parts, text[start:]])

    def _scalar(self, inner: str, place: Place, depth: int) -> str:
        if ":" in inner:
            return self._variable(inner, place)
        value = self._whole(self._referred(inner, place, depth), depth + 1)
        if isinstance(value, dict | list):
            raise ConfigError(
                f"{self._file}: {shown_place(place)} puts {shown(_OPEN + inner + _CLOSE)} into a text, but that is "
                f"{shown(value)}. Refer to one value."
            )
        return str(value)

    def _variable(self, inner: str, place: Place) -> str:
        kind, _, argument = inner.partition(":")
        name = argument.partition(",")[0].strip()  # what stands behind a comma is for where it is not set
        if kind.strip() != "oc.env" or name not in self._environment:
            allowed = ", ".join(f"${{oc.env:{known}}}" for known in sorted(self._environment))
            raise ConfigError(
                f"{self._file}: {shown_place(place)} uses {shown(_OPEN + inner + _CLOSE)}. References to other values "
                f"and {allowed or 'nothing else'} are understood here. Write the value in its place."
            )
        return self._environment[name]

    def _end(self, text: str, start: int, place: Place) -> int:
        """Index behind the brace that closes the reference at `start`."""
        depth, index = 0, start
        while index < len(text):
            if text.startswith(_OPEN, index):
                depth, index = depth + 1, index + len(_OPEN)
            elif text[index] == _CLOSE:
                depth, index = depth - 1, index + 1
                if not depth:
                    return index
            else:
                index += 1
        raise ConfigError(f"{self._file}: {shown_place(place)} is {shown(text)}, in which a '${{' is not closed.")

    def _step(self, place: Place, depth: int) -> None:
        self._steps += 1
        if depth > _MAX_DEPTH:
            raise ConfigError(
                f"{self._file}: {shown_place(place)} refers to values that refer to others, more than {_MAX_DEPTH} "
                "times: does one refer to itself?"
            )
        if self._steps > _MAX_STEPS:
            raise self._too_much(place)

    def _too_much(self, place: Place) -> ConfigError:
        return ConfigError(f"{self._file}: {shown_place(place)} comes to more values, or a longer text, than is read.")
