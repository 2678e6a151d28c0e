"""Stand-ins for torch's names in checkpoints: tensors rebuilt as views of bytes that the file has.

torch's own `_rebuild_…` functions believe what they are told of storages, sizes and strides. Here a storage has as many
bytes as its record; a tensor is a view that lies within its storage, and of a dtype that holds numbers alone.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from base.messages import shown
from base.untrusted.limits import MAX_DIMENSIONS
from base.untrusted.refusal import Refused
from base.untrusted.skipped import Skipped, SkippedName
from base.untrusted.stand_ins import StandIn, kind

__all__ = ["Storages", "TensorBook", "storage_of", "torch_names"]

_DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
    "complex128", "complex32", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz",
)  # fmt: skip
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu", "npu", "meta"})
_LARGEST_EMPTY = 1 << 31
_LARGEST_NUMBER = 1 << 62  # of a size, stride or offset: torch holds them as int64
_TENSOR_BYTES = 4096


class Storages(Protocol):
    """The bytes of a checkpoint's storages."""

    def content(self, key: str, count: int, item_size: int) -> Any:
        """The storage `key` as a tensor (count * item_size,) uint8.

        Raises:
            Refused: the file has no such storage, or it has another size.
        """


class TensorBook:
    """All tensors of a file. Each is counted as if it were copied: views of one storage may repeat its elements.

    Each also counts a few kilobytes for itself, less than the bytes that a tensor of its own takes in a file times 16.
    """

    def __init__(self, torch: Any, file_size: int) -> None:
        self._torch = torch
        self._left = (64 << 20) + 16 * file_size
        self._truth_values: list[Any] = []

    def take(self, size: int) -> None:
        """Books a tensor of `size` bytes, before it is made.

        Raises:
            Refused: the tensors repeat their storages too often.
        """
        self._left -= size + _TENSOR_BYTES
        if self._left < 0:
            raise Refused("its tensors repeat the same bytes so often that copies of them would fill the memory")

    def made(self, tensor: Any) -> Any:
        """Notes a tensor, whose storage may still be empty."""
        if tensor.dtype is self._torch.bool and tensor.numel():
            self._truth_values.append(tensor)
        return tensor

    def check(self) -> None:
        """Checks what no dtype of numbers needs: bytes of truth values. To be called when the storages are filled.

        Raises:
            Refused: a byte is neither 0 nor 1.
        """
        for tensor in self._truth_values:
            if int(tensor.view(self._torch.uint8).max()) > 1:
                raise Refused("a tensor of truth values has bytes that are neither 0 nor 1")


def torch_names(torch: Any, storages: Storages, book: TensorBook) -> dict[tuple[str, str], object]:
    """Stand-ins by module and name; dtypes are constants and stand for themselves.

    Args:
        torch: The module.
        storages: Where tensors' bytes are.
        book: Where tensors are booked.
    """
    rebuild = {
        name: _Rebuild(f"torch._utils.{name}", torch, book)
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
    }
    parameters = {name: _Parameter(f"torch._utils.{name}", torch, book) for name in _PARAMETERS}
    names: dict[tuple[str, str], object] = {("torch", name): getattr(torch, name) for name in _DTYPES}
    names |= {("torch._utils", name): stand_in for name, stand_in in (rebuild | parameters).items()}
    names["torch", "Size"] = _Size("torch.Size", torch)
    names["torch", "device"] = _Device("torch.device", torch)
    names["torch._tensor", "_rebuild_from_type_v2"] = _FromType("torch._tensor._rebuild_from_type_v2")
    names["torch.storage", "UntypedStorage"] = _StorageType("torch.UntypedStorage", None, 1, storages)
    for storage, dtype in _STORAGES.items():
        stand_in = _StorageType(f"torch.{storage}", getattr(torch, dtype), getattr(torch, dtype).itemsize, storages)
        names["torch", storage] = names["torch.cuda", storage] = stand_in
    return names


class _StorageType(StandIn):
    """`torch.FloatStorage` and its kin: what a storage's elements are."""

    __slots__ = ("dtype", "item_size", "storages")

    def __init__(self, what: str, dtype: Any, item_size: int, storages: Storages) -> None:
        super().__init__(what)
        self.dtype, self.item_size, self.storages = dtype, item_size, storages


class _Storage(StandIn):
    """A storage of the file."""

    __slots__ = ("content", "type")

    def __init__(self, content: Any, storage_type: _StorageType) -> None:
        super().__init__(f"a {storage_type.what}")
        self.content, self.type = content, storage_type


def storage_of(identifier: object) -> StandIn:
    """The storage that a checkpoint's pickle refers to; one of unknown type is skipped.

    Raises:
        Refused: the reference is malformed, of an unknown type, or the file lacks it.
    """
    match identifier:
        case (str(), _StorageType() as storage_type, str(key), str(), int(count)) if count >= 0:
            pass
        case (str(), _StorageType() as storage_type, str(key), str(), int(count), None) if count >= 0:
            pass  # files of torch before 1.6 have a sixth value, for views of storages
        case (str(), _StorageType(), str(), str(), int(count), *_):
            raise Refused(f"it has a storage of {shown(count)} elements, or a view of a storage")
        case (str(), SkippedName(what=what), *_):
            return Skipped(what)
        case _:
            raise Refused("it refers to something outside of itself that is no storage")
    return _Storage(storage_type.storages.content(key, count, storage_type.item_size), storage_type)


