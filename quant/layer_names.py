"""Names of layers as a user writes them: module paths and patterns over their components."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from base.errors import ConfigError

__all__ = ["matches", "named_by", "select"]

_SUGGESTIONS = 3
_SIMILAR = 0.5


def matches(pattern: str, path: str) -> bool:
    """Whether `pattern` names the module `path` or one that it lies in.

    A pattern is a dotted path whose components may hold `*`, `?` and `[…]`, each within its component:
    `pts_backbone.blocks.0.0` does not name `pts_backbone.blocks.0.01`; `pts_backbone.blocks.0` and
    `pts_backbone.blocks.0.*` name all of block 0.
    """
    wanted, found = pattern.split("."), path.split(".")
    return len(wanted) <= len(found) and all(fnmatchcase(f, w) for w, f in zip(wanted, found, strict=False))


def named_by(pattern: str, paths: Iterable[str]) -> set[str]:
    """Those of the paths that the pattern names."""
    return {path for path in paths if matches(pattern, path)}


def select(patterns: Iterable[str], paths: Collection[str], what: str) -> set[str]:
    """The paths that the patterns name.

    Args:
        patterns: Exact paths and patterns.
        paths: All that there are.
        what: What the patterns are for, to begin an error message, e.g. `skip_names`.

    Raises:
        ConfigError: a pattern names none of them; the nearest ones are suggested.
    """
    if isinstance(patterns, str):
        raise ConfigError(f"{what} must be a list of names, got the string '{patterns}'. Write ['{patterns}'].")
    chosen: set[str] = set()
    for pattern in patterns:
        named = named_by(pattern, paths)
        if not named:
            raise ConfigError(f"{what}: '{pattern}' names no layer that can be quantized. {_hint(pattern, paths)}")
        chosen |= named
    return chosen


def _hint(pattern: str, paths: Collection[str]) -> str:
    near = difflib.get_close_matches(pattern, sorted(paths), n=_SUGGESTIONS, cutoff=_SIMILAR)
    if near:
        return f"Nearest: {', '.join(near)}."
    return f"There are {len(paths)}, such as {', '.join(sorted(paths)[:_SUGGESTIONS])}."
