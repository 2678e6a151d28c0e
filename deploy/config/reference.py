"""The reference table of every key, in Markdown, from the schema itself.

`python -m deploy.config.reference` rewrites it inside docs/configuration.md; a test holds both together.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from base.command import run_command, run_main
from base.page_marks import between_marks, rewrite_page
from deploy.config.paths import repository_root
from deploy.config.schema import DeployConfig
from deploy.config.settings import choices_of, is_section, limits_of, settings_of, variants

__all__ = ["PAGE", "embed_reference", "render_reference"]

PAGE = "docs/configuration.md"
_MARK = "reference"
_ANY = 2**31 - 1  # what a number can be at all is no limit worth a word
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
    return between_marks(page, _MARK, render_reference(), file=PAGE)


def _sections(section: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, section
    for key, setting in settings_of(section).items():
        where = f"{path}.{key}" if path else key
        for kind in variants(setting.kind):
            inner = [item for item in typing.get_args(kind) if is_section(item)]
            if is_section(kind):
                yield from _sections(kind, where)
            # Four lists of comparisons share one table.
            elif inner and key not in ("onnx", "trt", "none"):
                yield from _sections(inner[0], where + (".<input>" if typing.get_origin(kind) is dict else "[]"))


def _rows(section: Any) -> Iterator[str]:
    for key, setting in settings_of(section).items():
        kind = setting.kind
        if is_section(kind):
            yield f"| `{key}` | section | | {setting.doc} |\n"
            continue
        shown = "required" if setting.default is ... else _default(setting.default)
        allowed = ", ".join(f"`{choice!r}`" for choice in choices_of(kind)) or _type_text(kind)
        low, high = limits_of(kind)
        allowed += f", at least {low:g}" if low is not None else ""
        allowed += f", at most {high:g}" if high is not None and high < _ANY else ""
        yield f"| `{key}` | {shown} | {allowed} | {setting.doc} |\n"


def _default(value: Any) -> str:
    if isinstance(value, tuple) and value and is_section(type(value[0])):
        return "; ".join(f"{s.test_backend} ({s.test_device}) against {s.ref_backend} ({s.ref_device})" for s in value)
    return f"`{list(value)!r}`" if isinstance(value, tuple) else f"`{value!r}`"


_WORDS = {bool: "`True`, `False`", int: "integer", float: "number", str: "text", types.NoneType: "`None`"}


def _type_text(kind: Any) -> str:
    containers = {tuple: "list", dict: "dictionary"}
    return " or ".join(containers.get(typing.get_origin(item)) or _WORDS[item] for item in variants(kind))


def main() -> int:
    """Rewrites the reference in the documentation; returns the exit code."""
    return run_command(_rewrite)


def _rewrite() -> None:
    rewrite_page(repository_root() / PAGE, _MARK, render_reference())


if __name__ == "__main__":
    run_main(main)
