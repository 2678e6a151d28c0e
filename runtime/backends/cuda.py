"""The exported ONNX files on fused kernels of our own for Hopper GPUs, from points to boxes in one CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.errors import BackendUnavailable, ConfigError, DataError
from models.spec import BACKBONE_NECK_HEAD, INPUT_FEATURES, PILLAR_FEATURES, SPATIAL_FEATURES, VOXEL_ENCODER
from runtime.backends.base import Backend, BackendOutput, PointDetections, device_index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.frame import DeviceFrame

__all__ = ["CudaBackend"]

# The kernels' instructions exist on this compute capability alone: H100, H200, GH200.
_CAPABILITY = (9, 0)


class CudaBackend(Backend):
    """Runs `<component>.onnx` of a folder, in INT8 where they hold Q/DQ pairs and in FP16 elsewhere.

    `detect` goes from points to boxes on the device. `infer` and `run` bring every output to the host, for
    verification: they go through the same kernels.
    """

    name = "cuda"
    detects_points = True

    def __init__(
        self,
        *,
        spec: ModelSpec,
        onnx_dir: Path,
        device: str = "cuda:0",
        files: Mapping[str, str] | None = None,
        capacity: int = 1 << 18,
    ) -> None:
        """Args:
            onnx_dir: Folder of the files.
            files: Component name -> file name in the folder; `<component>.onnx` by default.
            capacity: Most points of a cloud.

        Raises:
            ConfigError: the device is no CUDA device, a file is missing, or the kernels do not take the model.
            ExportError: a file holds a node that the engine does not run; the message names it.
            BackendUnavailable: no driver, no device, or one of another generation.
        """
        index = device_index(device)
        if index is None:
            raise ConfigError("Backend 'cuda' runs on a GPU: its device is 'cpu', use 'cuda:0'.")
        super().__init__(spec, f"cuda:{index}")
        paths = self._onnx_paths(onnx_dir, files)
        from runtime.cuda.device import CudaDevice
        from runtime.cuda_engine.dense_canvas import DenseCanvas

        gpu = CudaDevice.open(index)
        self._gpu: CudaDevice | None = gpu
        try:
            if gpu.compute_capability != _CAPABILITY:
                capability = ".".join(map(str, gpu.compute_capability))
                raise BackendUnavailable(
                    "The 'cuda' backend's kernels are written for compute capability 9.0 (H100, H200); "
                    f"cuda:{index} is {gpu.name} with {capability}. Use the tensorrt or onnx backend."
                )
            self._frame = self._open(gpu, paths, capacity)
            self._outputs = {head.name: gpu.allocate_pinned(spec.head_shape(head), np.float32) for head in spec.heads}
            self._dense = DenseCanvas(gpu, self._frame.network)
        except BaseException:
            gpu.close()
            raise

    def detect(self, points: NDArray[np.float32]) -> PointDetections:
        """One frame from its cloud to its boxes; raw outputs stay on the device.

        Args:
            points: (N, C) float32, metres, ego frame; N up to the capacity.

        Raises:
            DataError: the points have another shape or type, or are too many.
        """
        self._check_open()
        result = self._frame.detect(points)
        return PointDetections(result.boxes, result.stages_ms, result.counts)

    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        stages = self._run_points(features)
        return BackendOutput(self._download_outputs(), stages)

    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        if component == VOXEL_ENCODER:
            features = inputs[INPUT_FEATURES]
            self._run_points(features)
            return {PILLAR_FEATURES: self._frame.pillar_features(len(features))[:, None, :]}
        assert component == BACKBONE_NECK_HEAD
        self._dense.run(inputs[SPATIAL_FEATURES], self._frame.stream)
        return {name: array.copy() for name, array in self._download_outputs().items()}

    def _run_points(self, features: NDArray[np.float32]) -> dict[str, float]:
        """Runs the frame on the points that lie in the features' first columns: they make the same pillars."""
        real = features.any(axis=2)
        points = np.ascontiguousarray(features[real][:, : self.spec.point_features])
        result = self._frame.detect(points)
        found = result.counts.voxels
        if found != len(features):
            raise DataError(
                f"Backend 'cuda' found {found} pillars in the points of {len(features)}: the features are not those of "
                "pillars in this model's grid."
            )
        return result.stages_ms

    def _download_outputs(self) -> dict[str, NDArray[np.float32]]:
        assert self._gpu is not None
        for name, array in self._outputs.items():
            self._gpu.download(array, self._frame.network.outputs[name], self._frame.stream)
        self._gpu.synchronize(self._frame.stream)
        return dict(self._outputs)

    def _open(self, gpu: CudaDevice, paths: Mapping[str, Path], capacity: int) -> DeviceFrame:
        from runtime.cuda_engine.frame import DeviceFrame
        from runtime.cuda_engine.from_onnx import plan_from_onnx
        from runtime.cuda_engine.pillar_weights import PillarWeights

        plan = plan_from_onnx(paths[BACKBONE_NECK_HEAD], self.spec)
        weights = PillarWeights.from_onnx(paths[VOXEL_ENCODER])
        return DeviceFrame(gpu, self.spec, plan, weights, capacity=capacity)

    def _release(self) -> None:
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None
