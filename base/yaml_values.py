"""Plain values of a YAML text, built from the events of PyYAML's parser: what a text can be made to cost is bounded."""

from __future__ import annotations

import re
from typing import Any

import yaml

from base.messages import printable, shown

__all__ = ["MAX_VALUES", "YamlError", "yaml_value"]

MAX_VALUES = 200_000
"""Values of one text: a second's work."""

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{form: True for word in ("true", "yes", "on") for form in (word, word.title(), word.upper())},
    **{form: False for word in ("false", "no", "off") for form in (word, word.title(), word.upper())},
}
# As YAML 1.2 writes numbers; 1.1 reads 010 as 8, 1:30 as 90 and 1e-3 as text.
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NO_KEY = object()


class YamlError(ValueError):
    """A text that is no YAML, or not of the kind that is read; says where."""


def yaml_value(text: str, max_depth: int) -> Any:
    """The one document of a YAML text; None for an empty one. Dates stay text.

    Raises:
        YamlError: it is no YAML, or has anchors, aliases, tags, a key twice, several documents, too many values, or
            deeper nesting.
    """
    builder = _Builder(max_depth)
    try:
        for event in yaml.parse(text, Loader=_Parser):
            builder.take(event)
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark or failure.context_mark
        where = f" ({_place(mark)})" if mark else ""
        raise YamlError(f"{printable(str(failure.problem or failure.context))}{where}") from None
    except yaml.YAMLError as failure:
        raise YamlError(printable(str(failure).splitlines()[0])) from None
    except UnicodeEncodeError:  # half a surrogate pair, which the parser in C does not take
        raise YamlError("a text in it holds half a surrogate pair") from None
    return builder.document


class _Builder:
    """Lists and dictionaries that are open, innermost last, and the key that waits in each."""

    def __init__(self, max_depth: int) -> None:
        self.document: Any = None
        self._max_depth = max_depth
        self._open: list[Any] = []
        self._keys: list[Any] = []
        self._documents = self._values = 0

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._check(event)
            self._add(_scalar(event), event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._check(event)
            value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._add(value, event)
            self._open.append(value)
            self._keys.append(_NO_KEY)
            if len(self._open) > self._max_depth:
                raise YamlError(f"more than {self._max_depth} levels of nesting ({_place(event.start_mark)})")
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, yaml.AliasEvent):
            raise YamlError(f"anchors and aliases are not read ({_place(event.start_mark)})")
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise YamlError(f"more than one document ({_place(event.start_mark)})")

    def _check(self, event: Any) -> None:
        self._values += 1
        if event.anchor is not None:
            raise YamlError(f"anchors and aliases are not read ({_place(event.start_mark)})")
        if event.tag is not None:
            raise YamlError(f"tag {shown(event.tag)} is not read ({_place(event.start_mark)})")
        if self._values > MAX_VALUES:
            raise YamlError(f"more than {MAX_VALUES} values ({_place(event.start_mark)})")

    def _add(self, value: Any, event: Any) -> None:
        if not self._open:
            self.document = value
            return
        parent = self._open[-1]
        if isinstance(parent, list):
            parent.append(value)
        elif (key := self._keys[-1]) is not _NO_KEY:
            parent[key] = value
            self._keys[-1] = _NO_KEY
        elif isinstance(value, list | dict):
            raise YamlError(f"a list or dictionary is no key ({_place(event.start_mark)})")
        elif value in parent:
            raise YamlError(f"key {shown(value)} stands twice in one dictionary ({_place(event.start_mark)})")
        else:
            self._keys[-1] = value


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # in quotes, or a block of text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        try:
            return int(text)
        except ValueError:  # over 4,300 digits
            raise YamlError(f"a number of {len(text)} digits ({_place(event.start_mark)})") from None
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _SPECIAL.fullmatch(text)
    return float(f"{special[1] or ''}{special[2] or special[3]}") if special else text


def _place(mark: Any) -> str:
    return f"line {mark.line + 1} column {mark.column + 1}"
