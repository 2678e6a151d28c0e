"""The outputs of a PyTorch component's modules, under the names that the exported graph gives its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from base.lazy import require
from eval.divergence.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchModules"]


class TorchModules:
    """A component of which the output of every module can be asked for.

    A node of the exported graph is named after the module it comes from (`/pts_backbone/blocks.0/blocks.0.3/Conv`). A
    module's output is the output of the last node in its scope; a BatchNorm that the exporter folded into the
    convolution before it has no node, and the convolution's node makes what the BatchNorm makes.

    Attributes:
        names: Tensor of the graph -> path of the module with the same output.
    """

    def __init__(self, module: nn.Module, graph: OnnxGraph, inputs: Mapping[str, NDArray[np.float32]]) -> None:
        """Args:
        module: The component, in evaluation mode.
        graph: Exported from it.
        inputs: The component's inputs in order; it is run once to see which module follows which.
        """
        self._torch = require("torch", "to run the PyTorch model")
        self._module = module.eval()
        self._modules: dict[str, nn.Module] = {path: child for path, child in module.named_modules() if path}
        self._graph = graph
        self.names = self._match(inputs)

    def tensors(
        self, inputs: Mapping[str, NDArray[np.float32]], names: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Runs the component and returns the outputs that belong to the named tensors of the graph.

        Raises:
            DataError: a tensor belongs to no module.
        """
        found: dict[str, NDArray[np.float32]] = {}
        handles = []
        for name in names:
            if name in self._graph.outputs:
                continue
            if name not in self.names:
                raise DataError(f"tensor '{name}' of '{self._graph.path}' belongs to no module of the PyTorch model")
            handles.append(self._modules[self.names[name]].register_forward_hook(self._keeper(found, name)))
        try:
            outputs = self._run(inputs)
        finally:
            for handle in handles:
                handle.remove()
        ends = dict(zip(self._graph.outputs, outputs, strict=True))
        return {name: found[name] if name in found else _array(ends[name]) for name in names}

    def expected_weights(self, node_name: str, tensor: str) -> dict[str, NDArray[np.float64]]:
        """What the weights of a node should be: initializer name -> values, for layers whose export is known."""
        path = self._module_of(node_name)
        module: Any = self._modules.get(path or "")
        if module is None or getattr(module, "weight", None) is None:
            return {}
        values = {"weight": module.weight, "bias": module.bias}
        kind = type(module).__name__
        if kind.startswith("BatchNorm"):
            values |= {"running_mean": module.running_mean, "running_var": module.running_var}
        arrays = {slot: value.detach().double().cpu().numpy() for slot, value in values.items() if value is not None}
        follower: Any = self._modules.get(self.names.get(tensor, ""))
        if follower is not None and follower is not module and hasattr(follower, "running_var"):
            _fold(arrays, follower, axis=1 if "Transpose" in kind else 0)
        if kind == "Linear":
            arrays["input_1"] = arrays.pop("weight").T
        return {f"{node_name}.{slot}": value for slot, value in arrays.items()}

    def _run(self, inputs: Mapping[str, NDArray[np.float32]]) -> tuple[Any, ...]:
        with self._torch.inference_mode():
            device = next((p.device for p in self._module.parameters()), self._torch.device("cpu"))
            result = self._module(*(self._torch.from_numpy(value).to(device) for value in inputs.values()))
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    def _keeper(self, found: dict[str, NDArray[np.float32]], name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            # A copy: the next module may work in place.
            found[name] = _array(output)

        return keep

    def _match(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, str]:
        last: dict[str, tuple[int, str]] = {}
        children: dict[str, int] = {}
        for place, node in enumerate(self._graph.nodes):
            path = self._module_of(node.name)
            if path is None:
                continue
            last[path] = (place, node.output[0])
            parts = path.split(".")
            for depth in range(1, len(parts)):
                children[".".join(parts[:depth])] = place
        matched = {path: tensor for path, (place, tensor) in last.items() if place >= children.get(path, -1)}
        followers = self._followers(inputs, set(last))
        return {tensor: followers.get(path, path) for path, tensor in matched.items() if path in self._single_outputs}

    def _followers(self, inputs: Mapping[str, NDArray[np.float32]], with_node: set[str]) -> dict[str, str]:
        """Module -> the last module without a node of its own that works on its output alone."""
        calls: list[tuple[str, Any, Any]] = []
        handles = [
            child.register_forward_hook(
                lambda module, args, output, path=path: calls.append((path, args[0] if args else None, output))
            )
            for path, child in self._modules.items()
        ]
        try:
            self._run(inputs)
        finally:
            for handle in handles:
                handle.remove()
        counts: dict[str, int] = {}
        for path, _, _ in calls:
            counts[path] = counts.get(path, 0) + 1
        tensor_type = self._torch.Tensor
        self._single_outputs = {
            path for path, _, output in calls if counts[path] == 1 and isinstance(output, tensor_type)
        }
        owner: dict[int, str] = {}
        followers: dict[str, str] = {}
        for path, argument, output in calls:
            if path in with_node:
                owner[id(output)] = path
            elif id(argument) in owner and self._leaves_no_node(path):
                source = owner[id(argument)]
                followers[source] = path
                owner[id(output)] = source
        return followers

    def _leaves_no_node(self, path: str) -> bool:
        """Whether the exporter drops the module, or folds it into the one before it."""
        module = self._modules[path]
        return hasattr(module, "running_var") or type(module).__name__ in ("Identity", "Dropout", "Dropout2d")

    def _module_of(self, node_name: str) -> str | None:
        """`/pts_backbone/blocks.0/blocks.0.3/Conv` -> `pts_backbone.blocks.0.3`; None where there is no such module."""
        path = ""
        for part in node_name.strip("/").split("/")[:-1]:
            # Containers repeat their own name in that of a child, so every level above is tried.
            above = path.split(".") if path else []
            options = [".".join([*above[:depth], part]) for depth in range(len(above), -1, -1)]
            found = next((option for option in options if option in self._modules), None)
            if found is None:
                return None
            path = found
        return path or None


def _array(tensor: Any) -> NDArray[np.float32]:
    return np.array(tensor.detach().float().cpu().numpy())


def _fold(arrays: dict[str, NDArray[np.float64]], norm: Any, axis: int) -> None:
    """Folds a BatchNorm into the weights before it, in place."""
    gamma, beta, mean, var = (
        value.detach().double().cpu().numpy() for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = gamma / np.sqrt(var + norm.eps)
    shape = [1] * arrays["weight"].ndim
    shape[axis] = -1
    arrays["weight"] = arrays["weight"] * scale.reshape(shape)
    arrays["bias"] = beta + (arrays.get("bias", 0.0) - mean) * scale
