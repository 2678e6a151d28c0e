"""Seeds and thread counts, set in one place."""

from __future__ import annotations

import os
import random
import sys

import numpy as np

__all__ = ["set_determinism"]


def set_determinism(seed: int = 0, threads: int | None = None) -> None:
    """Fixes the seeds of `random`, numpy and (if it is already imported) torch, and torch's thread count.

    Torch's results depend on how a sum is split over threads; artifacts whose bytes must repeat use `threads=1`.

    Args:
        seed: For every generator.
        threads: Intra-op threads of torch; None leaves it.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - mmdet3d's transforms draw from the legacy generator
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch = sys.modules.get("torch")
    if torch is None:
        return
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
