"""The product's commands, and the runner of a whole deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from deploy.runner import CenterPointDeploymentRunner
    from export.components import CenterPointComponentExtractor
    from export.engine.pipeline import CenterPointTensorRTExportPipeline
    from export.onnx_export import CenterPointONNXExportPipeline

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
