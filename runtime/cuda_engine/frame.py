"""Points to boxes on kernels of our own alone, as one CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda_engine.network import DeviceNetwork
from runtime.cuda_engine.pillars import CanvasMemory
from runtime.cuda_engine.points_frame import FrameResult, PointsFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.pillar_weights import PillarWeights
    from runtime.cuda_engine.plan import NetworkPlan

__all__ = ["DeviceFrame", "FrameResult"]


class DeviceFrame(PointsFrame):
    """A network plan with both ends around it.

    Attributes:
        network: Between the ends; its maps and outputs keep the last frame's values.
    """

    def __init__(
        self, device: CudaDevice, spec: ModelSpec, plan: NetworkPlan, weights: PillarWeights, *, capacity: int = 1 << 18
    ) -> None:
        """Compiles, allocates and captures.

        Args:
            capacity: Most points of a cloud.

        Raises:
            ConfigError: the kernels do not take the model.
        """
        self.network = DeviceNetwork(device, plan)
        canvas = self.network.canvas
        memory = CanvasMemory(canvas.address, canvas.plane, plan.canvas.scale)
        stream = device.create_stream()
        super().__init__(
            device, spec, self.network, memory, weights, stream=stream, capacity=capacity, keep_features=True
        )

    def pillar_features(self, count: int) -> NDArray[np.float32]:
        """(count, C) float32 of the last frame's first `count` pillars, before quantization."""
        features = np.empty((count, self._spec.encoder_channels), np.float32)
        self._device.download(features, self.pillars.features, self._stream)
        self._device.synchronize(self._stream)
        return features
