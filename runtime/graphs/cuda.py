"""The exported ONNX files on fused kernels of our own for Hopper GPUs, from points to boxes in one CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.arguments import DEFAULT_POINTS
from base.errors import BackendUnavailable, ConfigError
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER
from runtime.backends.base import component_paths, device_index
from runtime.decoders import TRAINING_DECODER, Decoder
from runtime.graphs.detector import GraphDetector

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.spec import ModelSpec

__all__ = ["open_cuda_graph"]

# The kernels' instructions exist on this compute capability alone: H100, H200, GH200.
_CAPABILITY = (9, 0)


def open_cuda_graph(
    *,
    spec: ModelSpec,
    onnx_dir: Path,
    device: str = "cuda:0",
    files: Mapping[str, str] | None = None,
    capacity: int = DEFAULT_POINTS,
    skips_empty: bool = True,
    decoder: Decoder = TRAINING_DECODER,
) -> GraphDetector:
    """Opens `<component>.onnx` of a folder, in INT8 where they hold Q/DQ pairs and in FP16 elsewhere.

    Args:
        onnx_dir: Folder of the files.
        files: Component name -> file name in the folder; `<component>.onnx` by default.
        capacity: Most points of a cloud.
        skips_empty: Leave out what no pillar reaches; boxes are the same, to the last bit.
        decoder: What makes boxes; the training framework's on the device.

    Raises:
        ConfigError: the device is no CUDA device, a file is missing, or the kernels do not take the model.
        ExportError: a file holds a node that the engine does not run; the message names it.
        BackendUnavailable: no driver, no device, or one of another generation.
    """
    index = device_index(device)
    if index is None:
        raise ConfigError("Backend 'cuda' runs on a GPU: its device is 'cpu', use 'cuda:0'.")
    paths = component_paths(spec, onnx_dir, ".onnx", files, "Export it with --mode=onnx.")
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.frame import DeviceFrame
    from runtime.cuda_engine.from_onnx import plan_from_onnx
    from runtime.pillar_weights import PillarWeights

    gpu = CudaDevice.open(index)
    try:
        if gpu.compute_capability != _CAPABILITY:
            capability = ".".join(map(str, gpu.compute_capability))
            raise BackendUnavailable(
                "The 'cuda' backend's kernels are written for compute capability 9.0 (H100, H200); "
                f"cuda:{index} is {gpu.name} with {capability}. Use the tensorrt or onnx backend."
            )
        plan = plan_from_onnx(paths[BACKBONE_NECK_HEAD], spec)
        weights = PillarWeights.from_onnx(paths[VOXEL_ENCODER])
        frame = DeviceFrame(gpu, spec, plan, weights, capacity=capacity, skips_empty=skips_empty)
    except BaseException:
        gpu.close()
        raise
    return GraphDetector(spec, "cuda", f"cuda:{index}", frame, gpu.close, decoder)
