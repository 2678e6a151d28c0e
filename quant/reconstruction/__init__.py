"""Block-wise reconstruction: adaptive rounding, biases and activation scales learned on calibration frames."""

from __future__ import annotations

from base.lazy import lazy_attributes

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
