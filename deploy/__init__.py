"""The product's commands: configuration, ONNX export, engines, verification and evaluation in one run."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = [
    "CenterPointComponentExtractor",
    "CenterPointDeploymentRunner",
    "CenterPointONNXExportPipeline",
    "CenterPointTensorRTExportPipeline",
    "OnnxExportSettings",
    "convert_precision",
    "export_components",
    "open_engine_builder",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "CenterPointComponentExtractor": "components",
        "CenterPointDeploymentRunner": "runner",
        "CenterPointONNXExportPipeline": "onnx_export",
        "CenterPointTensorRTExportPipeline": "engine.pipeline",
        "OnnxExportSettings": "onnx_export",
        "convert_precision": "precision",
        "export_components": "onnx_export",
        "open_engine_builder": "engine.selection",
    },
)
