"""The TensorRT libraries that can build engines."""

from __future__ import annotations

from export.engine.network import Dialect

__all__ = ["DIALECTS", "TENSORRT", "TENSORRT_RTX"]

# Compiles kernels on the machine that runs the engine; building needs no GPU.
TENSORRT_RTX = Dialect(
    name="tensorrt_rtx",
    module="tensorrt_rtx_bindings",
    title="TensorRT-RTX",
    always_strongly_typed=True,
    needs_gpu=False,
    has_timing_cache=False,
    compute_capabilities=True,
    oldest=(1, 0),
)

# Data centre and Jetson; measures tactics on the GPU it builds for.
TENSORRT = Dialect(
    name="tensorrt",
    module="tensorrt",
    title="TensorRT",
    always_strongly_typed=False,
    needs_gpu=True,
    has_timing_cache=True,
    compute_capabilities=False,
    oldest=(10, 0),
)

DIALECTS = {dialect.name: dialect for dialect in (TENSORRT_RTX, TENSORRT)}
