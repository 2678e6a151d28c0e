"""Which cells of the canvas each pixel of a network depends on: without a pillar there, its value is the background's.

The cells of a pixel fill a rectangle, whose rows depend on the pixel's row alone and whose columns on its column, for
convolutions and upsampling take both axes apart. A map that several layers write (the neck's concat) depends on the
union of what they read, taken as the rectangle around it: larger is never wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda_engine.plan import FusedConv

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.cuda_engine.plan import HeadsLayer, NetworkPlan

__all__ = ["Reach", "layer_reach", "map_reaches", "upsampled_reach"]


@dataclass(frozen=True, eq=False)
class Reach:
    """First and last row and column of the canvas that pixels depend on; both rise with the pixel.

    Attributes:
        rows: (H, 2) int64, by a pixel's row.
        columns: (W, 2) int64, by a pixel's column.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    def upsampled(self, times: int) -> Reach:
        """Of pixels that a transposed convolution makes, `times` a side of each."""
        return Reach(self.rows.repeat(times, axis=0), self.columns.repeat(times, axis=0))

    def united(self, other: Reach) -> Reach:
        """Of pixels that depend on both."""
        return Reach(_united(self.rows, other.rows), _united(self.columns, other.columns))


def layer_reach(plan: NetworkPlan, layer: FusedConv | HeadsLayer, reaches: dict[str, Reach]) -> Reach:
    """Of a layer's results, before upsampling.

    Args:
        reaches: Of the maps that it reads, as `map_reaches` makes them.
    """
    source = reaches[layer.source]
    if not isinstance(layer, FusedConv) or layer.upsample > 1:
        return source
    target = plan.target(layer)
    return Reach(_convolved(source.rows, layer, target.height), _convolved(source.columns, layer, target.width))


def upsampled_reach(plan: NetworkPlan, conv: FusedConv, reaches: dict[str, Reach]) -> Reach:
    """Of the pixels that a convolution writes; `reaches` as for `layer_reach`."""
    return layer_reach(plan, conv, reaches).upsampled(conv.upsample)


def map_reaches(plan: NetworkPlan) -> dict[str, Reach]:
    """Map or output of a convolution -> its reach; the canvas' is each cell itself."""
    canvas = plan.canvas
    reaches = {canvas.name: Reach(_each(canvas.height), _each(canvas.width))}
    for conv in plan.convs:
        found = upsampled_reach(plan, conv, reaches)
        before = reaches.get(conv.target)
        reaches[conv.target] = before.united(found) if before else found
    return reaches


def _each(size: int) -> NDArray[np.int64]:
    return np.stack([np.arange(size)] * 2, axis=1)


def _convolved(source: NDArray[np.int64], conv: FusedConv, size: int) -> NDArray[np.int64]:
    first = np.arange(size) * conv.stride - conv.padding
    last = np.minimum(first + conv.kernel - 1, len(source) - 1)
    return np.stack([source[np.maximum(first, 0), 0], source[last, 1]], axis=1)


def _united(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 1], b[:, 1])], axis=1)
