"""The engine's networks with drawn weights, of the released sizes: a benchmark of times needs no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.frame import DeviceFrame
    from runtime.cuda_engine.plan import MapType
    from runtime.graphs.detector import GraphDetector

__all__ = ["DRAWN", "drawn_detector", "drawn_frame", "drawn_spec"]

DRAWN = ("released", "stock")
"""The released models' 760 x 760, and MMDetection3D's stock pillar model of six tasks."""


def drawn_spec(name: str) -> ModelSpec:
    """Of `DRAWN`."""
    from runtime.cuda_engine.checks.cases import engine_spec, stock_spec

    return stock_spec() if name == "stock" else engine_spec(760)


def drawn_frame(device: CudaDevice, name: str, capacity: int, precision: MapType = "int8") -> DeviceFrame:
    """Points to boxes of one of `DRAWN`.

    Args:
        capacity: Most points of a cloud.
        precision: "int8" or "float16".
    """
    from runtime.cuda_engine.checks.cases import random_weights
    from runtime.cuda_engine.checks.frame_checks import stock_architecture
    from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
    from runtime.cuda_engine.frame import DeviceFrame

    spec = drawn_spec(name)
    architecture = stock_architecture(spec) if name == "stock" else Architecture((760, 760))
    weights = random_weights(spec, 0 if name == "stock" else 16)
    return DeviceFrame(device, spec, random_plan(architecture, precision), weights, capacity=capacity)


def drawn_detector(name: str, device: int, capacity: int, precision: MapType = "int8") -> GraphDetector:
    """The same as a detector that owns its device.

    Raises:
        BackendUnavailable: no driver or no device.
    """
    from runtime.cuda.device import CudaDevice
    from runtime.graphs.detector import GraphDetector

    gpu = CudaDevice.open(device)
    try:
        frame = drawn_frame(gpu, name, capacity, precision)
    except BaseException:
        gpu.close()
        raise
    return GraphDetector(drawn_spec(name), "cuda", f"cuda:{device}", frame, gpu.close)
