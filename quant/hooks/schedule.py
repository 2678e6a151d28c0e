"""The learning rate of a fine-tuning."""

from __future__ import annotations

from typing import Any

__all__ = ["fine_tuning_schedule"]

_WARM_UP_SHARE = 0.05
_START_DIVISOR = 10.0
_FINAL_LR_SHARE = 0.01


def fine_tuning_schedule(length: int, lr: float, *, by_epoch: bool = True) -> list[dict[str, Any]]:
    """mmengine's `param_scheduler` for it, iteration by iteration.

    From a tenth of `lr` up to it in a twentieth of the training, then along a cosine down to a hundredth.

    Args:
        length: Epochs of the training, or its iterations.
        lr: The largest rate.
        by_epoch: What `length` counts.
    """
    return [
        {
            "type": "OneCycleLR",
            "eta_max": lr,
            "pct_start": _WARM_UP_SHARE,
            "div_factor": _START_DIVISOR,
            "final_div_factor": 1 / (_FINAL_LR_SHARE * _START_DIVISOR),
            "by_epoch": by_epoch,
            "convert_to_iter_based": by_epoch,
            "total_steps": length,
        }
    ]
