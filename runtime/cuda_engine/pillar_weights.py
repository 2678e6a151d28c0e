"""The pillar encoder's two layers from its exported ONNX file, with their normalization folded in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import DataError
from base.lazy import require
from base.onnx_files import attribute, read_onnx

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PillarWeights"]


@dataclass(frozen=True, eq=False)
class PillarWeights:
    """Two PFN layers: y = relu(x @ weight + bias), each with a maximum over the pillar's slots (mmdet3d's PFNLayer).

    Attributes:
        first: (F, H) float32; F features of a decorated point.
        first_bias: (H,) float32.
        second: (2 * H, C) float32; the first H rows take a slot's result of the first layer, the others the maximum.
        second_bias: (C,) float32.
        float16: Whether features and the result of each product and sum are rounded to float16.
    """

    first: NDArray[np.float32]
    first_bias: NDArray[np.float32]
    second: NDArray[np.float32]
    second_bias: NDArray[np.float32]
    float16: bool

    @property
    def packed(self) -> NDArray[np.float32]:
        """All numbers in a row, as kernels/pfn.cu reads them."""
        parts = (self.first, self.first_bias, self.second, self.second_bias)
        return np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(M, P, F) float32 decorated points, padded slots zero -> (M, C) float32, in numpy."""
        slots = self._layer(features, self.first, self.first_bias)
        largest = np.broadcast_to(slots.max(axis=1, keepdims=True), slots.shape)
        result = self._layer(np.concatenate([slots, largest], axis=2), self.second, self.second_bias)
        return np.asarray(result.max(axis=1), np.float32)

    def _layer(
        self, values: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        product = self._rounded(self._rounded(values) @ weight)
        return np.maximum(self._rounded(product + bias), np.float32(0))

    def _rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values.astype(np.float16).astype(np.float32) if self.float16 else values

    @classmethod
    def from_onnx(cls, path: Path, *, round_float16: bool = False) -> PillarWeights:
        """Reads `pts_voxel_encoder.onnx`: MatMul or Gemm, with BatchNormalization folded by the exporter or not.

        Args:
            path: The file.
            round_float16: Round as a float16 graph says, coordinates first: to 0.06 m at 100 m. Without, such a graph
                is computed in float32 with its float16 weights, as ONNX Runtime does on a CPU and as the canvas' scale
                was calibrated. No effect on a float32 graph.

        Raises:
            DataError: the file is broken, or its graph is no PFN of two layers; the message names the node.
            MissingDependencyError: onnx is not installed.
        """
        onnx = require("onnx", "to read the pillar encoder")
        graph = read_onnx(path, error=DataError, missing="Export it with --mode=onnx.").graph
        reader = _Reader(graph, onnx, Path(path).name)
        products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
        if len(products) != 2:
            names = [node.name for node in products]
            raise DataError(
                f"{reader.file} has {len(products)} products with weights {names}; the engine runs pillar encoders of "
                "two layers (feat_channels of two entries)."
            )
        (first, first_bias), (second, second_bias) = (reader.layer(node) for node in products)
        if second.shape[0] != 2 * first.shape[1]:
            raise DataError(
                f"{reader.file}: node '{products[1].name}' takes {second.shape[0]} channels, but '{products[0].name}' "
                f"gives {first.shape[1]}; the second layer takes them and their maximum, {2 * first.shape[1]}."
            )
        reader.check_concat(products[1], products[0])
        entry = graph.input[0].name
        casts = [node for node in graph.node if node.op_type == "Cast" and entry in node.input]
        float16 = any(attribute(node, "to", 0) == onnx.TensorProto.FLOAT16 for node in casts)
        return cls(first, first_bias, second, second_bias, float16 and round_float16)


class _Reader:
    """Looks up constants, producers and consumers of one graph."""

    def __init__(self, graph: Any, onnx: Any, file: str) -> None:
        self.file = file
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                values = [item.t for item in node.attribute if item.name == "value"]
                self._constants.update((node.output[0], onnx.numpy_helper.to_array(value)) for value in values)
        self._producers = {name: node for node in graph.node for name in node.output}
        self._consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    def layer(self, node: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight (in, out) and bias of one product, with what follows up to its ReLU."""
        weight = self._constant(node, 1)
        if weight.ndim != 2:
            raise DataError(
                f"{self.file}: node '{node.name}' multiplies by a constant of shape {weight.shape}, not by a matrix."
            )
        if node.op_type == "Gemm":
            if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "transA", 0):
                raise DataError(
                    f"{self.file}: node '{node.name}' (Gemm) has an alpha or a transA, which is not supported."
                )
            weight = weight.T if attribute(node, "transB", 0) else weight
        channels = weight.shape[1]
        bias: NDArray[np.float32] = np.zeros(channels, np.float32)
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
            bias = self._vector(node, 2, channels)
        current = node
        while True:
            current = self._next(current)
            if current.op_type == "Relu":
                return np.ascontiguousarray(weight), bias
            if current.op_type == "Add":
                index = 0 if current.input[0] in self._constants else 1
                bias = bias + self._vector(current, index, channels)
            elif current.op_type == "BatchNormalization":
                scale, shift, mean, variance = (
                    self._vector(current, index, channels).astype(np.float64) for index in range(1, 5)
                )
                factor = scale / np.sqrt(variance + attribute(current, "epsilon", 1e-5))
                weight = (weight * factor).astype(np.float32)
                bias = ((bias - mean) * factor + shift).astype(np.float32)
            elif current.op_type not in ("Transpose", "Cast", "Identity"):
                raise DataError(
                    f"{self.file}: node '{current.name}' ({current.op_type}) after '{node.name}' is not part of a PFN "
                    "layer: product, normalization or bias, ReLU, maximum."
                )

    def check_concat(self, second: Any, first: Any) -> None:
        """The second product must take [result of the first layer; its maximum], in this order."""
        concat = self._producers.get(second.input[0])
        while concat is not None and concat.op_type in ("Cast", "Identity"):
            concat = self._producers.get(concat.input[0])
        if concat is None or concat.op_type != "Concat":
            raise DataError(f"{self.file}: node '{second.name}' does not take a Concat of slots and their maximum.")
        slots = self._producers.get(concat.input[0])
        if slots is None or slots.op_type != "Relu" or len(concat.input) != 2:
            raise DataError(
                f"{self.file}: node '{concat.name}' does not join the ReLU after '{first.name}' with its maximum."
            )

    def _next(self, node: Any) -> Any:
        consumers = self._consumers.get(node.output[0], [])
        if len(consumers) != 1:
            raise DataError(f"{self.file}: the result of node '{node.name}' has {len(consumers)} readers, not one.")
        return consumers[0]

    def _constant(self, node: Any, index: int) -> NDArray[np.float32]:
        name = node.input[index] if index < len(node.input) else ""
        if name not in self._constants:
            raise DataError(f"{self.file}: input '{name}' of node '{node.name}' ({node.op_type}) is no constant.")
        values = self._constants[name]
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise DataError(
                f"{self.file}: input '{name}' of node '{node.name}' ({node.op_type}) is of type {values.dtype}, or "
                "holds NaN or infinities; the engine takes finite numbers."
            )
        return np.asarray(values, np.float32)

    def _vector(self, node: Any, index: int, channels: int) -> NDArray[np.float32]:
        """A constant with one value for each channel."""
        values = self._constant(node, index)
        if values.size != channels:
            raise DataError(
                f"{self.file}: input '{node.input[index]}' of node '{node.name}' ({node.op_type}) has shape "
                f"{values.shape}; the layer has {channels} channels."
            )
        return values.reshape(-1)
