"""Points to boxes on any backend, without mmdet3d."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = [
    "Backend",
    "BackendOutput",
    "Inference",
    "LatencyRecorder",
    "LatencyStats",
    "Pipeline",
    "circle_nms",
    "open_backend",
    "voxelize",
]

# `decode`, `preprocess` and `scatter` share their module's name and are imported from there:
# `from runtime.decode import decode`.
__getattr__ = lazy_attributes(
    __name__,
    {
        "Backend": "backends.base",
        "BackendOutput": "backends.base",
        "Inference": "pipeline",
        "LatencyRecorder": "latency",
        "LatencyStats": "latency",
        "Pipeline": "pipeline",
        "circle_nms": "nms",
        "open_backend": "backends",
        "voxelize": "preprocess",
    },
)
