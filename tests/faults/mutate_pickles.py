"""Mutations of pickles by their values and by their opcodes."""

from __future__ import annotations

import pickle
import pickletools
from contextlib import suppress
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np

from tests.faults.hostile_values import Pairs, Raw, hostile_value
from tests.faults.mutate_bytes import Mutation, either, mutate_bytes
from tests.faults.mutate_documents import mutate_tree

__all__ = ["mutate_opcodes", "pickle_mutation"]

_RUN = b"\x8c\x09touch RAN\x85R"
# fmt: off
_GLOBALS = tuple(
    f"c{name.replace('/', chr(10))}\n".encode()
    for name in (
        "posix/system", "builtins/eval", "builtins/getattr", "builtins/bytearray", "os/_exit", "subprocess/Popen",
        "numpy/ndarray", "numpy/dtype", "numpy/load", "numpy._core.multiarray/_reconstruct", "\xff/",
        "numpy._core.multiarray/scalar", "numpy.core.numeric/_frombuffer", "_codecs/encode",
        "copyreg/_reconstructor", "collections/OrderedDict", "builtins/set", "builtins/complex", "builtins/dict",
        "torch._utils/_rebuild_tensor_v2", "torch/FloatStorage", "torch.jit/load", "torch.storage/UntypedStorage",
        "torch/device", "torch/Size",
    )
)
_SNIPPETS: tuple[bytes, ...] = (
    _GLOBALS[0] + _RUN, _GLOBALS[1] + _RUN, b"(S'touch RAN'\nios\nsystem\n", b")R", b")\x81", b"}b", b"\x85R", b"\x86R",
    b"\x87R", b"N\x85R", b"(K\x01K\x02tR", b"K\x00\x85R", b"C\x08\x00\x00\x00\x00\x00\x00\x00\x01", b"\x93", b"\x94",
    b"2", b"0", b"1", b"(", b"t", b"l", b"d", b"]", b"}", b")", b"\x8f", b"\x90", b"\x91", b"e", b"u", b"s", b"a", b".",
    b"r\xff\xff\xff\x7f", b"p999999999999\n", b"g0\n", b"g999999\n", b"j\xff\xff\xff\xff", b"h\x00", b"q\x00", b"q\xff",
    b"\x8b\xff\xff\xff\x7f", b"\x8a\xff" + b"\x7f" * 255, b"L" + b"9" * 5000 + b"L\n", b"I9" + b"9" * 4300 + b"\n",
    b"I01\n", b"Fnan\n", b"X\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 7 + b"\x7f", b"\x8e" + b"\xff" * 7 + b"\x00",
    b"\x96" + b"\xff" * 6 + b"\0\0", b"\x95" + b"\xff" * 7 + b"\0", b"\x80\x05", b"\x80\xff", b"P1\n", b"K\x01Q",
    b"\x82\x01", b"\x97", b"\x98", b"V\\ud800\n", b"X\x03\0\0\0\xed\xa0\x80", b"(" * 3000 + b"t" * 3000,
    b"]" * 2000 + b"a" * 1999, b"N" + b"\x85" * 3000, b"2" * 3000, b"\x88", b"\x89", b"N", b"K\xff",
    b"J\xff\xff\xff\xff", b"G\x7f\xf8" + b"\0" * 6, b"\x8c\x00", b"\x8c\x01\0", b"c\n\n",
)
# fmt: on


def mutate_opcodes(data: bytes, rng: Random) -> bytes:
    """Drops, doubles, moves and inserts opcodes of a pickle; every length in it stays what its opcode says."""
    ops = list(_opcodes(data))
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(ops) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del ops[place : place + rng.choice((1, 1, 3))]
        elif kind == 1 and ops:
            ops[place:place] = [ops[min(place, len(ops) - 1)]] * rng.choice((1, 2, 500))
        elif kind == 2 and ops:
            ops.insert(place, ops.pop(rng.randrange(len(ops))))
        elif kind == 3:
            ops.insert(place, rng.choice(_GLOBALS) + rng.choice(_SNIPPETS))
        else:
            ops.insert(place, rng.choice(_SNIPPETS))
    return b"".join(ops)


@lru_cache(maxsize=4)
def _opcodes(data: bytes) -> tuple[bytes, ...]:
    """Each opcode with its argument. Frames go: their lengths would no longer be right, and a pickle may do without."""
    starts: list[tuple[int, bool]] = []
    with suppress(ValueError, IndexError):  # up to the fault
        starts.extend((position or 0, opcode.name == "FRAME") for opcode, _, position in pickletools.genops(data))
    ends = [*(position for position, _ in starts[1:]), len(data)]
    return tuple(data[start:end] for (start, frame), end in zip(starts, ends, strict=False) if not frame)


# fmt: off
def _objects(rng: Random) -> Any:
    """What only a pickle can hold; else a value as in documents."""
    if rng.random() < 0.4:
        return _plain(hostile_value(rng))
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = None
    for _ in range(rng.choice((70, 250))):
        deep = [deep]
    return rng.choice((
        loop, deep, {1: 2}, {None: 1}, {(1, 2): 3}, (), (1,), {1, 2}, frozenset({1}), b"", b"\0" * 5000,
        bytearray(b"x"), 1j, complex("nan"), 10**4400, -(10**4400), "\ud800", "x" * 100_000, range(3), slice(1),
        Ellipsis, ValueError("x"), np.zeros(0), np.zeros((0, 7)), np.full(7, np.nan), np.ones(7, np.float16),
        np.ones(7, "S3"), np.ones(7, bool), np.zeros((3, 3, 3)), np.array(1.0), np.array([1, "a", None], object),
        np.zeros(3, "f4,i8"), np.ones(4, ">f8"), np.ones(7, np.complex64), np.array(["2001-01-01"], "M8[D]"),
        np.ones((2, 7)).T, np.float64("inf"), np.int8(-1), np.str_("a"), np.bool_(True), np.float32(1e38),
        np.array("x" * 50), np.ma.masked, np.eye(4) * 1e308, np.int64(2**62),
    ))
# fmt: on


def _plain(value: Any) -> Any:
    """What a pickle holds in place of text that only JSON has."""
    if isinstance(value, Raw):
        return 10**4300 if value.text.lstrip("-")[:1].isdigit() else float("nan")
    return value


def _without_pairs(tree: Any) -> Any:
    if isinstance(tree, dict):
        items = tree["\0pairs"].items if isinstance(tree.get("\0pairs"), Pairs) else tree.items()
        return {key if isinstance(key, str | int) else str(key): _without_pairs(value) for key, value in items}
    if isinstance(tree, list) and not any(item is tree for item in tree):
        return [_without_pairs(value) for value in tree]
    return _plain(tree)


def _by_values(data: bytes, rng: Random) -> bytes:
    tree = mutate_tree(pickle.loads(data), rng, _objects)
    try:
        return pickle.dumps(_without_pairs(tree), protocol=rng.choice((0, 2, 4, 5)))
    except (RecursionError, ValueError, pickle.PicklingError):  # integers of 4,300 digits as text, loops
        return pickle.dumps(None)


pickle_mutation: Mutation = either((4, _by_values), (4, mutate_opcodes), (2, mutate_bytes))
"""By values, opcodes and bytes."""
