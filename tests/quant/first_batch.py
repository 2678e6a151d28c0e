"""The bins of pytorch_quantization's and ModelOpt's histogram calibrators, for comparisons with them.

Their bins follow the first batch: 2048 from 0 to its largest value. Later batches with a larger one get more bins of
that width. So the result depends on which frame comes first; calibration itself uses `AbsHistogram`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quant.calibration.histogram import check_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["FirstBatchHistogram"]

# `torch.histc` counts in float32, exact up to here.
_CHUNK = 1 << 24


class FirstBatchHistogram:
    """Histogram of |x|, binned as `HistogramCalibrator(torch_hist=True)` bins, counted in 64-bit integers.

    The peers count in float32, which stops at 2**24 a bin: a 760 x 760 canvas fills its bin of zeros in one frame.
    Below that the counts are equal.
    """

    def __init__(self, num_bins: int = 2048) -> None:
        self._num_bins = num_bins
        self._edges: Tensor | None = None
        self.counts: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def edges(self) -> NDArray[np.float32]:
        """(bins + 1,) limits of the bins; empty before the first batch."""
        if self._edges is None:
            return np.zeros(0, np.float32)
        edges: NDArray[np.float32] = self._edges.cpu().numpy()
        return edges

    def observe(self, x: Tensor, name: str = "tensor", frame: str | None = None) -> None:
        """Adds every value of `x`.

        Raises:
            DataError: a value is NaN or infinite.
        """
        import torch

        check_finite(x, name, frame)
        values = x.detach().reshape(-1).float().abs()
        largest = values.max()
        if self._edges is None:
            self._edges = torch.linspace(0, largest, self._num_bins + 1)
            upper = largest.item()
        else:
            if largest > self._edges[-1]:
                width = self._edges[1] - self._edges[0]
                self._num_bins = int((largest / width).ceil().item())
                self._edges = torch.arange(0, (largest + width).item(), width.item(), device=values.device)
            upper = self._edges[-1].item()
        counts = np.zeros(self._num_bins, np.int64)
        for part in torch.split(values, _CHUNK):
            counts += torch.histc(part, bins=self._num_bins, min=0, max=upper).to(torch.int64).cpu().numpy()
        counts[: len(self.counts)] += self.counts
        self.counts = counts
