"""Parts of a convolution's input that tiles may leave out, because nothing but background lies there.

The neck joins branches of several resolutions, and a pillar spreads furthest through the coarsest: where it alone
brings a tile to life, the tile's input in the finer branches is that of an empty canvas. Away from the canvas' border
this is one vector of codes, or behind a transposed convolution of stride k one that repeats every k pixels, so that
such a part adds a constant to each column's sum. Sums of integers are the same in any order: a tile that leaves the
part out and adds the constant has the result of all parts, bit for bit. Tiles whose part is not such on an empty
canvas always read it. Sums of float16 products depend on their order: there every part is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda_engine.packing import column_channels
from runtime.cuda_engine.reach import layer_reach, upsampled_reach

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from runtime.cuda_engine.plan import FusedConv, HeadsLayer, NetworkPlan
    from runtime.cuda_engine.reach import Reach
    from runtime.cuda_engine.tiling import ConvTiling

__all__ = ["MOST_PARTS", "PartsBackground", "part_reaches", "parts_background", "with_parts"]

# Bits of a tile's word: a definition of kernels/tiles.cuh.
MOST_PARTS = 4
# Constants of a layer stay near the multiprocessors: 64 of each column and part at most.
_MOST_PERIOD = 8


def with_parts(plan: NetworkPlan, conv: FusedConv, tiling: ConvTiling) -> ConvTiling:
    """A layer's tiling with the parts that its tiles may leave out one by one: what each layer in front of it writes.

    They are equally wide, made of whole slabs, and INT8; else there is one part, which is always read.
    """
    writers = _writers(plan, conv)
    if not tiling.in_int8 or conv.upsample > 1 or not 1 < len(writers) <= MOST_PARTS:
        return tiling
    whole = conv.source_channel == 0 and sum(writer.out_channels for writer in writers) == conv.in_channels
    alike = len({writer.out_channels for writer in writers}) == 1 and tiling.slabs % len(writers) == 0
    period = math.lcm(*(writer.upsample for writer in writers))
    if not whole or not alike or period > _MOST_PERIOD:
        return tiling
    return replace(tiling, parts=len(writers), period=period)


def part_reaches(
    plan: NetworkPlan, layer: FusedConv | HeadsLayer, parts: int, reaches: dict[str, Reach]
) -> tuple[Reach, ...]:
    """Of a layer's results, before upsampling, by way of each part of its input.

    Args:
        plan: The network.
        layer: Of it.
        parts: Of its tiling.
        reaches: Of the maps, as `map_reaches` makes them.
    """
    if parts == 1:
        return (layer_reach(plan, layer, reaches),)
    ends = [upsampled_reach(plan, writer, reaches) for writer in _writers(plan, layer)]
    return tuple(layer_reach(plan, layer, {layer.source: end}) for end in ends)


@dataclass(frozen=True, eq=False)
class PartsBackground:
    """What a layer's tiles add in place of the parts that they leave out.

    Attributes:
        sums: (parts, period, period, columns) int32: what a part of background alone comes to, by the row and the
            column of the pixel modulo the period; columns in the kernel's order.
        always: (rows, columns of tiles) uint8: a bit for each part that a tile reads in every frame.
    """

    sums: NDArray[np.int32]
    always: NDArray[np.uint8]


def parts_background(
    conv: FusedConv, tiling: ConvTiling, empty: Iterable[NDArray[np.int8]], size: tuple[int, int]
) -> PartsBackground:
    """Looks at the input of a layer on an empty canvas.

    Args:
        conv: The layer.
        tiling: How it is cut, with its parts.
        empty: Of each part, in order: (chunks, height + 2, width + 2, 16) codes of the input with its border.
        size: Rows and columns that the layer writes.
    """
    channels = column_channels(conv, tiling)[:, 0]
    width, period = conv.in_channels // tiling.parts, tiling.period
    sums = np.zeros((tiling.parts, period, period, len(channels)), np.int32)
    always = np.zeros((-(-size[0] // tiling.tile_rows), -(-size[1] // tiling.tile_columns)), np.uint8)
    for part, codes in enumerate(empty):
        pattern = _pattern(codes, period)
        weight = conv.weight[:, part * width : (part + 1) * width].astype(np.int64)
        sums[part] = _sums(pattern, weight, conv)[..., channels]
        always += _any_in_tiles(_differs(codes, pattern), conv, tiling, size).astype(np.uint8) * np.uint8(1 << part)
    return PartsBackground(sums, always)


def _writers(plan: NetworkPlan, layer: FusedConv | HeadsLayer) -> list[FusedConv]:
    return sorted((conv for conv in plan.convs if conv.target == layer.source), key=lambda conv: conv.target_channel)


def _pattern(codes: NDArray[np.int8], period: int) -> NDArray[np.int8]:
    """(chunks, period, period, 16) codes in the middle of a padded map, by row and column modulo the period."""
    # Row 0 of the map is row 1 of the padded one.
    first = [length // 2 // period * period + 1 for length in codes.shape[1:3]]
    return codes[:, first[0] : first[0] + period, first[1] : first[1] + period]


def _sums(pattern: NDArray[np.int8], weight: NDArray[np.int64], conv: FusedConv) -> NDArray[np.int64]:
    """(period, period, C_out): the convolution of an endless pattern."""
    period = pattern.shape[1]
    vectors = pattern.transpose(1, 2, 0, 3).reshape(period, period, -1).astype(np.int64)
    sums = np.zeros((period, period, len(weight)), np.int64)
    places = np.arange(period) * conv.stride - conv.padding
    for tap_y in range(conv.kernel):
        for tap_x in range(conv.kernel):
            read = vectors[np.ix_((places + tap_y) % period, (places + tap_x) % period)]
            sums += read @ weight[:, :, tap_y, tap_x].T
    return sums


def _differs(codes: NDArray[np.int8], pattern: NDArray[np.int8]) -> NDArray[np.bool_]:
    """(height + 2, width + 2): the pixels of a padded map that are not those of an endless pattern."""
    period = pattern.shape[1]
    rows, columns = ((np.arange(length) - 1) % period for length in codes.shape[1:3])
    differs: NDArray[np.bool_] = np.zeros(codes.shape[1:3], bool)
    for chunk, expected in zip(codes, pattern, strict=True):
        # Sixteen codes are two words.
        words, right = chunk.view(np.uint64), np.ascontiguousarray(expected).view(np.uint64)
        differs |= (words != right[rows][:, columns]).any(axis=-1)
    return differs


def _any_in_tiles(
    differs: NDArray[np.bool_], conv: FusedConv, tiling: ConvTiling, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Whether a pixel that a tile's results depend on is set; `differs` is of the padded map."""
    sums = np.zeros((differs.shape[0] + 1, differs.shape[1] + 1), np.int64)
    sums[1:, 1:] = differs.cumsum(axis=0).cumsum(axis=1)
    (top, bottom), (left, right) = (
        _read_by_tiles(conv, step, count, length)
        for step, count, length in zip((tiling.tile_rows, tiling.tile_columns), size, differs.shape, strict=True)
    )
    held = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    found: NDArray[np.bool_] = held > 0
    return found


def _read_by_tiles(conv: FusedConv, step: int, count: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First input pixel of each tile along an axis, and the one behind its last, in the padded map."""
    first = np.arange(0, count, step)
    last = np.minimum(first + step, count) - 1
    begin = first * conv.stride - conv.padding + 1
    end = last * conv.stride - conv.padding + conv.kernel + 1
    return np.maximum(begin, 0), np.minimum(end, length)
