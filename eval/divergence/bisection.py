"""The first tensor at which two networks part.

Along a chain of layers, what differs stays different, so bisection finds where it begins in a logarithm of the number
of tensors. A network is no chain: a tensor of another branch may agree though an earlier one does not. So the tensor
that is found must prove itself: everything that enters it agrees. If something does not, the search goes on before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from eval.comparison import TensorComparator, TensorComparison, Tolerance
from eval.divergence.onnx_graph import OnnxGraph
from eval.divergence.weights import WeightDifference, describe_weight_difference

__all__ = ["Bisection", "Divergence", "TensorSource"]

_LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "BatchNormalization")

Inputs = Mapping[str, NDArray[np.float32]]


class TensorSource(Protocol):
    """What gives intermediate tensors and weights under the names of the tested graph."""

    def tensors(self, inputs: Inputs, names: Sequence[str], /) -> dict[str, NDArray[np.float32]]:
        """The named tensors, float32."""
        ...

    def expected_weights(self, node_name: str, tensor: str, /) -> Mapping[str, NDArray[Any]]:
        """Values of the weights of a node that makes `tensor`, as far as they are known."""
        ...


@dataclass(frozen=True)
class Divergence:
    """Where an output begins to differ.

    Attributes:
        component: Of the network.
        outputs: The outputs that were followed back to it.
        node: The node at which it begins: what enters it agrees, what leaves it does not.
        op_type: Its operator.
        tensor: What it makes.
        relative_l2: Of that tensor.
        max_abs: Of that tensor.
        limit: Largest relative L2 difference that counts as agreeing.
        nodes: All nodes since the last tensors that agree, where these do not lie directly before `node`.
        inputs: Those tensors.
        weights: Weights of these nodes that differ; all of them where the reference's are not known.
        tensors_compared: How many it took.
    """

    component: str
    outputs: tuple[str, ...]
    node: str
    op_type: str
    tensor: str
    relative_l2: float
    max_abs: float
    limit: float
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    weights: tuple[WeightDifference, ...]
    tensors_compared: int

    def summary(self) -> str:
        """One line: the node, how far it is off, and its weights."""
        text = (
            f"{', '.join(self.outputs)}: first differs at node '{self.node}' ({self.op_type}) of {self.component}, "
            f"relative L2 {self.relative_l2:.2g}, above {self.limit:.2g}"
        )
        for weight in self.weights:
            text += f"; weight '{weight.name}'" + (f": {weight.description}" if weight.description else "")
        return text


class Bisection:
    """Follows outputs of one component back to the nodes at which they begin to differ.

    Args:
        graph: The tested graph.
        reference: Gives the same tensors of the reference.
        comparable: Tensors that both have, in topological order; the graph's outputs among them.
        inputs: Of the component, the same for both.
        tolerance: When a tensor agrees.
        component: For the results.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        reference: TensorSource,
        comparable: Sequence[str],
        inputs: Inputs,
        tolerance: Tolerance,
        component: str = "",
    ) -> None:
        self._graph, self._reference, self._inputs = graph, reference, inputs
        self._comparable, self._tolerance, self._component = tuple(comparable), tolerance, component
        self._compared: dict[str, tuple[TensorComparison | None, bool]] = {}

    def first(self, output: str) -> Divergence | None:
        """Where an output begins to differ; None where it agrees on these inputs.

        Raises:
            DataError: the output is not among the comparable tensors.
        """
        graph = self._graph
        if output not in self._comparable:
            raise DataError(f"output '{output}' of '{graph.path}' is no tensor that both sides have")
        if not self._differs(output):
            return None
        last = output
        while True:
            found = self._bisect(last)
            nodes, border = graph.region(found, set(self._comparable) - {found})
            wrong = [name for name in border if self._differs(name)]
            if not wrong:
                break
            last = wrong[0]
        # Of several nodes that no tensor tells apart, a layer is the likely one, then whatever has weights.
        layers = [item for item in nodes if item.op_type in _LAYERS]
        others = [item for item in nodes if any(name in graph.weights for name in item.input)]
        node = [*nodes, *others[:1], *layers][-1]
        comparison, _ = self._compared[found]
        return Divergence(
            self._component,
            (output,),
            node.name,
            node.op_type,
            found,
            comparison.relative_l2 if comparison else math.inf,
            comparison.max_abs if comparison else math.inf,
            self._tolerance.relative_l2 or 0.0,
            tuple(item.name for item in nodes) if len(nodes) > 1 else (),
            tuple(border),
            self._weights(nodes, found, node.name),
            len(self._compared),
        )

    def _bisect(self, last: str) -> str:
        """A tensor that differs, before which (in the order of the graph) one that agrees was met, or none is left."""
        chain = self._graph.ancestors(last)
        suspects = [name for name in self._comparable if name in chain]
        agrees, differs = -1, len(suspects) - 1
        while differs - agrees > 1:
            middle = (agrees + differs) // 2
            if self._differs(suspects[middle]):
                differs = middle
            else:
                agrees = middle
        return suspects[differs]

    def _differs(self, name: str) -> bool:
        if name not in self._compared:
            a, b = (side.tensors(self._inputs, [name]).get(name) for side in (self._reference, self._graph))
            if a is None or b is None:
                self._compared[name] = (None, False)  # No real numbers, such as a shape.
            elif a.shape != b.shape:
                self._compared[name] = (None, True)
            else:
                comparator = TensorComparator(name)
                comparator.add(a, b, "")
                found = comparator.result()
                self._compared[name] = (found, bool(found.violations(self._tolerance)))
        return self._compared[name][1]

    def _weights(self, nodes: Sequence[Any], tensor: str, culprit: str) -> tuple[WeightDifference, ...]:
        found, unknown = [], []
        for node in nodes:
            expected = self._reference.expected_weights(node.name, tensor)
            for name in node.input:
                values = self._graph.weights.get(name)
                if values is None:
                    continue
                if name not in expected:
                    unknown.append(WeightDifference(name, ""))
                    continue
                # Rounding to FP16 and folding in another order are no differences.
                relative = 1e-3 if values.dtype == np.float16 else 2e-5
                description = describe_weight_difference(expected[name], values, relative)
                if description:
                    found.append(WeightDifference(name, description))
        # Nothing is known to be wrong: at least the weights of the node itself, and of the pairs that feed it.
        return tuple(found or [item for item in unknown if item.name.startswith(culprit)] or unknown)
