"""The network as engines of TensorRT-RTX or TensorRT 10/11, from pillars to raw outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.errors import ConfigError
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER
from runtime.backends.base import Backend, BackendOutput, component_paths, device_index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.chain import DeviceChain
    from runtime.cuda.device import CudaDevice

__all__ = ["TensorRTBackend"]


class TensorRTBackend(Backend):
    """Runs `<component>.engine` of a folder on a CUDA device, both engines always.

    Engines are tied to the library and version that built them and to kinds of GPU. One that does not fit this machine
    makes the backend unavailable, with TensorRT's own words as the reason.
    """

    name = "tensorrt"

    def __init__(
        self,
        *,
        spec: ModelSpec,
        engine_dir: Path,
        device: str = "cuda:0",
        library: str = "auto",
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
            engine_dir: Folder of the engines.
            library: "tensorrt_rtx", "tensorrt", or "auto" for the first installed one that accepts the engines.
            files: Component name -> file name in the folder; `<component>.engine` by default.

        Raises:
            ConfigError: the device is no CUDA device, a file is missing, or an engine's tensors or profile are not
                those of the model.
            BackendUnavailable: no driver or device, or no installed library accepts the engines.
        """
        index = device_index(device)
        if index is None:
            raise ConfigError("Backend 'tensorrt' runs on a GPU: its device is 'cpu', use 'cuda:0'.")
        super().__init__(spec, f"cuda:{index}")
        paths = component_paths(spec, engine_dir, ".engine", files, "Build it with --mode=trt.")
        from runtime.backends.engines import open_engines
        from runtime.cuda.chain import DeviceChain
        from runtime.cuda.device import CudaDevice

        gpu = CudaDevice.open(index)
        self._gpu: CudaDevice | None = gpu
        try:
            self._engines = open_engines(spec, paths, library, gpu)
            encoder, backbone = (self._engines.components[name] for name in (VOXEL_ENCODER, BACKBONE_NECK_HEAD))
            self._chain: DeviceChain | None = DeviceChain(gpu, None, spec, encoder, backbone)
        except BaseException:
            gpu.close()
            raise

    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        assert self._chain is not None
        return self._chain.run(component, inputs)

    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        assert self._chain is not None
        return BackendOutput(*self._chain.infer(features, coords))

    def _release(self) -> None:
        # Contexts go before the memory that they are bound to.
        self._chain = None
        self._engines.release()
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None
