"""Points to boxes on kernels of our own alone, as one CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.arguments import DEFAULT_POINTS
from runtime.cuda_engine.canvas import BlockedCanvas
from runtime.cuda_engine.network import DeviceNetwork
from runtime.cuda_engine.points_frame import FrameResult, PointsFrame

if TYPE_CHECKING:
    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.plan import NetworkPlan
    from runtime.pillar_weights import PillarWeights

__all__ = ["DeviceFrame", "FrameResult"]


class DeviceFrame(PointsFrame):
    """A network plan with both ends around it.

    Attributes:
        network: Between the ends; its maps and outputs keep the last frame's values.
    """

    def __init__(
        self,
        device: CudaDevice,
        spec: ModelSpec,
        plan: NetworkPlan,
        weights: PillarWeights,
        *,
        capacity: int = DEFAULT_POINTS,
        skips_empty: bool = True,
    ) -> None:
        """Compiles, allocates and captures.

        Args:
            capacity: Most points of a cloud.
            skips_empty: Leave out what no pillar reaches (`activity`); boxes are the same.

        Raises:
            ConfigError: the kernels do not take the model.
        """
        self.network = DeviceNetwork(device, plan, skips_empty=skips_empty)
        canvas, stream = BlockedCanvas(device, self.network), device.create_stream()
        super().__init__(device, spec, self.network, canvas, weights, stream=stream, capacity=capacity)
