"""Points to boxes on any backend, without mmdet3d."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from runtime.autoware_params import AutowareDecodeParams
    from runtime.autoware_postprocess import decode_autoware
    from runtime.backends import open_backend
    from runtime.backends.base import Backend, BackendOutput
    from runtime.counts import VoxelCounts
    from runtime.detector import Detector, Inference, InspectableDetector, Inspection
    from runtime.latency import LatencyRecorder, LatencyStats
    from runtime.nms import circle_nms
    from runtime.opening import open_detector
    from runtime.pipeline import Pipeline
    from runtime.preprocess import voxelize

__all__ = [
    "AutowareDecodeParams",
    "Backend",
    "BackendOutput",
    "Detector",
    "Inference",
    "InspectableDetector",
    "Inspection",
    "LatencyRecorder",
    "LatencyStats",
    "Pipeline",
    "VoxelCounts",
    "circle_nms",
    "decode_autoware",
    "open_backend",
    "open_detector",
    "voxelize",
]

# `decode`, `preprocess` and `scatter` share their module's name and are imported from there:
# `from runtime.decode import decode`.
__getattr__ = lazy_attributes(
    __name__,
    {
        "AutowareDecodeParams": "autoware_params",
        "Backend": "backends.base",
        "BackendOutput": "backends.base",
        "Detector": "detector",
        "Inference": "detector",
        "InspectableDetector": "detector",
        "Inspection": "detector",
        "LatencyRecorder": "latency",
        "LatencyStats": "latency",
        "Pipeline": "pipeline",
        "VoxelCounts": "counts",
        "circle_nms": "nms",
        "decode_autoware": "autoware_postprocess",
        "open_backend": "backends",
        "open_detector": "opening",
        "voxelize": "preprocess",
    },
)
