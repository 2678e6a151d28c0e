"""Windows of calibration canvases: small inputs, around what the float model detects, that a network can be trained on.

A window is used as a canvas of its own, by the float and by the quantized network alike, so that its border, at which
both see zeros, favours neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from base.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["WindowSampler"]

# Windows begin at multiples of this, so that strided convolutions see their cells in the phase of the whole canvas.
_PHASE_CELLS = 16


class WindowSampler:
    """Cuts windows from canvases.

    Half of a frame's windows lie around detections of the float model, the others around any cell that has points.
    """

    def __init__(self, *, per_frame: int, heatmap_cells: int, threshold: float, seed: int) -> None:
        """Prepares a sampler.

        Args:
            per_frame: Windows of each canvas.
            heatmap_cells: Side of a window in heatmap cells; cut to the canvas where that is smaller.
            threshold: Score above which a heatmap cell counts as a detection.
            seed: Of the choice.
        """
        self._per_frame = per_frame
        self._cells = heatmap_cells
        self._threshold = threshold
        self._generator = torch.Generator().manual_seed(seed)
        self._windows: list[Tensor] = []
        self._seen = 0

    def add(self, canvas: Tensor, heatmap: Tensor) -> None:
        """Keeps windows of a frame.

        Args:
            canvas: (1, C, H, W).
            heatmap: The float model's heatmap logits for it, (1, classes, h, w).
        """
        self._seen += 1
        size = canvas.shape[-2:]
        stride = size[0] // heatmap.shape[-2]
        occupied = canvas[0].abs().amax(dim=0) > 0
        if not bool(occupied.any()):
            return
        detected = (heatmap[0].amax(dim=0).sigmoid() > self._threshold).nonzero() * stride
        points = occupied.nonzero()
        for index in range(self._per_frame):
            centres = detected if index % 2 == 0 and len(detected) else points
            centre = centres[int(torch.randint(len(centres), (1,), generator=self._generator))].tolist()
            rows, columns = (
                self._span(int(middle), length, stride) for middle, length in zip(centre, size, strict=True)
            )
            self._windows.append(canvas[0, :, rows, columns].detach().cpu().clone())

    def windows(self) -> Tensor:
        """(N, C, cells, cells), float32, on the host.

        Raises:
            DataError: nothing was added, or no cell of it had points.
        """
        if not self._windows:
            raise DataError(
                f"There is nothing to reconstruct on: none of {self._seen} calibration frames has a point in the "
                "model's range."
            )
        return torch.stack(self._windows)

    def _span(self, middle: int, size: int, stride: int) -> slice:
        """A window around `middle`, shifted by up to a quarter of its side, inside the canvas."""
        cells = min(self._cells * stride, size)
        shift = int(torch.randint(-(cells // 4), cells // 4 + 1, (1,), generator=self._generator))
        start = min(max(middle + shift - cells // 2, 0), size - cells)
        start -= start % _PHASE_CELLS
        return slice(start, start + cells)
