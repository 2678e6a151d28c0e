"""The product's commands, and the runner of a whole deployment."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = [
    "CenterPointComponentExtractor",
    "CenterPointDeploymentRunner",
    "CenterPointONNXExportPipeline",
    "CenterPointTensorRTExportPipeline",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "CenterPointComponentExtractor": "//export.components",
        "CenterPointDeploymentRunner": "runner",
        "CenterPointONNXExportPipeline": "//export.onnx_export",
        "CenterPointTensorRTExportPipeline": "//export.engine.pipeline",
    },
)
