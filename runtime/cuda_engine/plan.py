"""What the engine runs: a network as fused layers over integer or half-precision maps, independent of any GPU.

A layer is a convolution with its scale, bias, ReLU and the rounding of its result in one step:

    y = relu(acc * input_scale * weight_scale[c] + bias[c])
    code = clamp(round_half_even(y / output_scale), -128, 127)      where its target is INT8, else y as float16

after the semantics of ONNX's QuantizeLinear, DequantizeLinear and Conv. `acc` is an exact integer where the layer's
operands are INT8, a float32 sum where they are float16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MAP_TYPES", "FusedConv", "HeadBranch", "HeadsLayer", "MapType", "NetworkPlan", "PlanMap"]

MapType = Literal["int8", "float16"]
MAP_TYPES: tuple[MapType, ...] = ("int8", "float16")


@dataclass(frozen=True)
class PlanMap:
    """A feature map between two layers, stored once however many layers read it.

    Attributes:
        name: Of the ONNX tensor.
        channels, height, width: Its size; the batch is 1.
        scale: Step of its INT8 codes, or None where it is float16.
    """

    name: str
    channels: int
    height: int
    width: int
    scale: float | None

    @property
    def type(self) -> MapType:
        """How an element is stored."""
        return "float16" if self.scale is None else "int8"


@dataclass(frozen=True, eq=False)
class FusedConv:
    """One convolution, or transposed convolution whose kernel is its stride, with everything up to the next map.

    Attributes:
        node: Name of the ONNX node, for messages.
        source: Name of the map it reads.
        target: Name of the map it writes.
        target_channel: First channel of `target` that it writes (the layers in front of a concat share one map).
        weight: (C_out, C_in, k, k); int8 where the source is INT8, else float16. A transposed convolution's weight has
            its output channels first too: output pixel (y * k + i, x * k + j) takes weight[:, :, i, j] of input (y, x).
        weight_scale: (C_out,) float32, or None where the weight is float16.
        bias: (C_out,) float32.
        stride: Of a convolution; 1 for a transposed one.
        padding: Zeros around the input, the same on all sides.
        upsample: k of a transposed convolution, else 1.
        relu: Whether negative results become 0.
    """

    node: str
    source: str
    target: str
    target_channel: int
    weight: NDArray[np.int8] | NDArray[np.float16]
    weight_scale: NDArray[np.float32] | None
    bias: NDArray[np.float32]
    stride: int
    padding: int
    upsample: int
    relu: bool

    @property
    def out_channels(self) -> int:
        """Number of channels it writes."""
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        """Number of channels it reads."""
        return int(self.weight.shape[1])

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return int(self.weight.shape[2])


@dataclass(frozen=True, eq=False)
class HeadBranch:
    """One output of the network: a 1x1 convolution with ReLU in the source's precision, then a 1x1 convolution in
    float16 whose result is float32.

    Attributes:
        output: Name of the network's output, for example "heatmap".
        hidden_node: Name of the first ONNX node, for messages.
        hidden_weight: (H, C_in), int8 or float16 as the source is.
        hidden_weight_scale: (H,) float32, or None for float16.
        hidden_bias: (H,) float32.
        last_weight: (n, H) float16.
        last_bias: (n,) float32.
    """

    output: str
    hidden_node: str
    hidden_weight: NDArray[np.int8] | NDArray[np.float16]
    hidden_weight_scale: NDArray[np.float32] | None
    hidden_bias: NDArray[np.float32]
    last_weight: NDArray[np.float16]
    last_bias: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HeadsLayer:
    """All branches of the detection head, which read one map."""

    source: str
    branches: tuple[HeadBranch, ...]


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """`pts_backbone_neck_head` as the engine runs it.

    Attributes:
        canvas: Map that the pillars are scattered to; its codes are made from pillar features by its scale.
        maps: Every map by name, the canvas among them.
        convs: In order of execution.
        heads: Runs last and writes the outputs.
    """

    canvas: PlanMap
    maps: dict[str, PlanMap]
    convs: tuple[FusedConv, ...]
    heads: HeadsLayer
