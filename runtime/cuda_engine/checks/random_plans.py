"""Plans of the shape of CenterPoint with random weights, for self-checks and benchmarks without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.int8 import scale_of_amax
from runtime.cuda_engine.plan import FusedConv, HeadBranch, HeadsLayer, MapType, NetworkPlan, PlanMap, merge_siblings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Architecture", "random_plan"]


@dataclass(frozen=True)
class Architecture:
    """SECOND, SECONDFPN and CenterHead in numbers.

    Attributes:
        size: Cells of the canvas (height, width).
        canvas_channels: Channels of a pillar.
        channels, depths, strides: Of the backbone's blocks; a block has one strided and `depth` plain convolutions.
        neck_channels, upsamples: Of the neck's branches; an upsample below 1 is a strided convolution.
        shared_channels: Between neck and heads, and within a head.
        heads: Output name and channels.
        head_kernel: Side of both convolutions of a head.
    """

    size: tuple[int, int]
    canvas_channels: int = 32
    channels: Sequence[int] = (64, 128, 256)
    depths: Sequence[int] = (3, 5, 5)
    strides: Sequence[int] = (1, 2, 2)
    neck_channels: int = 128
    upsamples: Sequence[float] = (1, 2, 4)
    shared_channels: int = 64
    heads: Sequence[tuple[str, int]] = (
        ("heatmap", 5),
        ("reg", 2),
        ("height", 1),
        ("dim", 3),
        ("rot", 2),
        ("vel", 2),
    )
    head_kernel: int = 1


def random_plan(architecture: Architecture, map_type: MapType, seed: int = 0) -> NetworkPlan:
    """Weights and scales such that activations keep their size and INT8 codes use their range."""
    return _Builder(architecture, map_type, seed).plan()


class _Builder:
    def __init__(self, architecture: Architecture, map_type: MapType, seed: int) -> None:
        self._net = architecture
        self._int8 = map_type == "int8"
        self._random = np.random.default_rng(seed)
        self._maps: dict[str, PlanMap] = {}
        self._convs: list[FusedConv] = []

    def plan(self) -> NetworkPlan:
        net = self._net
        canvas = self._map("canvas", net.canvas_channels, *net.size)
        source, blocks = canvas, []
        for index, (channels, depth, stride) in enumerate(zip(net.channels, net.depths, net.strides, strict=True)):
            source = self._conv(f"blocks.{index}.0", source, channels, kernel=3, stride=stride)
            for layer in range(depth):
                source = self._conv(f"blocks.{index}.{layer + 1}", source, channels, kernel=3)
            blocks.append(source)
        height, width = (round(size * net.upsamples[0]) for size in (blocks[0].height, blocks[0].width))
        neck = self._map("neck", net.neck_channels * len(blocks), height, width)
        for index, (block, upsample) in enumerate(zip(blocks, net.upsamples, strict=True)):
            stride = max(round(1 / upsample), 1)
            self._conv(
                f"deblocks.{index}", block, net.neck_channels, kernel=max(stride, round(upsample)), stride=stride,
                upsample=max(round(upsample), 1), padding=0, into=(neck, index * net.neck_channels),
            )  # fmt: skip
        shared = self._conv("shared", neck, net.shared_channels, kernel=3)
        outputs = {
            name: PlanMap(name, channels, shared.height, shared.width, None, is_output=True)
            for name, channels in net.heads
        }
        if net.head_kernel == 1:
            branches = tuple(self._branch(name, channels, shared) for name, channels in net.heads)
            heads: tuple[HeadsLayer, ...] = (HeadsLayer(shared.name, branches),)
        else:
            heads = ()
            for output in outputs.values():
                self._wide_branch(output, shared)
        return merge_siblings(NetworkPlan(canvas, self._maps, tuple(self._convs), heads, outputs))

    def _map(self, name: str, channels: int, height: int, width: int) -> PlanMap:
        scale = float(np.float32(self._random.uniform(0.02, 0.03))) if self._int8 else None
        self._maps[name] = PlanMap(name, channels, height, width, scale)
        return self._maps[name]

    def _conv(
        self, name: str, source: PlanMap, out_channels: int, *, kernel: int, stride: int = 1, upsample: int = 1,
        padding: int = 1, into: tuple[PlanMap, int] | None = None,
    ) -> PlanMap:  # fmt: skip
        height, width = (
            size * upsample if upsample > 1 else (size + 2 * padding - kernel) // stride + 1
            for size in (source.height, source.width)
        )
        target, first = into or (self._map(name, out_channels, height, width), 0)
        weight, scale = self._weight((out_channels, source.channels, kernel, kernel), 1 if upsample > 1 else kernel)
        bias = self._random.normal(0, 0.1, out_channels).astype(np.float32)
        self._convs.append(
            FusedConv(name, source.name, target.name, first, weight, scale, bias, stride, padding, upsample, relu=True)
        )
        return target

    def _wide_branch(self, output: PlanMap, source: PlanMap) -> None:
        """Two convolutions of more than one cell, the first into a float16 map as a quantized model has it."""
        kernel, width = self._net.head_kernel, self._net.shared_channels
        hidden = PlanMap(f"{output.name}.0.map", width, source.height, source.width, None)
        self._maps[hidden.name] = hidden
        weight, scale = self._weight((width, source.channels, kernel, kernel), kernel)
        bias = self._random.normal(0, 0.1, width).astype(np.float32)
        padding = kernel // 2
        self._convs.append(
            FusedConv(f"{output.name}.0", source.name, hidden.name, 0, weight, scale, bias, 1, padding, 1, relu=True)
        )
        last = self._random.normal(0, np.sqrt(1 / (width * kernel**2)), (output.channels, width, kernel, kernel))
        bias = self._random.normal(0, 0.1, output.channels).astype(np.float32)
        self._convs.append(
            FusedConv(
                f"{output.name}.1", hidden.name, output.name, 0, last.astype(np.float16), None, bias, 1, padding, 1,
                relu=False,
            )
        )  # fmt: skip

    def _weight(
        self, shape: tuple[int, ...], taps: int
    ) -> tuple[NDArray[np.int8] | NDArray[np.float16], NDArray[np.float32] | None]:
        # Variance 2 / fan-in keeps the size of activations through ReLUs (He et al. 2015).
        weight = self._random.normal(0, np.sqrt(2 / (shape[1] * taps**2)), shape)
        if not self._int8:
            return weight.astype(np.float16), None
        scale = scale_of_amax(np.abs(weight.reshape(shape[0], -1)).max(axis=1)).astype(np.float32)
        return np.rint(weight / scale.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8), scale

    def _branch(self, name: str, outputs: int, source: PlanMap) -> HeadBranch:
        hidden = self._net.shared_channels
        weight, scale = self._weight((hidden, source.channels), 1)
        last = self._random.normal(0, np.sqrt(1 / hidden), (outputs, hidden)).astype(np.float16)
        biases = [self._random.normal(0, 0.1, count).astype(np.float32) for count in (hidden, outputs)]
        return HeadBranch(name, f"{name}.0", weight, scale, biases[0], last, biases[1])
