"""The text of a config that a checkpoint carries, read as values without running it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ConfigText", "read_config_text"]

# Four times the longest that trainers write.
_MAX_CHARACTERS = 1 << 18
_MAX_DEPTH = 50


class _Unknown:
    """What is no literal."""


_UNKNOWN = _Unknown()


@dataclass(frozen=True)
class ConfigText:
    """Values of a config by name; what was no literal is not there."""

    values: Mapping[str, Any]

    def at(self, path: str) -> Any:
        """The value at a path such as `model.type`; None where there is none."""
        node: Any = self.values
        for key in path.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        return None if node is _UNKNOWN else node


def read_config_text(text: str) -> ConfigText | None:
    """Assignments of literals, lists, and `dict(…)` of them, as mmengine's `Config.pretty_text` writes a config.

    Returns:
        None where the text is no Python, or far too long for a config.
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    values = {
        target.id: _value(statement.value, _MAX_DEPTH)
        for statement in module.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    return ConfigText(values)


def _value(node: ast.expr, depth: int) -> Any:
    if depth == 0:
        return _UNKNOWN
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _value(node.operand, depth - 1)
        return -operand if isinstance(operand, int | float) else _UNKNOWN
    if isinstance(node, ast.List | ast.Tuple):
        items = [_value(item, depth - 1) for item in node.elts]
        return _UNKNOWN if _UNKNOWN in items else items
    if isinstance(node, ast.Dict):
        pairs = ((key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None)
        return {
            key.value: _value(value, depth - 1)
            for key, value in pairs
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {item.arg: _value(item.value, depth - 1) for item in node.keywords if item.arg is not None}
    return _UNKNOWN
