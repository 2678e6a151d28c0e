"""Stand-ins for numpy's names in pickles: arrays and numbers rebuilt from their bytes, after every claim was checked.

numpy's own constructors are not safe with arguments of a file: `ndarray` takes a buffer for pointers, a dtype's state
may lie about what it holds, shapes and strides may lead out of the buffer. Here a dtype is one of a list that holds no
pointer; an array is made only where its shape, its dtype and the number of its bytes agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.messages import printable, shown
from base.untrusted.limits import MAX_DIMENSIONS, Memory
from base.untrusted.refusal import Refused
from base.untrusted.stand_ins import StandIn, kind

__all__ = ["NUMPY_SCALARS", "numpy_names"]

_PLAIN = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU](0|[1-9][0-9]{0,6})|O8?")
_SCALAR_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "S1", "U1")
# Types of the numbers and texts that `scalar` gives.
NUMPY_SCALARS = frozenset(np.dtype(code).type for code in _SCALAR_CODES)
_ORDERS = frozenset({"C", "F"})
_ARRAY_BYTES, _DTYPE_BYTES = 128, 128
Again = Callable[[Any], Any]
_LARGEST_EMPTY = 1 << 31
_LAST_CHARACTER, _SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)


def numpy_names(memory: Memory, again: Again) -> dict[tuple[str, str], StandIn]:
    """Stand-ins by module and name, as numpy 1 and 2 spell them.

    Args:
        memory: Where what they allocate is booked.
        again: Notes that a value is referred to once more (`RareOpcodes.again`); those of an object array are.
    """
    ndarray = StandIn("numpy.ndarray")  # an argument of _reconstruct, never called
    names: dict[tuple[str, str], StandIn] = {
        ("numpy", "ndarray"): ndarray,
        ("numpy", "dtype"): _DtypeName("numpy.dtype", memory),
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _Reconstruct(f"{core}._reconstruct", ndarray, memory, again)
        names[f"{core}.multiarray", "scalar"] = _Scalar(f"{core}.scalar", memory)
        names[f"{core}.numeric", "_frombuffer"] = _FromBuffer(f"{core}._frombuffer", memory)
    return names


class _DtypeName(StandIn):
    """`numpy.dtype('f8', False, True)`: its code alone is used, and only if it is on the list."""

    __slots__ = ("_memory",)

    def __init__(self, what: str, memory: Memory) -> None:
        super().__init__(what)
        self._memory = memory

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (str(code), *_) if _PLAIN.fullmatch(code):
                self._memory.take(_DTYPE_BYTES)
                return _Dtype(code)
            case (str(code), *_):
                raise Refused(f"it has an array of dtype '{printable(code)}', which is no plain number or text")
        raise Refused("'numpy.dtype' is called without the name of a plain dtype")


class _Dtype(StandIn):
    """One dtype of the list. What the file says of its state must be what numpy says of it."""

    __slots__ = ("value",)

    def __init__(self, code: str) -> None:
        super().__init__(f"numpy.dtype('{code}')")
        self.value: np.dtype[Any] = np.dtype(code)

    def build(self, state: object) -> object:
        match state:
            case (int(), str(order), None, None, None, int(size), int(alignment), int(flags)):
                pass
            case (int(), str(order), None, None, None, int(size), int(alignment), int(flags), None):
                pass
            case _:
                raise Refused(f"the state of {self.what} has fields or metadata; plain dtypes have none")
        value = self.value
        if order not in ("<", ">", "|") or (order == "|") != (value.byteorder == "|"):
            raise Refused(f"the byte order of {self.what} is '{printable(order)}'")
        said, true = (size, alignment, flags), (value.itemsize, value.alignment, value.flags)
        if size not in (-1, true[0]) or alignment not in (-1, true[1]) or flags != true[2]:
            raise Refused(f"{self.what} is said to have size, alignment and flags {said}, not {true}")
        self.value = value.newbyteorder("<" if order == "<" else ">" if order == ">" else "|")
        return self


class _Reconstruct(StandIn):
    """`_reconstruct(ndarray, (0,), b'b')` announces an array; its state brings the content."""

    __slots__ = ("_again", "_memory", "_ndarray")

    def __init__(self, what: str, ndarray: StandIn, memory: Memory, again: Again) -> None:
        super().__init__(what)
        self._ndarray, self._memory, self._again = ndarray, memory, again

    def call(self, arguments: tuple[object, ...]) -> object:
        if len(arguments) != 3 or arguments[0] is not self._ndarray:
            first = arguments[0].what if arguments and isinstance(arguments[0], StandIn) else "something else"
            raise Refused(f"it has an array of class '{first}'; only numpy.ndarray is plain")
        return _Announced(self._memory, self._again)


class _Announced(StandIn):
    """An array before its state, and after it for whoever memoised it."""

    __slots__ = ("_again", "_memory", "array")

    def __init__(self, memory: Memory, again: Again) -> None:
        super().__init__("numpy.ndarray")
        self._memory, self._again = memory, again
        self.array: NDArray[Any] | None = None

    def build(self, state: object) -> object:
        match state:
            case (int(version), tuple(shape), _Dtype(value=dtype), bool(is_fortran), content) if version == 1:
                pass
            case _:
                raise Refused("the state of an array is not (1, shape, dtype, order, bytes)")
        order = "F" if is_fortran else "C"
        if dtype.hasobject:
            self.array = _object_array(content, shape, order, self._memory, self._again)
        else:
            self.array = _array(content, dtype, shape, order, self._memory)
        return self.array

    def remembered(self) -> object:
        if self.array is None:
            raise Refused("an array contains itself")
        return self.array


class _FromBuffer(StandIn):
    """`_frombuffer(bytes, dtype, shape, order)`, as protocol 5 writes arrays."""

    __slots__ = ("_memory",)

    def __init__(self, what: str, memory: Memory) -> None:
        super().__init__(what)
        self._memory = memory

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (content, _Dtype(value=dtype), tuple(shape), str(order)) if order in _ORDERS and not dtype.hasobject:
                return _array(content, dtype, shape, order, self._memory)
        raise Refused(f"'{self.what}' is called with something else than bytes, a plain dtype, a shape and an order")


class _Scalar(StandIn):
    """`scalar(dtype, bytes)`: one number or text of a plain dtype."""

    __slots__ = ("_memory",)

    def __init__(self, what: str, memory: Memory) -> None:
        super().__init__(what)
        self._memory = memory

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (_Dtype(value=dtype), bytes(content)) if not dtype.itemsize and not content:
                return dtype.type()  # an empty text
            case (_Dtype(value=dtype), bytes(content)) if not dtype.hasobject:
                return _array(content, dtype, (), "C", self._memory)[()]
        raise Refused(f"'{self.what}' is called with something else than a plain dtype and bytes")


def _count(shape: tuple[object, ...]) -> int:
    """Elements of an array of that shape, all of whose dimensions are what they should be."""
    if len(shape) > MAX_DIMENSIONS or any(type(length) is not int or length < 0 for length in shape):
        raise Refused(f"an array has the shape {shown(shape)}")
    lengths = [length for length in shape if isinstance(length, int)]
    count = math.prod(lengths)
    if not count and math.prod(length for length in lengths if length) > _LARGEST_EMPTY:
        raise Refused(f"an empty array has the shape {shown(shape)}")
    return count


def _array(content: object, dtype: np.dtype[Any], shape: tuple[Any, ...], order: str, memory: Memory) -> NDArray[Any]:
    count = _count(shape)
    if not isinstance(content, bytes | bytearray):
        raise Refused(f"the content of an array is {kind(content)}, not bytes")
    if len(content) != count * dtype.itemsize or (count and not dtype.itemsize):
        raise Refused(
            f"an array of shape {shown(shape)} and dtype {dtype} has {len(content)} bytes, not "
            f"{shown(count * dtype.itemsize)}"
        )
    memory.take(len(content) + _ARRAY_BYTES)
    # The length was compared, so the array ends where its memory ends; the copy is its own, and writable.
    array: NDArray[Any] = np.ndarray(shape, dtype, bytearray(content), 0, None, "F" if order == "F" else "C")
    if dtype.kind == "b" and count and array.view(np.uint8).max() > 1:
        raise Refused("an array of truth values has bytes that are neither 0 nor 1")
    if dtype.kind == "U" and count:
        _check_characters(np.frombuffer(content, np.dtype(np.uint32).newbyteorder(dtype.byteorder)))
    # As numpy does for most protocols: who works with the array need not ask for its byte order.
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _check_characters(codes: NDArray[np.uint32]) -> None:
    first, last = _SURROGATES
    if codes.max() > _LAST_CHARACTER or bool(((codes >= first) & (codes <= last)).any()):
        raise Refused("an array of texts has numbers that are no characters")


def _object_array(content: object, shape: tuple[Any, ...], order: str, memory: Memory, again: Again) -> NDArray[Any]:
    """An array of plain values that the reader has built already; `structure` checks them like those of a list."""
    count = _count(shape)
    if type(content) is not list or len(content) != count:
        raise Refused(f"an object array of shape {shown(shape)} does not hold a list of as many values")
    memory.take(16 * count + _ARRAY_BYTES)
    flat = np.empty(count, dtype=object)
    for index, value in enumerate(content):
        flat[index] = again(value)  # the list may still be referred to, so its values now are twice
    return flat.reshape(shape).copy(order="F" if order == "F" else "C")
