"""The reference table of every key, in Markdown, from the schema itself.

`python -m deploy.config.reference` rewrites it inside docs/configuration.md; a test holds both together.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from base.command import run_command, run_main
from base.files import atomic_path
from deploy.config.paths import repository_root
from deploy.config.schema import DeployConfig
from deploy.config.settings import settings_of

__all__ = ["PAGE", "embed_reference", "render_reference"]

PAGE = "docs/configuration.md"
BEGIN, END = "<!-- reference: begin -->", "<!-- reference: end -->"
_HEADER = "| key | default | allowed | meaning |\n|---|---|---|---|\n"


def render_reference() -> str:
    """One table for each section that a user writes as a dictionary, in the order of the schema."""
    tables = []
    for path, section in _sections(DeployConfig, ""):
        title = f"### `{path}`" if path else "### Top level"
        tables.append(f"{title}\n\n{_HEADER}{''.join(_rows(section))}")
    return "\n".join(tables)


def embed_reference(page: str) -> str:
    """`page` with the table between its two marks."""
    head, rest = page.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    return f"{head}{BEGIN}\n\n{render_reference()}\n{END}{tail}"


def _sections(section: type, path: str) -> Iterator[tuple[str, type]]:
    yield path, section
    for key, kind in typing.get_type_hints(section).items():
        where = f"{path}.{key}" if path else key
        if is_dataclass(kind) and isinstance(kind, type):
            yield from _sections(kind, where)
        elif typing.get_origin(kind) in (tuple, dict):
            item = typing.get_args(kind)[1 if typing.get_origin(kind) is dict else 0]
            suffix = ".<input>" if typing.get_origin(kind) is dict else "[]"
            # Four lists of comparisons share one table.
            if is_dataclass(item) and isinstance(item, type) and key not in ("onnx", "trt", "none"):
                yield from _sections(item, where + suffix)


def _rows(section: type) -> Iterator[str]:
    hints = typing.get_type_hints(section)
    for key, (rule, default) in settings_of(section).items():
        kind = hints[key]
        if is_dataclass(kind):
            yield f"| `{key}` | section | | {rule.doc} |\n"
            continue
        shown = "required" if default is ... else _default(default)
        allowed = ", ".join(f"`{choice!r}`" for choice in rule.choices) or _type_text(kind)
        if rule.minimum is not None:
            allowed += f", at least {rule.minimum:g}"
        yield f"| `{key}` | {shown} | {allowed} | {rule.doc} |\n"


def _default(value: Any) -> str:
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return "; ".join(f"{s.test_backend} ({s.test_device}) against {s.ref_backend} ({s.ref_device})" for s in value)
    return f"`{list(value)!r}`" if isinstance(value, tuple) else f"`{value!r}`"


def _type_text(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_text(option) for option in typing.get_args(kind))
    if origin is tuple:
        return "list"
    if origin is dict:
        return "dictionary"
    return {bool: "`True`, `False`", int: "integer", float: "number", str: "text", types.NoneType: "`None`"}[kind]


def main() -> int:
    """Rewrites the reference in the documentation; returns the exit code."""
    return run_command(_rewrite)


def _rewrite() -> None:
    page: Path = repository_root() / PAGE
    text = embed_reference(page.read_text(encoding="utf-8"))
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
