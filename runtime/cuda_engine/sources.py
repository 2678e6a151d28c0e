"""CUDA C++ of the kernels: the files of kernels/, their definitions, and the products as inline assembly."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from runtime.cuda_engine.arguments import ConvArguments, heads_arguments
from runtime.cuda_engine.macros import kernel_source
from runtime.cuda_engine.parts import MOST_PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARCHITECTURE", "conv_source", "heads_source", "product"]

# The kernels use instructions that this architecture alone has (wgmma, setmaxnreg).
ARCHITECTURE = "sm_90a"


def conv_source(macros: Mapping[str, int]) -> str:
    """Kernel `conv` for one tiling: of kernels/conv_rows.cu with channels as rows, else of kernels/conv.cu."""
    as_rows, int8 = macros["CHANNELS_AS_ROWS"], bool(macros["IN_INT8"])
    columns = macros["BLOCK_ROWS"] * 8 if as_rows else macros["N_TILE"]
    products = (
        product("multiply", columns, int8=int8),
        product("multiply_registers", columns, int8=int8, registers=True),
    )
    kernel = ("conv_rows_store.cuh", "conv_rows.cu") if as_rows else ("conv_store.cuh", "conv.cu")
    files = (*(() if as_rows else ("blocks.cuh",)), "conv_geometry.cuh", "conv_ring.cuh", *kernel)
    return _source(macros, ctypes.sizeof(ConvArguments), products, files)


def heads_source(macros: Mapping[str, int]) -> str:
    """Kernel `heads` of kernels/heads.cu."""
    products = (
        product("multiply", macros["HIDDEN"], int8=bool(macros["IN_INT8"])),
        product("multiply_last", macros["LAST_TILE"], int8=False, registers=True),
    )
    return _source(macros, ctypes.sizeof(heads_arguments(macros["BRANCHES"])), products, ("blocks.cuh", "heads.cu"))


def product(name: str, columns: int, *, int8: bool, registers: bool = False) -> str:
    """A device function that adds (or, for add = 0, assigns) a 64 x `columns` product to its accumulators.

    One instruction `wgmma.mma_async`, K being 32 bytes. The right operand lies in shared memory, the left one there too
    or, with `registers`, in four registers of each thread.
    """
    count = columns // 2
    left = 4 if registers else 1
    accumulators = ", ".join(f"%{i}" for i in range(count))
    operand = "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}" if registers else f"%{count}"
    kind, constraint, shape = ("int", "r", "32.s32.s8.s8") if int8 else ("float", "f", "16.f32.f16.f16")
    # Neither operand negated, neither transposed: immediates that the integer form does not have.
    flags = "" if int8 else ", 1, 1, 0" + ("" if registers else ", 0")
    outputs = ", ".join(f'"+{constraint}"(d[{i}])' for i in range(count))
    inputs = ", ".join(f'"r"(a[{i}])' for i in range(4)) if registers else '"l"(a)'
    return (
        f"__device__ __forceinline__ void {name}(\n"
        f"    {kind} (&d)[{count}], {'const u32 (&a)[4]' if registers else 'u64 a'}, u64 b, int add)\n"
        "{\n"
        f'    asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{count + left + 1}, 0;\\n"\n'
        f'        "wgmma.mma_async.sync.aligned.m64n{columns}k{shape} "\n'
        f'        "{{{accumulators}}}, {operand}, %{count + left}, p{flags};\\n}}\\n"\n'
        f'        : {outputs} : {inputs}, "l"(b), "r"(add));\n'
        "}\n"
    )


def _source(macros: Mapping[str, int], argument_bytes: int, products: tuple[str, ...], files: tuple[str, ...]) -> str:
    common = ("overlap.cuh", "hopper.cuh", "tiles.cuh")
    head = kernel_source({**macros, "ARGUMENT_BYTES": argument_bytes, "MOST_PARTS": MOST_PARTS}, *common)
    return "\n".join([head, *products, kernel_source({}, *files)])
