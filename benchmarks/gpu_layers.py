"""The engine's launches against the roofline of the GPU that they ran on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quant.roofline import DEVICES, ConvLayer, Device, Precision
from runtime.cuda_engine.network import heads_label

if TYPE_CHECKING:
    from benchmarks.gpu_engine import LayerTime
    from runtime.cuda_engine.plan import FusedConv, HeadsLayer, NetworkPlan, PlanMap

__all__ = ["LaunchWork", "LayerRow", "device_of", "launch_works", "layer_rows"]

_ELEMENT = {"int8": 1, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class LaunchWork:
    """What one launch has to do, however it does it.

    Attributes:
        label: Its ONNX node, or `heads_label`.
        shape: In words: "3x3 64→64, 760x760".
        flop: Operations by the precision of their operands; a multiplication with its accumulation counts as two.
        bytes: Read and written once: input, weights, output.
    """

    label: str
    shape: str
    flop: dict[Precision, int]
    bytes: int

    def bounds_s(self, device: Device) -> tuple[float, float]:
        """Seconds that computing and memory traffic take at the least."""
        computing = sum(flop / device.peak(precision) for precision, flop in self.flop.items())
        return computing, self.bytes / device.bandwidth


@dataclass(frozen=True)
class LayerRow:
    """A launch in a table.

    Attributes:
        label, shape: Of the work.
        in_order_us, repeated_us: Measured (see `LayerTime`).
        gflop, megabytes: The work, 10^9 and 10^6.
        roofline_us: The least time on this GPU; None where its peaks are not known.
        bound: "compute" or "memory", whichever takes the roofline's time; None likewise.
        share: Roofline over the time in order; None likewise.
    """

    label: str
    shape: str
    in_order_us: float
    repeated_us: float
    gflop: float
    megabytes: float
    roofline_us: float | None
    bound: str | None
    share: float | None


def device_of(gpu_name: str) -> Device | None:
    """Peaks for a driver's product name; None for another product than the SXM ones that are listed."""
    if "H200" in gpu_name and "NVL" not in gpu_name:
        return DEVICES["h200"]
    if "H100 80GB HBM3" in gpu_name:
        return DEVICES["h100"]
    return None


def launch_works(plan: NetworkPlan) -> list[LaunchWork]:
    """Every launch of `DeviceNetwork`, in its order: the convolutions, then passes over several heads at once."""
    return [*(_conv_work(conv, plan) for conv in plan.convs), *(_heads_work(plan, layer) for layer in plan.heads)]


def layer_rows(plan: NetworkPlan, times: Sequence[LayerTime], device: Device | None) -> list[LayerRow]:
    """Work and time side by side.

    Raises:
        ValueError: the times are of other launches.
    """
    works = launch_works(plan)
    if [work.label for work in works] != [time.label for time in times]:
        raise ValueError(f"times of {[time.label for time in times]}, launches {[work.label for work in works]}")
    rows = []
    for work, time in zip(works, times, strict=True):
        roofline = bound = share = None
        if device is not None:
            computing, traffic = work.bounds_s(device)
            roofline = max(computing, traffic) * 1e6
            bound = "compute" if computing >= traffic else "memory"
            share = roofline / time.in_order_us
        rows.append(
            LayerRow(
                work.label,
                work.shape,
                time.in_order_us,
                time.repeated_us,
                sum(work.flop.values()) / 1e9,
                work.bytes / 1e6,
                roofline,
                bound,
                share,
            )
        )
    return rows


def _conv_work(conv: FusedConv, plan: NetworkPlan) -> LaunchWork:
    source, target = plan.maps[conv.source], plan.target(conv)
    layer = ConvLayer(
        conv.node,
        (),
        conv.in_channels,
        conv.out_channels,
        conv.kernel,
        (source.height, source.width),
        (target.height, target.width),
        conv.upsample > 1,
    )
    traffic = (layer.in_elements + layer.weights) * _ELEMENT[source.type] + layer.out_elements * _ELEMENT[target.type]
    kind = f"{conv.kernel}x{conv.kernel}" + (" up" if conv.upsample > 1 else f"/{conv.stride}" * (conv.stride > 1))
    shape = f"{kind} {conv.in_channels}→{conv.out_channels}, {_size(target)}"
    return LaunchWork(conv.node, shape, {_precision(source): layer.flop}, traffic)


def _heads_work(plan: NetworkPlan, heads: HeadsLayer) -> LaunchWork:
    source = plan.maps[heads.source]
    cells, branches = source.height * source.width, heads.branches
    hidden = sum(branch.hidden_weight.size for branch in branches)
    last = sum(branch.last_weight.size for branch in branches)
    outputs = sum(len(branch.last_bias) for branch in branches)
    element = _ELEMENT[source.type]
    flop: dict[Precision, int] = {_precision(source): 2 * cells * hidden}
    flop["fp16"] = flop.get("fp16", 0) + 2 * cells * last
    traffic = (cells * source.channels + hidden) * element + last * 2 + cells * outputs * 4
    return LaunchWork(heads_label(heads), f"{len(branches)} heads of 2 1x1, {_size(source)}", flop, traffic)


def _precision(plan_map: PlanMap) -> Precision:
    return "int8" if plan_map.type == "int8" else "fp16"


def _size(plan_map: PlanMap) -> str:
    return f"{plan_map.height}x{plan_map.width}"
