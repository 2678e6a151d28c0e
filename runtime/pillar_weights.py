"""The pillar encoder's layers from its exported ONNX file, with their normalization folded in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import DataError
from base.lazy import require
from base.onnx_files import attribute, read_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from runtime.voxels import PackedVoxels

__all__ = ["PfnLayer", "PillarWeights"]

# Points that are multiplied at a time, so that their products stay in a core's cache.
_BLOCK = 4096
# Nodes behind which a value is the same.
_SAME_VALUES = ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Transpose")


@dataclass(frozen=True, eq=False)
class PfnLayer:
    """y = relu(x @ weight + bias), and a maximum over the pillar's slots (mmdet3d's PFNLayer).

    Attributes:
        weight: (F, H) float32.
        bias: (H,) float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PillarWeights:
    """A PillarFeatureNet after the decoration of its points.

    Attributes:
        layers: The first takes a decorated point; each other one a slot's result beside the pillar's maximum of the
            layer before, in this order.
        float16: Whether features and the result of each product and sum are rounded to float16.
    """

    layers: tuple[PfnLayer, ...]
    float16: bool = False

    @property
    def features(self) -> int:
        """Of a decorated point."""
        return int(self.layers[0].weight.shape[0])

    @property
    def channels(self) -> int:
        """Of a pillar."""
        return int(self.layers[-1].weight.shape[1])

    @property
    def packed(self) -> NDArray[np.float32]:
        """All numbers in a row, as kernels/pfn.cu reads them."""
        parts = [part for layer in self.layers for part in (layer.weight, layer.bias)]
        return np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(M, P, F) float32 decorated points, padded slots zero -> (M, C) float32, in numpy."""
        slots = features
        for layer in self.layers[:-1]:
            slots = self._layer(slots, layer)
            largest = np.broadcast_to(slots.max(axis=1, keepdims=True), slots.shape)
            slots = np.concatenate([slots, largest], axis=2)
        return np.asarray(self._layer(slots, self.layers[-1]).max(axis=1), np.float32)

    def apply_packed(self, features: NDArray[np.float32], voxels: PackedVoxels, max_points: int) -> NDArray[np.float32]:
        """What `apply` gives, from points without padding: equal to float32 rounding, in a fraction of its time.

        All padded slots of a pillar are alike, so one of them stands for all. A layer is linear before its ReLU: the
        pillar's maximum is multiplied once a pillar, not once a slot. A ReLU and a maximum may change places. Computed
        in float32, also where `float16` is set.

        Args:
            features: (K, F) float32, from `runtime.preprocess.decorate_packed`.
            voxels: The pillars that they belong to.
            max_points: Slots of a pillar; one with fewer points has padded ones.

        Returns:
            (M, C) float32.
        """
        if not len(voxels):
            return np.zeros((0, self.channels), np.float32)
        places = voxels.places
        # Pillars by descending size, as in the slots: those without padding are the first.
        full = int(np.count_nonzero(voxels.num_points >= max_points))
        slots: NDArray[np.float32] = features
        padded: NDArray[np.float32] = np.zeros((1, features.shape[1]), np.float32)
        shared: NDArray[np.float32] = np.zeros((len(voxels), 0), np.float32)
        for layer in self.layers:
            own, rest = layer.weight[: slots.shape[1]], layer.weight[slots.shape[1] :]
            offset = shared @ rest + layer.bias
            padded = padded @ own
            is_last = layer is self.layers[-1]
            # The last layer's products are needed no more: one part's take the place of those before.
            rows = _BLOCK if is_last else len(slots)
            products: NDArray[np.float32] = np.empty((rows, own.shape[1]), np.float32)
            largest: NDArray[np.float32] = np.full((len(voxels), own.shape[1]), -np.inf, np.float32)
            np.copyto(largest[full:], padded[full:] if len(padded) > 1 else padded)
            for slot_begin, slot_end in places.spans:
                for begin in range(slot_begin, slot_end, _BLOCK):
                    end = min(begin + _BLOCK, slot_end)
                    part = products[: end - begin] if is_last else products[begin:end]
                    np.matmul(slots[begin:end], own, out=part)
                    whose = largest[begin - slot_begin : end - slot_begin]
                    np.maximum(whose, part, out=whose)
            largest += offset
            shared = np.maximum(largest, np.float32(0), out=largest)
            if not is_last:
                slots = np.maximum(products + offset[places.ranks], np.float32(0))
                padded = np.maximum(padded + offset, np.float32(0))
        result = np.empty_like(shared)
        result[places.order] = shared
        return result

    def _layer(self, values: NDArray[np.float32], layer: PfnLayer) -> NDArray[np.float32]:
        product = self._rounded(self._rounded(values) @ layer.weight)
        return self._rectified(product + layer.bias)

    def _rectified(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.maximum(self._rounded(values), np.float32(0))

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
            DataError: the file is broken, or its graph is no chain of PFN layers; the message names the node.
            MissingDependencyError: onnx is not installed.
        """
        onnx = require("onnx", "to read the pillar encoder")
        graph = read_onnx(path, error=DataError, missing="Export it with --mode=onnx.").graph
        reader = _Reader(graph, onnx, Path(path).name)
        products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
        if not products:
            raise DataError(f"{reader.file} has no product with weights; a pillar encoder has one for each layer.")
        layers = tuple(PfnLayer(*reader.layer(node)) for node in products)
        for before, after, node, following in zip(layers, layers[1:], products, products[1:], strict=False):
            if after.weight.shape[0] != 2 * before.weight.shape[1]:
                raise DataError(
                    f"{reader.file}: node '{following.name}' takes {after.weight.shape[0]} channels, but '{node.name}' "
                    f"gives {before.weight.shape[1]}; a layer takes them and their maximum, "
                    f"{2 * before.weight.shape[1]}."
                )
            reader.check_concat(following, node)
        reader.check_ends(products[0], products[-1], graph)
        entry = graph.input[0].name
        casts = [node for node in graph.node if node.op_type == "Cast" and entry in node.input]
        float16 = any(attribute(node, "to", 0) == onnx.TensorProto.FLOAT16 for node in casts)
        return cls(layers, float16 and round_float16)


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
                self._maximum(current)
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

    def _maximum(self, relu: Any) -> Any:
        """What takes the maximum over the slots of a layer's result; mmdet3d's PFNLayer can also take their mean."""
        for reader in self._readers(relu.output[0]):
            if reader.op_type == "ReduceMax":
                return reader
        raise DataError(f"{self.file}: nothing takes the maximum over slots of node '{relu.name}' (Relu).")

    def _readers(self, name: str) -> Iterator[Any]:
        """Nodes that compute with a value, also behind casts and changes of shape."""
        for reader in self._consumers.get(name, []):
            if reader.op_type in _SAME_VALUES:
                yield from self._readers(reader.output[0])
            elif reader.op_type != "Shape":
                yield reader

    def check_ends(self, first: Any, last: Any, graph: Any) -> None:
        """The first product must take the graph's input, and the maximum of the last layer be its output."""
        entries = [node for tensor in graph.input for node in self._readers(tensor.name)]
        if [node.name for node in entries] != [first.name]:
            raise DataError(
                f"{self.file}: its input goes to {[f'{node.name} ({node.op_type})' for node in entries]}; a pillar "
                f"encoder has one product there, '{first.name}'."
            )
        relu = last
        while relu.op_type != "Relu":
            relu = self._next(relu)
        behind = list(self._readers(self._maximum(relu).output[0]))
        if behind:
            raise DataError(
                f"{self.file}: node '{behind[0].name}' ({behind[0].op_type}) takes the result of the layer of "
                f"'{last.name}', which is no PFN layer: product, normalization or bias, ReLU, maximum."
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
