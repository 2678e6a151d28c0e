"""Points to boxes on any backend, without mmdet3d."""

from __future__ import annotations

from base.lazy import lazy_attributes

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
