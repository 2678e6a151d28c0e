"""The model inside a Runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmengine.model import is_model_wrapper

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ["unwrapped_model"]


def unwrapped_model(runner: Runner) -> Any:
    """The detector itself, without the wrapper that distributed training puts around it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
