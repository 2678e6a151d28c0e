"""The last check of a value that was read: what it is made of, how deep it is, and how large if nothing were shared."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from base.untrusted.limits import MAX_DEPTH, expanded_size
from base.untrusted.numpy_names import NUMPY_SCALARS
from base.untrusted.rare_opcodes import CONTAINERS
from base.untrusted.refusal import Refused
from base.untrusted.stand_ins import StandIn

__all__ = ["PLAIN_VALUES", "check_structure"]

PLAIN_VALUES = (
    frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, np.ndarray}) | NUMPY_SCALARS | CONTAINERS
)
_SIZED = frozenset({str, bytes, bytearray, np.str_, np.bytes_})
_NUMBERS = frozenset({float, int, bool, type(None)})
_REFERENCE_BYTES = 8


@dataclass
class _Part:
    """A tree of containers, cut off where it refers to a shared one."""

    size: int = 0
    depth: int = 0
    references: Counter[int] = field(default_factory=Counter)
    reference_depths: dict[int, int] = field(default_factory=dict)


def check_structure(root: Any, shared: Mapping[int, Any], allowed: frozenset[type], file_size: int) -> None:
    """Checks a value, level by level and without recursion, in a time that does not depend on what is shared.

    Args:
        root: The value.
        shared: By id, every container that more than one place may refer to.
        allowed: Types that may occur.
        file_size: Bytes of the file.

    Raises:
        Refused: a value is of another type, contains itself, is nested too deeply, or would expand too much.
    """
    parts: dict[int, _Part] = {}
    totals: dict[int, tuple[int, int]] = {}  # of a finished part with all that it refers to: size, depth
    values = {**shared, id(root): root}
    open_parts: set[int] = set()
    pending = [id(root)]
    while pending:
        key = pending[-1]
        if key in totals:
            pending.pop()
            continue
        if key not in parts:
            parts[key] = _scan(values[key], shared, allowed)
            open_parts.add(key)
            missing = [other for other in parts[key].references if other not in totals]
            if any(other in open_parts for other in missing):
                raise Refused("a list or dictionary in it contains itself")
            pending.extend(missing)
            continue
        part = parts[key]
        size = part.size + sum(count * totals[other][0] for other, count in part.references.items())
        depth = max([part.depth, *(at + totals[other][1] for other, at in part.reference_depths.items())])
        if depth > MAX_DEPTH:
            raise Refused(f"its lists and dictionaries are nested more than {MAX_DEPTH} levels deep")
        if size > expanded_size(file_size):
            raise Refused("it refers to the same lists and texts so often that they would fill the memory")
        totals[key] = (size, depth)
        open_parts.discard(key)


def _scan(root: Any, shared: Mapping[int, Any], allowed: frozenset[type]) -> _Part:
    part = _Part()
    level = [root]
    while level:
        part.depth += 1
        if part.depth > MAX_DEPTH:
            raise Refused(f"its lists and dictionaries are nested more than {MAX_DEPTH} levels deep")
        deeper: list[Any] = []
        for container in level:
            values = container if type(container) is list else _children(container)
            part.size += _REFERENCE_BYTES * len(values)
            kinds = set(map(type, values))
            if kinds <= _NUMBERS:  # most lists of an info file
                continue
            if not kinds <= allowed:
                raise Refused(_foreign(values, allowed))
            if not kinds.isdisjoint(_SIZED):
                part.size += sum([len(value) for value in values if type(value) in _SIZED])
            if np.ndarray in kinds:
                part.size += sum([value.nbytes for value in values if type(value) is np.ndarray])
            elif kinds.isdisjoint(CONTAINERS):
                continue
            for value in values:
                if type(value) in CONTAINERS or (type(value) is np.ndarray and value.dtype.hasobject):
                    if id(value) in shared:
                        part.references[id(value)] += 1
                        part.reference_depths[id(value)] = part.depth
                    else:
                        deeper.append(value)
        level = deeper
    return part


def _children(container: Any) -> list[Any]:
    if type(container) is list:
        return container
    if type(container) is dict:
        return [*container, *container.values()]
    if type(container) is OrderedDict:
        return [*container, *container.values(), *vars(container).values()]
    if type(container) is np.ndarray:
        return container.ravel().tolist() if container.dtype.hasobject else []
    return list(container) if type(container) in CONTAINERS else [container]


def _foreign(values: list[Any], allowed: frozenset[type]) -> str:
    value = next(value for value in values if type(value) not in allowed)
    if isinstance(value, StandIn):
        return f"it asks for '{value.what}', which is no value"
    return f"a value of type {type(value).__name__} is in it"
