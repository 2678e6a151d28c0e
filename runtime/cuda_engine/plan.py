"""What the engine runs: a network as fused layers over integer or half-precision maps, independent of any GPU.

A layer is a convolution with its scale, bias, ReLU and the rounding of its result in one step:

    y = relu(acc * input_scale * weight_scale[c] + bias[c])
    code = clamp(round_half_even(y / output_scale), -128, 127)      where its target is INT8, else y as float16

after the semantics of ONNX's QuantizeLinear, DequantizeLinear and Conv. `acc` is an exact integer where the layer's
operands are INT8, a float32 sum where they are float16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MAP_TYPES",
    "ElementType",
    "FusedConv",
    "HeadBranch",
    "HeadsLayer",
    "MapType",
    "NetworkPlan",
    "PlanMap",
    "merge_siblings",
]

MapType = Literal["int8", "float16"]
ElementType = Literal["int8", "float16", "float32"]
MAP_TYPES: tuple[MapType, ...] = ("int8", "float16")


@dataclass(frozen=True)
class PlanMap:
    """A feature map between two layers, stored once however many layers read it, or an output of the network.

    Attributes:
        name: Of the ONNX tensor.
        channels, height, width: Its size; the batch is 1.
        scale: Step of its INT8 codes, or None where it is of floating point.
        is_output: Whether it leaves the network: (channels, height, width) float32, dense, of any number of channels.
    """

    name: str
    channels: int
    height: int
    width: int
    scale: float | None
    is_output: bool = False

    @property
    def type(self) -> ElementType:
        """How an element is stored."""
        if self.is_output:
            return "float32"
        return "float16" if self.scale is None else "int8"


@dataclass(frozen=True, eq=False)
class FusedConv:
    """One convolution, or transposed convolution whose kernel is its stride, with everything up to the next map.

    Attributes:
        node: Name of the ONNX node, for messages.
        source: Name of the map it reads.
        target: Name of the map or output that it writes.
        target_channel: First channel of `target` that it writes (the layers in front of a concat share one map).
        weight: (C_out, C_in, k, k); int8 where the source is INT8, else float16. A transposed convolution's weight has
            its output channels first too: output pixel (y * k + i, x * k + j) takes weight[:, :, i, j] of input (y, x).
        weight_scale: (C_out,) float32, or None where the weight is float16.
        bias: (C_out,) float32.
        stride: Of a convolution; 1 for a transposed one.
        padding: Zeros around the input, the same on all sides.
        upsample: k of a transposed convolution, else 1.
        relu: Whether negative results become 0.
        source_channel: First channel of `source` that it reads.
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
    source_channel: int = 0

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
    """Branches of the detection head that are computed in one pass over the map that they read."""

    source: str
    branches: tuple[HeadBranch, ...]


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """`pts_backbone_neck_head` as the engine runs it.

    Attributes:
        canvas: Map that the pillars are scattered to; its codes are made from pillar features by its scale.
        maps: Every map between layers by name, the canvas among them.
        convs: In order of execution; those whose target is an output are the last layers of their branches.
        heads: Run last, after all convolutions.
        outputs: Every output by name, in the order of the graph.
    """

    canvas: PlanMap
    maps: dict[str, PlanMap]
    convs: tuple[FusedConv, ...]
    heads: tuple[HeadsLayer, ...]
    outputs: dict[str, PlanMap]

    def target(self, conv: FusedConv) -> PlanMap:
        """The map or output that a layer writes."""
        return self.outputs.get(conv.target) or self.maps[conv.target]


def merge_siblings(plan: NetworkPlan) -> NetworkPlan:
    """The same network with like convolutions on one map as one wide convolution, whose result later layers share.

    The first layers of a head's branches are such: with 64 channels each they keep a GPU busy only together. They are
    alike in what they read, in geometry and ReLU and in the form of weights and result; each writes a map of its own
    that convolutions alone read.
    """
    shared = {layer.source for layer in plan.heads} | {plan.canvas.name}
    writers: dict[str, list[FusedConv]] = {}
    for conv in plan.convs:
        writers.setdefault(conv.target, []).append(conv)
    groups: dict[tuple[object, ...], list[FusedConv]] = {}
    for conv in plan.convs:
        alone = conv.target in plan.maps and conv.target not in shared and len(writers[conv.target]) == 1
        if alone and conv.upsample == 1:
            scale = plan.maps[conv.target].scale
            like = (conv.source, conv.source_channel, conv.kernel, conv.stride, conv.padding, conv.relu, scale)
            groups.setdefault((*like, conv.in_channels, conv.weight.dtype), []).append(conv)
    maps, convs, places = dict(plan.maps), list(plan.convs), dict[str, tuple[str, int]]()
    for siblings in groups.values():
        if len(siblings) == 1:
            continue
        first = siblings[0]
        for conv in siblings:
            places[conv.target] = (first.target, sum(item.out_channels for item in siblings[: siblings.index(conv)]))
            del maps[conv.target]
        channels = sum(conv.out_channels for conv in siblings)
        maps[first.target] = replace(plan.maps[first.target], channels=channels)
        convs[convs.index(first)] = _merged(siblings)
        convs = [conv for conv in convs if conv not in siblings[1:]]
    moved = [
        replace(conv, source=places[conv.source][0], source_channel=places[conv.source][1] + conv.source_channel)
        if conv.source in places
        else conv
        for conv in convs
    ]
    return replace(plan, maps=maps, convs=tuple(moved))


def _merged(siblings: list[FusedConv]) -> FusedConv:
    first = siblings[0]
    scales = [conv.weight_scale for conv in siblings if conv.weight_scale is not None]
    return replace(
        first,
        node=f"{first.node} (+{len(siblings) - 1})",
        weight=np.concatenate([conv.weight for conv in siblings]),
        weight_scale=np.concatenate(scales) if scales else None,
        bias=np.concatenate([conv.bias for conv in siblings]),
    )
