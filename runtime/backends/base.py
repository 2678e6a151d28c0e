"""What every backend does: check what comes in, run the network, say how long each stage took."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ConfigError, DataError
from runtime.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.spec import ComponentSpec, ModelSpec, TensorSpec

__all__ = ["STAGES", "Backend", "BackendOutput", "component_paths", "default_threads", "device_index"]

# Stages of a frame in order. A backend on the host has no h2d and d2h.
STAGES = ("preprocess", "h2d", "voxel_encoder", "scatter", "backbone_neck_head", "d2h", "decode")


@dataclass(frozen=True, eq=False)
class BackendOutput:
    """Raw head outputs of one frame.

    Attributes:
        outputs: Head name -> (1, C, h, w) float32 on the host, in graph order. The arrays belong to the backend and
            are overwritten by its next call: copy what must outlive it.
        stages_ms: Stage -> milliseconds, names and order of `STAGES`; the device was synchronized at each border.
    """

    outputs: dict[str, NDArray[np.float32]]
    stages_ms: dict[str, float]


class Backend(Closing, ABC):
    """A network loaded on a device, from pillars to raw outputs on the host.

    A subclass writes `_run`, `_infer` and, where it holds resources, `_release`.

    Attributes:
        name: "pytorch", "onnx", "openvino" or "tensorrt".
        device: "cpu" or "cuda:N".
        spec: The model.
    """

    name: str

    def __init__(self, spec: ModelSpec, device: str) -> None:
        super().__init__(f"Backend '{self.name}'")
        self.spec = spec
        self.device = device
        self._components: dict[str, ComponentSpec] = {component.name: component for component in spec.components}

    def run(self, component: str, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Runs one component on host arrays, for verification.

        Args:
            component: "pts_voxel_encoder" or "pts_backbone_neck_head".
            inputs: Every input of it by name, float32.

        Returns:
            Output name -> array of the caller's own, in graph order.

        Raises:
            ConfigError: there is no such component.
            DataError: an input is missing, unknown, or has another shape or type.
        """
        self._check_open()
        if component not in self._components:
            raise ConfigError(f"Unknown component '{component}'. Choose one of: {', '.join(self._components)}.")
        expected = self._components[component].inputs
        names = [tensor.name for tensor in expected]
        if sorted(inputs) != sorted(names):
            raise DataError(f"Component '{component}' takes {names}; got {sorted(inputs)}.")
        for tensor in expected:
            check_tensor(inputs[tensor.name], tensor, component)
            if tensor.shape[0] is None:
                self._check_pillars(len(inputs[tensor.name]))
        return self._run(component, {name: np.ascontiguousarray(inputs[name]) for name in names})

    def infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        """Encoder, scatter, backbone, neck and head; on a GPU nothing in between passes through the host.

        Args:
            features: (M, P, F) float32, from `runtime.preprocess.preprocess`; 1 to `max_voxels` pillars.
            coords: (M, 3) int32 [z, y, x].

        Raises:
            DataError: shapes or types do not fit, or there are no pillars or too many.
        """
        self._check_open()
        encoder = self.spec.components[0]
        check_tensor(features, encoder.inputs[0], encoder.name)
        self._check_pillars(len(features))
        if coords.shape != (len(features), 3) or coords.dtype != np.int32:
            raise DataError(
                f"Coordinates are {coords.shape} {coords.dtype}; "
                f"{len(features)} pillars need ({len(features)}, 3) int32."
            )
        height, width = self.spec.canvas_shape[2:]
        low, high = coords.min(axis=0), coords.max(axis=0)
        if low[1] < 0 or low[2] < 0 or high[1] >= height or high[2] >= width:
            raise DataError(
                f"Pillar coordinates span y {low[1]} to {high[1]} and x {low[2]} to {high[2]}, beyond the canvas of "
                f"{height} x {width} (y, x)."
            )
        return self._infer(np.ascontiguousarray(features), np.ascontiguousarray(coords))

    def _check_pillars(self, count: int) -> None:
        # Device buffers hold `max_voxels` rows.
        if not 1 <= count <= self.spec.max_voxels:
            raise DataError(
                f"Backend '{self.name}' got {count} pillars; "
                f"model '{self.spec.name}' takes 1 to {self.spec.max_voxels}."
            )

    @abstractmethod
    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """`run` after its checks."""

    @abstractmethod
    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        """`infer` after its checks."""


def component_paths(
    spec: ModelSpec, folder: Path, suffix: str, files: Mapping[str, str] | None, remedy: str
) -> dict[str, Path]:
    """Component name -> its file in a folder, the component's name with a suffix unless `files` names another.

    Args:
        suffix: ".onnx" or ".engine".
        remedy: How to make such files, for the message.

    Raises:
        ConfigError: one is missing.
    """
    paths = {item.name: folder / (files or {}).get(item.name, f"{item.name}{suffix}") for item in spec.components}
    kind = "ONNX file" if suffix == ".onnx" else "Engine"
    for name, path in paths.items():
        if not path.is_file():
            raise ConfigError(f"{kind} of component '{name}' is missing: {path}. {remedy}")
    return paths


def check_tensor(value: NDArray[np.float32], tensor: TensorSpec, component: str) -> None:
    """Raises `DataError` unless the array has the tensor's type and shape (None entries fit any size)."""
    shape = tuple(value.shape)
    fits = len(shape) == len(tensor.shape) and all(
        want is None or want == got for want, got in zip(tensor.shape, shape, strict=True)
    )
    if not fits or value.dtype != np.float32:
        wanted = ", ".join(tensor.axis_names.get(i, "any") if n is None else str(n) for i, n in enumerate(tensor.shape))
        raise DataError(
            f"Tensor '{tensor.name}' of component '{component}' is {shape} {value.dtype}; "
            f"it must be ({wanted}) float32."
        )


def device_index(device: str) -> int | None:
    """The N of "cuda:N" (0 for "cuda"), or None for "cpu".

    Raises:
        ConfigError: the text is neither.
    """
    kind, _, index = device.partition(":")
    if device == "cpu":
        return None
    if kind == "cuda" and (index.isdecimal() or device == "cuda"):
        return int(index or 0)
    raise ConfigError(f"Unknown device '{device}'. Use 'cpu', 'cuda' or 'cuda:N'.")


def default_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores this process may use."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdecimal() and int(value) > 0 else len(os.sched_getaffinity(0))
