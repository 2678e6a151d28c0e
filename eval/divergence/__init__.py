"""Which layer two backends part at: bisection on intermediate tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from eval.divergence.bisection import Bisection, Divergence
    from eval.divergence.onnx_graph import OnnxGraph
    from eval.divergence.search import find_divergences
    from eval.divergence.torch_modules import TorchModules
    from eval.divergence.weights import WeightDifference

__all__ = ["Bisection", "Divergence", "OnnxGraph", "TorchModules", "WeightDifference", "find_divergences"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Bisection": "bisection",
        "Divergence": "bisection",
        "OnnxGraph": "onnx_graph",
        "TorchModules": "torch_modules",
        "WeightDifference": "weights",
        "find_divergences": "search",
    },
)
