"""Points to boxes on any backend, without mmdet3d."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = [
    "AutowareDecodeParams",
    "Backend",
    "BackendOutput",
    "Inference",
    "LatencyRecorder",
    "LatencyStats",
    "Pipeline",
    "circle_nms",
    "decode_autoware",
    "open_backend",
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
        "Inference": "pipeline",
        "LatencyRecorder": "latency",
        "LatencyStats": "latency",
        "Pipeline": "pipeline",
        "circle_nms": "nms",
        "decode_autoware": "autoware_postprocess",
        "open_backend": "backends",
        "voxelize": "preprocess",
    },
)
