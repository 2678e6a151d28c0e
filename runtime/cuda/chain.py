"""Encoder, scatter and backbone on one stream of one device, with nothing in between passing through the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from models.spec import INPUT_FEATURES, PILLAR_FEATURES, SPATIAL_FEATURES, VOXEL_ENCODER
from runtime.cuda.scatter import ScatterKernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["DeviceChain", "DeviceComponent"]

_STAGES = ("h2d", "voxel_encoder", "scatter", "backbone_neck_head", "d2h")
_FLOAT_BYTES = 4


class DeviceComponent(Protocol):
    """A component whose inputs and outputs are device memory."""

    row_capacity: int  # rows that its row-wise buffers must have, where that is more than `max_voxels`

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        """Tells where each tensor lies; once, before the first `enqueue`."""

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Puts one execution on the bound stream and returns; `shapes` are this frame's, by tensor."""


class DeviceChain:
    """Owns the buffers of a model, all allocated once for `max_voxels` pillars, and runs frames through them.

    Host copies go through page-locked memory. An event stands at each stage border, and the host waits once, for the
    last of them.
    """

    def __init__(
        self,
        device: CudaDevice,
        stream: int | None,
        spec: ModelSpec,
        encoder: DeviceComponent,
        backbone: DeviceComponent,
    ) -> None:
        self._device = device
        self._spec = spec
        self._stream = device.create_stream() if stream is None else stream
        self._encoder, self._backbone = encoder, backbone
        rows = max(spec.max_voxels, encoder.row_capacity)
        shapes = {**self._encoder_shapes(rows), **self._head_shapes()}
        self._addresses = {name: device.allocate(int(np.prod(shape)) * _FLOAT_BYTES) for name, shape in shapes.items()}
        self._coords = device.allocate(spec.max_voxels * 3 * 4)
        self._host_features = device.allocate_pinned(shapes[INPUT_FEATURES], np.float32)
        self._host_coords = device.allocate_pinned((spec.max_voxels, 3), np.int32)
        self._host_outputs = {
            head.name: device.allocate_pinned(spec.head_shape(head), np.float32) for head in spec.heads
        }
        self._events = [device.create_event() for _ in range(len(_STAGES) + 1)]
        self._scatter = ScatterKernel(device, spec)
        encoder.bind({name: self._addresses[name] for name in self._encoder_shapes(1)}, self._stream)
        backbone.bind({name: self._addresses[name] for name in self._head_shapes()}, self._stream)

    def infer(
        self, features: NDArray[np.float32], coords: NDArray[np.int32]
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
        """One frame: (raw head outputs on the host, overwritten by the next frame; stage -> milliseconds).

        Args:
            features: (M, P, F) float32, 1 to `max_voxels` pillars.
            coords: (M, 3) int32 [z, y, x] inside the canvas.
        """
        device, stream, count = self._device, self._stream, len(features)
        # Into page-locked memory before the clock starts on the device: this copy is the host's.
        self._host_features[:count] = features
        self._host_coords[:count] = coords
        marks = iter(self._events)
        device.record(next(marks), stream)
        device.upload(self._addresses[INPUT_FEATURES], self._host_features[:count], stream)
        device.upload(self._coords, self._host_coords[:count], stream)
        device.record(next(marks), stream)
        self._encoder.enqueue(self._encoder_shapes(count))
        device.record(next(marks), stream)
        pillars, canvas = self._addresses[PILLAR_FEATURES], self._addresses[SPATIAL_FEATURES]
        self._scatter.enqueue(pillars, self._coords, canvas, count, stream)
        device.record(next(marks), stream)
        self._backbone.enqueue(self._head_shapes())
        device.record(next(marks), stream)
        for name, array in self._host_outputs.items():
            device.download(array, self._addresses[name], stream)
        device.record(next(marks), stream)
        device.wait(self._events[-1])
        borders = zip(_STAGES, self._events[:-1], self._events[1:], strict=True)
        return dict(self._host_outputs), {name: device.elapsed_ms(before, after) for name, before, after in borders}

    def run(self, component: str, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """One component from host arrays to new host arrays."""
        first = next(iter(inputs.values()))
        is_encoder = component == VOXEL_ENCODER
        shapes = self._encoder_shapes(len(first)) if is_encoder else self._head_shapes()
        for name, array in inputs.items():
            self._device.upload(self._addresses[name], array, self._stream)
        (self._encoder if is_encoder else self._backbone).enqueue(shapes)
        outputs = {name: np.empty(shape, np.float32) for name, shape in shapes.items() if name not in inputs}
        for name, array in outputs.items():
            self._device.download(array, self._addresses[name], self._stream)
        self._device.synchronize(self._stream)
        return outputs

    def _encoder_shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        return {
            INPUT_FEATURES: self._spec.encoder_shape(count),
            PILLAR_FEATURES: (count, 1, self._spec.encoder_channels),
        }

    def _head_shapes(self) -> dict[str, tuple[int, ...]]:
        heads = {head.name: self._spec.head_shape(head) for head in self._spec.heads}
        return {SPATIAL_FEATURES: self._spec.canvas_shape, **heads}
