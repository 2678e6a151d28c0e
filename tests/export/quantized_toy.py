"""A network with every shape that Q/DQ pairs come in, written with torch's own fake quantization."""

from __future__ import annotations

import io
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

INPUT_SCALE, BLOCK_SCALE, DEEP_SCALE, CONCAT_SCALE = 0.03125, 0.015625, 0.01171875, 0.013671875
SHAPE = (1, 4, 16, 16)


class Quantized(nn.Module):
    """A convolution whose input and weight are quantized; every instance has constants of its own."""

    weight_scale: Tensor

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        others = [axis for axis in range(4) if axis != self.axis]
        # A power of two: exact in FP16, so that no rounding of a scale hides behind the tolerances.
        exponent = torch.ceil(torch.log2(layer.weight.detach().abs().amax(others) / 127))
        self.register_buffer("weight_scale", torch.exp2(exponent))

    def quantized_weight(self) -> Tensor:
        zero_points = torch.zeros(len(self.weight_scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            self.layer.weight, self.weight_scale, zero_points, self.axis, -128, 127
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.scale:
            x = torch.fake_quantize_per_tensor_affine(x, self.scale, 0, -128, 127)
        weight, bias = self.quantized_weight(), self.layer.bias
        if self.axis == 1:
            return functional.conv_transpose2d(x, weight, bias, self.layer.stride)
        return functional.conv2d(x, weight, bias, self.layer.stride, self.layer.padding)


class QuantizedToy(nn.Module):
    """Two blocks, the first of which feeds a block and a branch; a concatenation; a head in floating point.

    Args:
        stray: Quantize the input of the last layer too, which is not quantized itself.
    """

    def __init__(self, stray: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stray = stray
        self.block0 = Quantized(nn.Conv2d(4, 8, 3, 2, 1), INPUT_SCALE)
        self.block1 = Quantized(nn.Conv2d(8, 8, 3, 2, 1), BLOCK_SCALE)
        self.branch0 = Quantized(nn.Conv2d(8, 8, 1), BLOCK_SCALE)
        self.branch1 = Quantized(nn.ConvTranspose2d(8, 6, 2, 2), DEEP_SCALE)
        self.shared = Quantized(nn.Conv2d(14, 8, 3, 1, 1), CONCAT_SCALE)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = functional.relu(self.block0(x))
        second = functional.relu(self.block1(first))
        branches = [functional.relu(self.branch0(first)), functional.relu(self.branch1(second))]
        joined = torch.cat(
            [torch.fake_quantize_per_tensor_affine(item, CONCAT_SCALE, 0, -128, 127) for item in branches], 1
        )
        features = functional.relu(self.shared(joined))
        if self.stray:
            features = torch.fake_quantize_per_tensor_affine(features, 0.0625, 0, -128, 127)
        out: Tensor = self.last(features)
        return out


def trace(module: nn.Module, opset: int = 19, shape: tuple[int, ...] = SHAPE) -> onnx.ModelProto:
    """The module as the exporter writes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Shapes are constants here, as in the export. torch offers the name in torch.jit, but does not list it there.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            module.eval(),
            (torch.zeros(shape),),
            buffer,  # type: ignore[arg-type]  # torch writes into file objects; its annotation leaves them out
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["y"],
        )
    return onnx.load_from_string(buffer.getvalue())


def sample(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Any:
    """A float32 input."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()


def run_plainly(model: onnx.ModelProto, x: Any) -> Any:
    """The graph on ONNX Runtime node by node: its fusions round biases to INT32, which moves a code here and there."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]
