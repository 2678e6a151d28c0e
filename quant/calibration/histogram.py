"""Streaming histogram of |x| whose content does not depend on how the values arrived.

The bin width is the smallest power of two at which `NUM_BINS` bins hold the largest value seen. When the range grows,
two neighbouring bins fold into one: floor(floor(x / w) / 2) = floor(x / 2w), so a folded histogram equals one that had
the wider bins from the start. Counts are 64-bit integers. Hence any order of the values, any split over processes and
any number of merges give the same histogram, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from base.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["NUM_BINS", "SMALLEST_EXPONENT", "AbsHistogram", "check_finite"]

NUM_BINS = 4096
# Narrower bins would serve tensors whose values are all below 2**-28, far under the smallest scale that FP16 holds.
SMALLEST_EXPONENT = -40
# Values binned at a time: temporaries stay in the processor's cache on a CPU and small on a GPU.
_CHUNK_CPU = 1 << 18
_CHUNK_CUDA = 1 << 24


@dataclass(eq=False)
class AbsHistogram:
    """Counts of |x| in bins [i * width, (i + 1) * width), with exact zeros kept apart.

    Attributes:
        counts: (NUM_BINS,) int64, zeros not included.
        exponent: The bin width is 2**exponent; None while only zeros, or nothing, were seen.
        zeros: Number of values equal to 0.
        max: Largest |x|, exact.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    exponent: int | None = None
    zeros: int = 0
    max: float = 0.0

    @property
    def total(self) -> int:
        """Number of values seen, zeros included."""
        return self.zeros + int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of a bin; 0 while there is none."""
        return 0.0 if self.exponent is None else 2.0**self.exponent

    @property
    def num_used(self) -> int:
        """Bins up to and including the one of the largest value; 0 without a value other than zero."""
        return 0 if self.exponent is None else int(self.max / self.width) + 1

    def edges(self) -> NDArray[np.float64]:
        """(num_used + 1,) limits of the used bins, exact."""
        return np.arange(self.num_used + 1, dtype=np.float64) * self.width

    def used_counts(self, *, with_zeros: bool) -> NDArray[np.int64]:
        """(num_used,) copy of the counts; `with_zeros` adds the zeros to the first bin, where other tools have them."""
        counts = self.counts[: self.num_used].copy()
        if with_zeros and len(counts):
            counts[0] += self.zeros
        return counts

    def observe(self, x: Tensor, name: str = "tensor", frame: str | None = None) -> None:
        """Adds every value of `x`: any shape, floating point, on the CPU or a CUDA device; binned where it lies.

        Args:
            name: Of the tensor, for the error.
            frame: Token of the frame that runs, for the error.

        Raises:
            DataError: a value is NaN or infinite; nothing is added.
        """
        import torch

        flat = x.detach().reshape(-1).float()
        if flat.numel() == 0:
            return
        lowest, highest = torch.aminmax(flat)
        largest = max(-lowest.item(), highest.item())
        # aminmax hands a NaN on; `max` above may lose it, hence the second condition.
        if not math.isfinite(largest) or not math.isfinite(highest.item()):
            check_finite(flat, name, frame)
        if largest == 0.0:
            self.zeros += flat.numel()
            return
        self.make_room(largest)
        assert self.exponent is not None
        per_bin = 2.0**-self.exponent
        counts = torch.zeros(NUM_BINS, dtype=torch.int64, device=flat.device)
        num_nonzero = 0
        for part in torch.split(flat, _CHUNK_CUDA if flat.is_cuda else _CHUNK_CPU):
            # Multiplying by a power of two is exact, so that truncation gives the true bin.
            counts += torch.bincount((part.abs() * per_bin).to(torch.int64), minlength=NUM_BINS)
            num_nonzero += int(torch.count_nonzero(part))
        zeros = flat.numel() - num_nonzero
        added: NDArray[np.int64] = counts.cpu().numpy()
        added[0] -= zeros
        self.counts += added
        self.zeros += zeros
        self.max = max(self.max, largest)

    def merge(self, other: AbsHistogram) -> None:
        """Adds what `other` has seen; `other` is left as it is."""
        self.zeros += other.zeros
        if other.exponent is None:
            return
        self.make_room(other.max)
        assert self.exponent is not None
        self.counts += _folded(other.counts, self.exponent - other.exponent)
        self.max = max(self.max, other.max)

    def share_above(self, limit: float) -> float:
        """Share of all values, zeros included, in bins that begin at or above `limit`."""
        if self.exponent is None or self.total == 0:
            return 0.0
        first = min(max(math.ceil(limit / self.width), 0), NUM_BINS)
        return int(self.counts[first:].sum()) / self.total

    def make_room(self, largest: float) -> None:
        """Folds until `largest`, positive, has a bin: the width depends on the largest value alone."""
        # frexp: largest = m * 2**e with m < 1, so e - 12 is the smallest exponent whose 4096 bins hold it.
        needed = max(math.frexp(largest)[1] - (NUM_BINS.bit_length() - 1), SMALLEST_EXPONENT)
        if self.exponent is None:
            self.exponent = needed
        elif needed > self.exponent:
            self.counts = _folded(self.counts, needed - self.exponent)
            self.exponent = needed


def check_finite(x: Tensor, name: str, frame: str | None) -> None:
    """Raises the DataError that names a tensor's first NaN or infinite value, its number of them and the frame."""
    import torch

    bad = ~torch.isfinite(x.detach().reshape(-1))
    count = int(bad.sum())
    if count == 0:
        return
    first = int(torch.nonzero(bad)[0, 0])
    value = x.detach().reshape(-1)[first].item()
    raise DataError(
        f"The input of quantizer '{name}' holds {count} NaN or infinite values of {bad.numel()} (the first, at "
        f"position {first}, is {value}){f' in frame {frame!r}' if frame is not None else ''}. Check that frame's "
        "points, and the checkpoint with the float model; no scale can be chosen from such values."
    )


def _folded(counts: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """`counts` with bins 2**times as wide; a new array."""
    folded = np.zeros(NUM_BINS, np.int64)
    # Twelve folds leave one bin; a hundred leave the same.
    times = min(times, NUM_BINS.bit_length() - 1)
    kept = NUM_BINS >> times
    folded[:kept] = counts.reshape(kept, -1).sum(axis=1)
    return folded
