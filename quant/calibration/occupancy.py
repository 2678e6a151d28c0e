"""Which cells of a layer's input come from points: the part of a bird's-eye-view tensor that detections depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Occupancy"]

# Canvas cells around a pillar that count as occupied.
_MARGIN = 1


class Occupancy:
    """The cells of one frame that hold a pillar, at any resolution.

    Behind the first layer an empty region is no longer zero: bias and normalization fill it with constants, the same in
    every frame. They are most of a tensor's values, and no detection depends on them.
    """

    def __init__(self, canvas: Tensor) -> None:
        """Args:
        canvas: (N, C, H, W); a cell is occupied when one of its channels, or of a neighbour's, is not 0.
        """
        import torch.nn.functional as F

        cells = (canvas != 0).any(dim=1, keepdim=True).float()
        self._cells = F.max_pool2d(cells, 2 * _MARGIN + 1, 1, _MARGIN)
        self._indices: dict[tuple[int, int], list[Tensor]] = {}

    def select(self, x: Tensor) -> list[Tensor]:
        """The values of `x` (N, C, h, w) in occupied cells: for each sample (C, cells).

        A cell of `x` is occupied when the part of the canvas below it holds a pillar. Tensors of another kind have no
        cells: all of `x` is returned.
        """
        if x.dim() != 4 or len(x) != len(self._cells):
            return [x]
        size = (x.shape[2], x.shape[3])
        if size not in self._indices:
            self._indices[size] = self._at(size)
        return [sample.flatten(1).index_select(1, cells) for sample, cells in zip(x, self._indices[size], strict=True)]

    def _at(self, size: tuple[int, int]) -> list[Tensor]:
        import torch.nn.functional as F

        return [cells.flatten().nonzero()[:, 0] for cells in F.adaptive_max_pool2d(self._cells, size)]
