"""An ONNX file of which every inner tensor can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from base.lazy import require
from base.onnx_files import read_onnx, session_errors

__all__ = ["OnnxGraph"]


class OnnxGraph:
    """Runs an ONNX model with any of its tensors as outputs.

    Attributes:
        path: The file.
        nodes: In topological order.
        order: Names of the tensors that nodes make, in that order.
        outputs: Names of the graph's outputs.
        weights: Initializer name -> values.
    """

    def __init__(self, path: str | Path) -> None:
        """Args:
            path: The file.

        Raises:
            DataError: it is missing or no ONNX model.
        """
        onnx = require("onnx", "to look into ONNX files")
        self.path = Path(path)
        try:
            self._model = read_onnx(path, error=DataError)
        except DataError as error:
            raise DataError(f"'{path}' cannot be read as ONNX: {error}") from error
        graph = self._model.graph
        self.nodes = list(graph.node)
        self.order = [name for node in self.nodes for name in node.output if name]
        self.outputs = [value.name for value in graph.output]
        self.weights: dict[str, NDArray[Any]] = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        self._producer = {name: node for node in self.nodes for name in node.output if name}

    def producer(self, tensor: str) -> Any:
        """The node that makes a tensor; None for inputs and weights."""
        return self._producer.get(tensor)

    def expected_weights(self, node_name: str, tensor: str) -> Mapping[str, NDArray[Any]]:
        """All weights: where this graph is the reference, a node of another has weights of the same names."""
        return self.weights

    def ancestors(self, tensor: str) -> set[str]:
        """Tensors made by nodes that `tensor` depends on, itself among them."""
        found: set[str] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            if name in found or name not in self._producer:
                continue
            found.add(name)
            waiting.extend(self._producer[name].input)
        return found

    def region(self, tensor: str, known: set[str]) -> tuple[list[Any], list[str]]:
        """Nodes between a tensor and the nearest tensors that are known.

        Args:
            tensor: Where to begin; its own node belongs to the region.
            known: Where to end.

        Returns:
            The nodes in topological order, and the known tensors that enter the region.
        """
        inside: set[str] = set()
        border: set[str] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            if name in inside or name not in self._producer:
                continue
            inside.add(name)
            for source in self._producer[name].input:
                if source in known:
                    border.add(source)
                else:
                    waiting.append(source)
        nodes = [node for node in self.nodes if any(name in inside for name in node.output)]
        return nodes, [name for name in self.order if name in border]

    def tensors(
        self, inputs: Mapping[str, NDArray[np.float32]], names: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Runs the model and returns the named tensors as float32; those that hold no real numbers are left out.

        Raises:
            DataError: a name is no tensor of the graph, or ONNX Runtime refuses the model.
        """
        onnx = require("onnx", "to look into ONNX files")
        ort = require("onnxruntime", "to run ONNX files")
        unknown = [name for name in names if name not in self._producer]
        if unknown:
            raise DataError(f"'{self.path}' makes no tensor {unknown}")
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        # Only what is asked for: the runtime then leaves out what comes after it.
        declared = {value.name: value for value in self._model.graph.output}
        del model.graph.output[:]
        model.graph.output.extend(declared.get(name, onnx.ValueInfoProto(name=name)) for name in names)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what it has to say is in what it raises
        options.use_deterministic_compute = True
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            values = session.run(list(names), dict(inputs))
        except session_errors() as error:
            raise DataError(
                f"ONNX Runtime cannot run '{self.path}' with its inner tensors as outputs: {error}"
            ) from error
        return {
            name: np.asarray(value, np.float32)
            for name, value in zip(names, values, strict=True)
            if np.issubdtype(np.asarray(value).dtype, np.floating)
        }
