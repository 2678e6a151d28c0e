"""From a model to files: components, ONNX graphs, precision, Q/DQ, engines, and manifests of what made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from export.components import CenterPointComponentExtractor
    from export.engine.pipeline import CenterPointTensorRTExportPipeline
    from export.engine.selection import open_engine_builder
    from export.onnx_export import CenterPointONNXExportPipeline, OnnxExportSettings, export_components
    from export.precision import convert_precision

__all__ = [
    "CenterPointComponentExtractor",
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
        "CenterPointONNXExportPipeline": "onnx_export",
        "CenterPointTensorRTExportPipeline": "engine.pipeline",
        "OnnxExportSettings": "onnx_export",
        "convert_precision": "precision",
        "export_components": "onnx_export",
        "open_engine_builder": "engine.selection",
    },
)
