"""The kernels against the plan's arithmetic on the CPU, layer by layer on equal inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.cuda_engine.checks.reference import run_heads, run_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.network import DeviceNetwork

__all__ = ["LayerAgreement", "compare_layers"]

# Two sums of the same float16 products in float32, in different orders, rounded to float16: rarely more than a unit in
# the last place (2^-10 relative), of values around 1. Hidden activations of the heads carry one such rounding each.
_RELATIVE = 2.0**-9
_HEAD_ABSOLUTE = 2e-2


@dataclass(frozen=True)
class LayerAgreement:
    """One layer on the device against the CPU, both from the device's input of the layer.

    Attributes:
        name: ONNX node, or the output's name.
        equal_share: Share of equal elements.
        largest: Largest difference: in steps where the layer's result is INT8, else in the result's unit.
        in_steps: Whether the result is INT8.
        passed: INT8: at most one step, and that for fewer than one in a thousand. Others: within their rounding.
    """

    name: str
    equal_share: float
    largest: float
    in_steps: bool
    passed: bool


def compare_layers(device: CudaDevice, network: DeviceNetwork, stream: int) -> tuple[LayerAgreement, ...]:
    """Compares every layer and output of the network's last run.

    Args:
        stream: The one that the network was put on.
    """
    plan = network.plan
    maps = {name: item.read(device, stream) for name, item in network.maps.items()}
    found = []
    for conv in plan.convs:
        expected = run_layer(plan, conv, maps[conv.source])
        if conv.target in plan.outputs:
            found.append(_agreement(conv.target, network.read_output(conv.target, stream), expected))
            continue
        channels = slice(conv.target_channel, conv.target_channel + conv.out_channels)
        found.append(_agreement(conv.node, maps[conv.target][channels], expected))
    for layer in plan.heads:
        for name, expected in run_heads(plan, layer, maps[layer.source]).items():
            found.append(_agreement(name, network.read_output(name, stream)[None], expected))
    return tuple(found)


def _agreement(name: str, result: NDArray[Any], expected: NDArray[Any]) -> LayerAgreement:
    """INT8 codes, a float16 map, or an output in float32."""
    difference = np.abs(result.astype(np.float32) - expected.astype(np.float32))
    share, largest = float((result == expected).mean()), float(difference.max())
    if expected.dtype == np.int8:
        return LayerAgreement(name, share, largest, True, largest <= 1 and share >= 0.999)
    if expected.dtype == np.float32:
        return LayerAgreement(name, share, largest, False, largest <= _HEAD_ABSOLUTE)
    limit = _RELATIVE * np.maximum(np.abs(expected.astype(np.float32)), 1.0)
    return LayerAgreement(name, share, largest, False, bool((difference <= limit).all()))
