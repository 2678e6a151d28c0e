"""How fast a network's convolutions could be: per layer, the longer of its computing and its memory traffic.

    FLOP  = 2 · Ho · Wo · Ci · Co · k²        (transposed with k = stride: 2 · Ho · Wo · Ci · Co)
    bytes = (Hi · Wi · Ci + Ho · Wo · Co + Ci · Co · k²) · element size
    time  = max(FLOP / peak, bytes / bandwidth)

after Williams, Waterman and Patterson, Roofline (2009). Each activation is written once and read once: neither fusion
across layers nor a cache that holds whole maps. These are limits from data sheets; a kernel reaches a part of them, and
measured layer times (`read_layer_times`) take their place where there are any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from base.errors import ConfigError, DataError
from base.files import read_json
from base.messages import printable, shown

__all__ = [
    "DEVICES",
    "PRECISIONS",
    "ConvLayer",
    "Device",
    "LayerTimes",
    "Precision",
    "conv_layers",
    "layer_time_s",
    "network_time_s",
    "plan_time_s",
    "read_layer_times",
    "roofline_times",
]

Precision = Literal["int8", "fp16"]
Size = tuple[int, int]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")
_BYTES = {"int8": 1, "fp16": 2}
_MAX_MS = 1e9


@dataclass(frozen=True)
class Device:
    """Peaks of a data sheet, dense (no 2:4 sparsity).

    Attributes:
        name: For messages.
        int8_ops: INT8 operations per second.
        fp16_flops: FP16 operations per second.
        bandwidth: Of its memory, bytes per second.
    """

    name: str
    int8_ops: float
    fp16_flops: float
    bandwidth: float

    def peak(self, precision: Precision) -> float:
        """Operations per second."""
        return self.int8_ops if precision == "int8" else self.fp16_flops


DEVICES = {
    "h100": Device("H100 SXM", 1978.9e12, 989.4e12, 3.35e12),
    "h200": Device("H200 SXM", 1978.9e12, 989.4e12, 4.8e12),
    # The GPU alone: the 138 TOPS that are often quoted include its deep learning accelerators.
    "orin-agx-64": Device("Jetson AGX Orin 64 GB", 85e12, 42.5e12, 204.8e9),
}


@dataclass(frozen=True)
class ConvLayer:
    """A convolution of the network.

    Attributes:
        path: Its module path.
        inputs: Paths of the layers whose outputs it reads; none for the canvas.
        in_channels, out_channels: Channels.
        kernel: Side of its square kernel.
        in_size, out_size: (height, width) of its maps, cells.
        transposed: Whether it is a transposed convolution, whose kernel equals its stride.
    """

    path: str
    inputs: tuple[str, ...]
    in_channels: int
    out_channels: int
    kernel: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    transposed: bool = False

    @property
    def flop(self) -> int:
        """Operations; a multiplication with its accumulation counts as two."""
        taps = 1 if self.transposed else self.kernel**2
        return 2 * self.out_size[0] * self.out_size[1] * self.in_channels * self.out_channels * taps

    @property
    def weights(self) -> int:
        """Elements of its kernel."""
        return self.in_channels * self.out_channels * self.kernel**2

    @property
    def in_elements(self) -> int:
        """Elements that it reads."""
        return self.in_size[0] * self.in_size[1] * self.in_channels

    @property
    def out_elements(self) -> int:
        """Elements that it writes."""
        return self.out_size[0] * self.out_size[1] * self.out_channels


def conv_layers(model_cfg: Any) -> tuple[ConvLayer, ...]:
    """The convolutions behind the canvas, in the order in which they run, from the model config alone.

    Args:
        model_cfg: `models.config.load_model_config`; backbone SECOND, neck SECONDFPN, head CenterHead.

    Raises:
        ConfigError: another backbone, neck or head.
    """
    model = model_cfg.model
    for part, kind in (("pts_backbone", "SECOND"), ("pts_neck", "SECONDFPN"), ("pts_bbox_head", "CenterHead")):
        if str(model[part].type).rsplit(".", 1)[-1] != kind:
            raise ConfigError(f"{part}.type is '{model[part].type}'; the roofline knows '{kind}'.")
    backbone, neck, head = model.pts_backbone, model.pts_neck, model.pts_bbox_head
    height, width = model.pts_middle_encoder.output_shape
    layers: list[ConvLayer] = []

    def conv(
        path: str, inputs: Iterable[str], channels: tuple[int, int], kernel: int, size: Size, stride: float
    ) -> Size:
        up = stride < 1
        factor = round(1 / stride) if up else round(stride)
        # As torch: floor((H + 2p - k) / s) + 1 with "same" padding, H · s for a transposed one, k = s without padding.
        same = kernel % 2 == 1 and kernel != factor
        out = tuple(n * factor if up else ((n - 1) // factor + 1 if same else n // factor) for n in size)
        layers.append(ConvLayer(path, tuple(inputs), *channels, kernel, size, (out[0], out[1]), up))
        return out[0], out[1]

    size: Size = (int(height), int(width))
    last: tuple[str, ...] = ()
    channels = int(backbone.in_channels)
    levels: list[tuple[str, int, Size]] = []
    for block, (wide, more, stride) in enumerate(
        zip(backbone.out_channels, backbone.layer_nums, backbone.layer_strides, strict=True)
    ):
        for index in range(more + 1):
            path = f"pts_backbone.blocks.{block}.{3 * index}"
            size = conv(path, last, (channels, wide), 3, size, stride if index == 0 else 1)
            channels, last = wide, (path,)
        levels.append((last[0], channels, size))
    joined: list[str] = []
    for index, ((source, deep, at), wide, up) in enumerate(
        zip(levels, neck.out_channels, neck.upsample_strides, strict=True)
    ):
        kernel = round(up) if up >= 1 else round(1 / up)
        path = f"pts_neck.deblocks.{index}.0"
        size = conv(path, (source,), (deep, wide), kernel, at, 1 / up)
        joined.append(path)
        if up == 1 and not neck.get("use_conv_for_no_stride", False):
            layers[-1] = ConvLayer(path, (source,), deep, wide, 1, at, size, transposed=True)
    shared = "pts_bbox_head.shared_conv.conv"
    wide = int(head.get("share_conv_channel", 64))
    size = conv(shared, joined, (sum(neck.out_channels), wide), 3, size, 1)
    branch = head.get("separate_head", {})
    kernel, hidden = int(branch.get("final_kernel", 1)), int(branch.get("head_conv", 64))
    for number_of_task, task in enumerate(head.tasks):
        heads = {**head.common_heads, "heatmap": (len(task.class_names), head.get("num_heatmap_convs", 2))}
        for name, (out, number) in heads.items():
            source, channels = shared, wide
            for index in range(number):
                final = index == number - 1
                path = f"pts_bbox_head.task_heads.{number_of_task}.{name}.{index}" + ("" if final else ".conv")
                conv(path, (source,), (channels, out if final else hidden), kernel, size, 1)
                source, channels = path, hidden
    return tuple(layers)


def layer_time_s(layer: ConvLayer, device: Device, precision: Precision, out_bytes: int | None = None) -> float:
    """The longer of computing and memory traffic.

    Args:
        layer: The convolution.
        device: Its peaks.
        precision: Of its kernel: of its input, its weights, and of its output too unless `out_bytes` says otherwise.
        out_bytes: Bytes written for each element of its output.
    """
    size = _BYTES[precision]
    written = layer.out_elements * (size if out_bytes is None else out_bytes)
    traffic = (layer.in_elements + layer.weights) * size + written
    return max(layer.flop / device.peak(precision), traffic / device.bandwidth)


def network_time_s(layers: Iterable[ConvLayer], device: Device, precision: Precision) -> float:
    """Sum over the layers, all in one precision."""
    return sum(layer_time_s(layer, device, precision) for layer in layers)


def plan_time_s(layers: Collection[ConvLayer], device: Device, quantized: Collection[str]) -> float:
    """Sum over the layers of a mixed-precision plan.

    A tensor is written in the precision of each of its consumers: as INT8, as FP16, or as both where they differ. All
    inputs of a concat are read by one consumer, so that they are all written alike, on its one scale. Outputs of the
    network are in the precision of the layer that makes them.

    Args:
        layers: Of the network.
        device: Its peaks.
        quantized: Paths of the layers in INT8; the others are in FP16.
    """
    consumers = consumers_of(layers)
    total = 0.0
    for layer in layers:
        own: Precision = "int8" if layer.path in quantized else "fp16"
        wanted = {_BYTES["int8" if path in quantized else "fp16"] for path in consumers[layer.path]}
        total += layer_time_s(layer, device, own, sum(wanted) if wanted else None)
    return total


def consumers_of(layers: Collection[ConvLayer]) -> dict[str, tuple[str, ...]]:
    """Layer -> the layers that read its output."""
    return {layer.path: tuple(item.path for item in layers if layer.path in item.inputs) for layer in layers}


@dataclass(frozen=True)
class LayerTimes:
    """Time of every layer in both precisions, each layer by itself.

    Attributes:
        source: Where they come from.
        seconds: Layer -> precision -> seconds.
    """

    source: str
    seconds: Mapping[str, Mapping[Precision, float]]


def roofline_times(layers: Iterable[ConvLayer], device: Device) -> LayerTimes:
    """The roofline of every layer, its output in its own precision."""
    seconds = {
        layer.path: {precision: layer_time_s(layer, device, precision) for precision in PRECISIONS} for layer in layers
    }
    return LayerTimes(f"the roofline of {device.name}", seconds)


def read_layer_times(path: str | Path) -> LayerTimes:
    """Measured layer times: `{"<module path>": {"int8": ms, "fp16": ms}, …}`, milliseconds.

    Raises:
        DataError: the file is missing or has another form; the message names the layer.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not values:
        raise DataError(f'\'{path}\' holds no layer times; write {{"<layer>": {{"int8": ms, "fp16": ms}}, …}}.')
    seconds: dict[str, dict[Precision, float]] = {}
    for name, times in values.items():
        if not isinstance(times, dict) or set(times) != set(PRECISIONS):
            raise DataError(
                f"'{path}': layer '{printable(name)}' has {shown(times)}; it needs 'int8' and 'fp16', milliseconds."
            )
        for precision in PRECISIONS:
            value = times[precision]
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_MS:
                raise DataError(
                    f"'{path}': layer '{printable(name)}', {precision}: {shown(value)} is no time in milliseconds."
                )
        seconds[name] = {precision: times[precision] / 1e3 for precision in PRECISIONS}
    return LayerTimes(f"'{path}'", seconds)
