"""Block-wise reconstruction: adaptive rounding, biases and activation scales learned on calibration frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from quant.reconstruction.blocks import Block, partition, run_blocks
    from quant.reconstruction.losses import task_loss
    from quant.reconstruction.network import BlockError, BlockResult, reconstruct
    from quant.reconstruction.rounding import AdaptiveRounding
    from quant.reconstruction.settings import ReconstructionSettings
    from quant.reconstruction.windows import WindowSampler

__all__ = [
    "AdaptiveRounding",
    "Block",
    "BlockError",
    "BlockResult",
    "ReconstructionSettings",
    "WindowSampler",
    "partition",
    "reconstruct",
    "run_blocks",
    "task_loss",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "AdaptiveRounding": "rounding",
        "Block": "blocks",
        "BlockError": "network",
        "BlockResult": "network",
        "ReconstructionSettings": "settings",
        "WindowSampler": "windows",
        "partition": "blocks",
        "reconstruct": "network",
        "run_blocks": "blocks",
        "task_loss": "losses",
    },
)
