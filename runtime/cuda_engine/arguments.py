"""Arguments of the tensor cores' kernels as C structures, byte for byte those of kernels/conv.cu and kernels/heads.cu.

Their sizes go into the sources, where they are compared with the kernels' own structures.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["ConvArguments", "heads_arguments"]


class ConvArguments(ctypes.Structure):
    """`Geometry` of kernels/conv.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("input", "output", "weights", "affine")),
        *((name, ctypes.c_int) for name in ("in_pitch", "out_pitch")),
        *((name, ctypes.c_longlong) for name in ("in_plane", "out_plane")),
        *((name, ctypes.c_int) for name in ("height", "width", "tiles_x", "tiles", "column_tiles", "channels")),
    ]


@cache
def heads_arguments(branches: int) -> Any:
    """`Heads` of kernels/heads.cu for that many branches: a `ctypes.Structure`."""

    class HeadsArguments(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_void_p) for name in ("input", "hidden", "last", "affine", "bias")),
            ("outputs", ctypes.c_void_p * branches),
            ("channels", ctypes.c_int * branches),
            ("in_pitch", ctypes.c_int),
            ("in_plane", ctypes.c_longlong),
            *((name, ctypes.c_int) for name in ("height", "width", "tiles_x", "tiles")),
        ]

    return HeadsArguments
