"""A plan run on the CPU with numpy alone, in the plan's arithmetic: what kernels are held against.

Integer sums are exact: products and sums of codes stay far below 2**53, so that float64 holds each of them, in any
order. Sums of float16 products are made in float64 too and rounded to float32 once, which is what float32 sums in
every order scatter around. What follows is float32, one rounding an operation, as `plan` writes it down:

    y = relu(float32(acc) * (input_scale * weight_scale[c]) + bias[c])
    code = clamp(round_half_even(y / output_scale), -128, 127), or float16(y)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from base.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.cuda_engine.plan import FusedConv, HeadsLayer, NetworkPlan, PlanMap

__all__ = ["run_heads", "run_layer", "run_plan", "store"]

# Elements of the matrix that a convolution becomes; larger maps are worked through in bands of rows.
_BAND_ELEMENTS = 1 << 24


def run_plan(plan: NetworkPlan, canvas: NDArray[np.float32], *, keep_maps: bool = False) -> dict[str, NDArray[Any]]:
    """Runs a whole network.

    Args:
        plan: The network.
        canvas: (C, H, W) float32, scattered pillar features.
        keep_maps: Return the maps between the layers too.

    Returns:
        Output name -> (1, n, h, w) float32, in the order of the plan; with `keep_maps` also map name ->
        (C, h, w), int8 codes or float16.

    Raises:
        DataError: the canvas is not of the plan's size.
    """
    size = (plan.canvas.channels, plan.canvas.height, plan.canvas.width)
    if canvas.shape != size:
        raise DataError(f"The canvas has the shape {canvas.shape}; the plan's is {size} (channels, y, x).")
    maps: dict[str, NDArray[Any]] = {
        item.name: np.zeros((item.channels, item.height, item.width), item.type) for item in plan.maps.values()
    }
    maps[plan.canvas.name] = store(canvas, plan.canvas)
    outputs: dict[str, NDArray[np.float32]] = {}
    for conv in plan.convs:
        result = run_layer(plan, conv, maps[conv.source])
        if conv.target in plan.outputs:
            outputs[conv.target] = result[None]
            continue
        channels = slice(conv.target_channel, conv.target_channel + conv.out_channels)
        maps[conv.target][channels] = result
    for layer in plan.heads:
        outputs |= run_heads(plan, layer, maps[layer.source])
    outputs = {name: outputs[name] for name in plan.outputs}
    return {**outputs, **maps} if keep_maps else outputs


def run_layer(plan: NetworkPlan, conv: FusedConv, source: NDArray[Any]) -> NDArray[Any]:
    """One layer from the contents of its source map.

    Args:
        plan: The network that it belongs to.
        conv: The layer.
        source: (C, h, w), int8 codes or float16: the whole map.

    Returns:
        (C_out, h', w') as the target stores it: what the layer writes from `target_channel` on.
    """
    source = source[conv.source_channel : conv.source_channel + conv.in_channels]
    if conv.upsample > 1:
        total = _upsample(source, conv.weight, conv.upsample)
    else:
        total = _convolve(source, conv.weight, conv.stride, conv.padding)
    result = _scaled(total, plan.maps[conv.source].scale, conv.weight_scale, conv.bias)
    if conv.relu:
        result = np.maximum(result, np.float32(0))
    return store(result, plan.target(conv))


def run_heads(plan: NetworkPlan, heads: HeadsLayer, source: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Branches of the head from the contents of the map that they read.

    Args:
        plan: The network.
        heads: Branches of it.
        source: (C_in, h, w), int8 codes or float16.

    Returns:
        Output name -> (1, n, h, w) float32.
    """
    outputs = {}
    for branch in heads.branches:
        total = _convolve(source, branch.hidden_weight[:, :, None, None], 1, 0)
        hidden = _scaled(total, plan.maps[heads.source].scale, branch.hidden_weight_scale, branch.hidden_bias)
        activations = _half(np.maximum(hidden, np.float32(0)))
        total = _convolve(activations, branch.last_weight[:, :, None, None], 1, 0)
        outputs[branch.output] = _scaled(total, None, None, branch.last_bias)[None]
    return outputs


def store(values: NDArray[np.float32], target: PlanMap) -> NDArray[Any]:
    """What a map holds of float32 values: codes on its scale, half to even and saturated, float16, or as they are."""
    if target.is_output:
        return values
    if target.scale is None:
        return _half(values)
    steps = np.rint(values / np.float32(target.scale))
    codes: NDArray[np.int8] = np.clip(steps, -128, 127).astype(np.int8)
    return codes


def _half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """float16, half to even; infinite beyond 65504, as a GPU converts."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _scaled(
    total: NDArray[np.float64],
    input_scale: float | None,
    weight_scale: NDArray[np.float32] | None,
    bias: NDArray[np.float32],
) -> NDArray[np.float32]:
    """float32 result in front of the ReLU, from sums over the operands as they are stored."""
    result = total.astype(np.float32)
    if input_scale is not None and weight_scale is not None:
        result *= (np.float32(input_scale) * weight_scale)[:, None, None]
    result += bias[:, None, None]
    return result


def _convolve(source: NDArray[Any], weight: NDArray[Any], stride: int, padding: int) -> NDArray[np.float64]:
    """Sums of products: (C_in, h, w) with (C_out, C_in, k, k) to (C_out, h', w')."""
    out_channels, in_channels, kernel, _ = weight.shape
    padded = np.pad(source, ((0, 0), (padding, padding), (padding, padding)))
    height, width = ((size - kernel) // stride + 1 for size in padded.shape[1:])
    matrix = weight.reshape(out_channels, -1).astype(np.float64)
    total = np.empty((out_channels, height, width))
    rows = max(_BAND_ELEMENTS // (in_channels * kernel * kernel * width), 1)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        band = padded[:, first * stride : (last - 1) * stride + kernel].astype(np.float64)
        # (C_in, rows, w', k, k): what each output cell sees.
        windows = sliding_window_view(band, (kernel, kernel), axis=(1, 2))  # type: ignore[call-overload]
        windows = windows[:, ::stride, ::stride]
        columns = windows.transpose(0, 3, 4, 1, 2).reshape(matrix.shape[1], -1)
        total[:, first:last] = (matrix @ columns).reshape(out_channels, last - first, width)
    return total


def _upsample(source: NDArray[Any], weight: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """The same of a transposed convolution whose kernel is its stride: (C_in, h, w) to (C_out, h * k, w * k)."""
    channels, height, width = source.shape
    pixels = source.reshape(channels, -1).astype(np.float64)
    total = np.empty((weight.shape[0], height * factor, width * factor))
    for i in range(factor):
        for j in range(factor):
            product = weight[:, :, i, j].astype(np.float64) @ pixels
            total[:, i::factor, j::factor] = product.reshape(-1, height, width)
    return total
