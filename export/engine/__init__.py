"""ONNX to TensorRT engines: one request, one result, two builders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from export.engine.pipeline import CenterPointTensorRTExportPipeline, EngineSettings
    from export.engine.profiles import default_profiles
    from export.engine.request import EngineBuilder, EngineRequest, EngineResult, ShapeProfile
    from export.engine.selection import BUILDERS, open_engine_builder

__all__ = [
    "BUILDERS",
    "CenterPointTensorRTExportPipeline",
    "EngineBuilder",
    "EngineRequest",
    "EngineResult",
    "EngineSettings",
    "ShapeProfile",
    "default_profiles",
    "open_engine_builder",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "BUILDERS": "selection",
        "CenterPointTensorRTExportPipeline": "pipeline",
        "EngineBuilder": "request",
        "EngineRequest": "request",
        "EngineResult": "request",
        "EngineSettings": "pipeline",
        "ShapeProfile": "request",
        "default_profiles": "profiles",
        "open_engine_builder": "selection",
    },
)
