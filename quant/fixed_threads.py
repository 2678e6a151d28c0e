"""A number of threads that results depend on, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["fixed_threads"]


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Torch works with `count` threads meanwhile, whatever the machine has: sums depend on how they are split."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
