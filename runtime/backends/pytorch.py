"""The network as PyTorch modules: the reference that the other backends are held against."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import BackendUnavailable, ConfigError
from base.lazy import require
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER
from runtime.backends.base import Backend, BackendOutput, device_index
from runtime.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

    from models.spec import ModelSpec

__all__ = ["PyTorchBackend"]


class PyTorchBackend(Backend):
    """Runs the components of `models.components.extract_components`, on the CPU or a CUDA device.

    Convolutions run in full float32 (no TF32) by deterministic algorithms; no global setting of torch is changed.
    The modules are moved to the device and set to evaluation mode.
    """

    name = "pytorch"

    def __init__(self, *, spec: ModelSpec, components: Mapping[str, Any], device: str = "cpu") -> None:
        """Args:
            components: Component name -> `nn.Module`.

        Raises:
            BackendUnavailable: a CUDA device was asked for and torch has none.
            ConfigError: a component is missing.
        """
        index = device_index(device)
        super().__init__(spec, "cpu" if index is None else f"cuda:{index}")
        self._torch = require("torch", "to run the pytorch backend")
        missing = sorted(set(self._components) - set(components))
        if missing:
            raise ConfigError(f"Backend 'pytorch' lacks components {missing}; got {sorted(components)}.")
        if index is not None:
            _check_cuda(self._torch, index)
        self._device = self._torch.device(self.device)
        self._modules = {name: components[name].eval().to(self._device) for name in self._components}

    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        with self._torch.inference_mode(), self._exact():
            tensors = [self._torch.from_numpy(value).to(self._device) for value in inputs.values()]
            outputs = self._call(component, *tensors)
            # A copy: on the CPU the array would share memory with a tensor that the module may keep.
            return {name: np.array(tensor.cpu().numpy()) for name, tensor in outputs.items()}

    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        torch = self._torch
        on_cuda = self._device.type == "cuda"
        clock = _CudaClock(torch, self._device) if on_cuda else _HostClock()
        with torch.inference_mode(), self._exact():
            clock.start()
            pillars, cells = torch.from_numpy(features), torch.from_numpy(coords)
            if on_cuda:
                pillars, cells = pillars.to(self._device), cells.to(self._device)
                clock.mark("h2d")
            (encoded,) = self._call(VOXEL_ENCODER, pillars).values()
            clock.mark("voxel_encoder")
            canvas = scatter(encoded, cells, self.spec)
            clock.mark("scatter")
            outputs = self._call(BACKBONE_NECK_HEAD, canvas)
            clock.mark("backbone_neck_head")
            host = {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
            if on_cuda:
                clock.mark("d2h")
        return BackendOutput(host, clock.stages_ms())

    def _call(self, component: str, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        result = self._modules[component](*inputs)
        tensors = result if isinstance(result, tuple | list) else (result,)
        names = [tensor.name for tensor in self._components[component].outputs]
        return {name: tensor.float() for name, tensor in zip(names, tensors, strict=True)}

    def _exact(self) -> Any:
        return self._torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

    def _release(self) -> None:
        self._modules = {}


class _HostClock:
    """Stage times of work that is done when the call returns."""

    def __init__(self) -> None:
        self._stages: dict[str, float] = {}
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self._stages[stage] = (now - self._last) * 1e3
        self._last = now

    def stages_ms(self) -> dict[str, float]:
        return self._stages


class _CudaClock:
    """Stage times by events on the current stream, read after one synchronization at the end."""

    def __init__(self, torch: Any, device: torch.device) -> None:
        self._torch = torch
        self._stream = torch.cuda.current_stream(device)
        self._events: list[tuple[str, Any]] = []

    def start(self) -> None:
        self._record("start")

    def mark(self, stage: str) -> None:
        self._record(stage)

    def _record(self, stage: str) -> None:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        self._events.append((stage, event))

    def stages_ms(self) -> dict[str, float]:
        self._events[-1][1].synchronize()
        pairs = zip(self._events[:-1], self._events[1:], strict=True)
        return {stage: before.elapsed_time(event) for (_, before), (stage, event) in pairs}


def _check_cuda(torch: Any, index: int) -> None:
    if torch.version.cuda is None:
        raise BackendUnavailable(
            f"torch {torch.__version__} was built without CUDA, so device 'cuda:{index}' cannot be used. "
            "Install a CUDA build of torch."
        )
    if not torch.cuda.is_available():
        raise BackendUnavailable("torch finds no CUDA device: no NVIDIA driver, or no GPU visible to this process.")
    if index >= torch.cuda.device_count():
        raise BackendUnavailable(
            f"There is no device 'cuda:{index}': torch sees {torch.cuda.device_count()} CUDA device(s)."
        )
