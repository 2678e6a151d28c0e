"""Plain values of a YAML text, by PyYAML's safe loader with its surprises taken out."""

from __future__ import annotations

import re
from typing import Any

import yaml

from base.messages import printable, shown

__all__ = ["YamlError", "yaml_value"]

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """A text that is no YAML, or not of the kind that is read; says where."""


class _PlainLoader(_Base):
    """PyYAML's safe loader; numbers as YAML 1.2 writes them, dates stay text, a key twice is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012 - PyYAML's own name
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError(f"a list or dictionary is no key ({_place(key_node.start_mark)})")
            key = self.construct_object(key_node)
            if key in out:
                raise YamlError(f"key {shown(key)} stands twice in one dictionary ({_place(key_node.start_mark)})")
            out[key] = self.construct_object(value_node, deep=deep)
        return out


# YAML 1.1 reads 010 as 8, 1:30 as 90 and 1e-3 as text.
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _integer(loader: Any, node: Any) -> int:
    return int(loader.construct_scalar(node))


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _integer)


def yaml_value(text: str, max_depth: int) -> Any:
    """The one document of a YAML text.

    Raises:
        YamlError: it is no YAML, or has anchors, aliases, tags, several documents, or deeper nesting.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_PlainLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise YamlError(f"anchors and aliases are not read ({_place(event.start_mark)})")
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise YamlError(f"tag {shown(tag)} is not read ({_place(event.start_mark)})")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > max_depth:
                raise YamlError(f"more than {max_depth} levels of nesting ({_place(event.start_mark)})")
        return yaml.load(text, Loader=_PlainLoader)  # a kind of SafeLoader
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark or failure.context_mark
        where = f" ({_place(mark)})" if mark else ""
        raise YamlError(f"{printable(str(failure.problem or failure.context))}{where}") from None
    except yaml.YAMLError as failure:
        raise YamlError(printable(str(failure).splitlines()[0])) from None
    except YamlError:
        raise
    except (ValueError, OverflowError) as failure:  # a number of over 4,300 digits
        raise YamlError(printable(str(failure))) from None


def _place(mark: Any) -> str:
    return f"line {mark.line + 1} column {mark.column + 1}"