class _Rebuild(StandIn):
    """`_rebuild_tensor_v2(storage, offset, size, stride, …)`: a view of the storage, inside of it."""

    __slots__ = ("_book", "_torch")

    def __init__(self, what: str, torch: Any, book: TensorBook) -> None:
        super().__init__(what)
        self._torch, self._book = torch, book

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (Skipped(), *_):
                return arguments[0]
            case (_Storage() as storage, int(offset), tuple(size), tuple(stride), *rest):
                pass
            case _:
                raise Refused(f"'{self.what}' is called with something else than a storage, offset, size and stride")
        dtype = storage.type.dtype
        if self.what.endswith("_v3"):
            dtype = rest[2] if len(rest) > 2 else None
            rest[2:3] = []
        if not isinstance(dtype, self._torch.dtype):
            raise Refused(f"{storage.what} has elements of unknown dtype")
        marks = rest[2] if len(rest) > 2 else None
        if marks is not None and (type(marks) is not dict or marks):
            raise Refused("a tensor is marked as conjugate or negative; save it with resolve_conj() and resolve_neg()")
        return self._view(storage.content, dtype, offset, size, stride)

    def _view(self, content: Any, dtype: Any, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Any:
        numbers = (*size, *stride, offset)
        if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise Refused(f"a tensor has the size {shown(size)} and the stride {shown(stride)}")
        if any(type(number) is not int or not 0 <= number < _LARGEST_NUMBER for number in numbers):
            raise Refused(f"a tensor has size, stride and offset {shown(numbers)}")
        available, left_over = divmod(content.numel(), dtype.itemsize)
        count = math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if left_over or (last >= available if count else offset > available):
            raise Refused(
                f"a tensor of size {shown(size)}, stride {shown(stride)} and offset {shown(offset)} "
                f"leads out of its storage of {available} elements"
            )
        if not count and math.prod(length for length in (*size, *stride) if length) > _LARGEST_EMPTY:
            raise Refused(f"an empty tensor has the size {shown(size)} and the stride {shown(stride)}")
        self._book.take(count * dtype.itemsize)
        return self._book.made(content.view(dtype).as_strided(size, stride, offset))


_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")


class _Parameter(StandIn):
    """`_rebuild_parameter(tensor, requires_grad, hooks)`: the tensor as a parameter; hooks and state are left out."""

    __slots__ = ("_book", "_torch")

    def __init__(self, what: str, torch: Any, book: TensorBook) -> None:
        super().__init__(what)
        self._torch, self._book = torch, book

    def call(self, arguments: tuple[object, ...]) -> object:
        torch = self._torch
        if arguments and isinstance(arguments[0], Skipped):
            return arguments[0]
        if len(arguments) < 2 or type(arguments[0]) is not torch.Tensor or type(arguments[1]) is not bool:
            raise Refused(f"'{self.what}' is called with something else than a tensor")
        tensor: Any = arguments[0]
        self._book.take(0)
        differentiable = tensor.is_floating_point() or tensor.is_complex()
        return torch.nn.Parameter(tensor, requires_grad=arguments[1] and differentiable)


class _FromType(StandIn):
    """`_rebuild_from_type_v2(rebuild, class, arguments, attributes)`: the tensor without its class and attributes."""

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (_Rebuild() | _Parameter() as rebuild, StandIn(), tuple(inner), *_):
                return rebuild.call(inner)
            case (SkippedName() as rebuild, *_):
                return Skipped(rebuild.what)
        raise Refused(f"'{self.what}' is called with something else than a way to rebuild a tensor")


class _Size(StandIn):
    """`torch.Size((…))`: a tuple of few integers."""

    __slots__ = ("_torch",)

    def __init__(self, what: str, torch: Any) -> None:
        super().__init__(what)
        self._torch = torch

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (tuple(lengths),) if len(lengths) <= MAX_DIMENSIONS and all(
                type(length) is int and 0 <= length < 1 << 63 for length in lengths
            ):
                return self._torch.Size(lengths)
            case (value,):
                raise Refused(f"'torch.Size' is called with {kind(value)}")
        raise Refused("'torch.Size' is called without lengths")


class _Device(StandIn):
    """`torch.device('cuda', 0)`: a name of the list and a small number; no such device is opened."""

    __slots__ = ("_torch",)

    def __init__(self, what: str, torch: Any) -> None:
        super().__init__(what)
        self._torch = torch

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (str(name),) if name in _DEVICES:
                return self._torch.device(name)
            case (str(name), int(index)) if name in _DEVICES and type(index) is int and 0 <= index < 128:
                return self._torch.device(name, index)
        raise Refused("'torch.device' is called with something else than a device's name and number")
