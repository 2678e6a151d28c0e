"""Arguments of the tensor cores' kernels as C structures, byte for byte those of kernels/.

Their sizes go into the sources, where they are compared with the kernels' own structures.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["ConvArguments", "TilesArguments", "heads_arguments"]


class TilesArguments(ctypes.Structure):
    """`Tiles` of kernels/tiles.cuh: `list` and `counts` are 0 where all tiles are computed."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("list", "counts")),
        *((name, ctypes.c_int) for name in ("across", "all")),
    ]


class ConvArguments(ctypes.Structure):
    """`Geometry` of kernels/conv_geometry.cuh."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("output", "weights", "affine", "background")),
        ("out_plane", ctypes.c_longlong),
        ("tiles", TilesArguments),
        *((name, ctypes.c_int) for name in ("out_pitch", "height", "width", "column_tiles", "channels")),
    ]


@cache
def heads_arguments(branches: int) -> Any:
    """`Heads` of kernels/heads.cu for that many branches: a `ctypes.Structure`."""

    class HeadsArguments(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_void_p) for name in ("hidden", "last", "affine", "bias")),
            ("outputs", ctypes.c_void_p * branches),
            ("channels", ctypes.c_int * branches),
            ("tiles", TilesArguments),
            *((name, ctypes.c_int) for name in ("height", "width")),
        ]

    return HeadsArguments
