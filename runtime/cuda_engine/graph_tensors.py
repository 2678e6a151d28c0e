"""What an exported network says of its own tensors, held against the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.errors import ConfigError
from models.spec import BACKBONE_NECK_HEAD

if TYPE_CHECKING:
    from pathlib import Path

    from models.spec import ModelSpec
    from runtime.cuda_engine.onnx_graph import Graph

__all__ = ["check_tensors"]


def check_tensors(graph: Graph, spec: ModelSpec, path: Path) -> None:
    """The graph's input and outputs must be those of the model, in order, float32 and of the same sizes.

    Args:
        graph: Of `pts_backbone_neck_head.onnx`.
        spec: The model.
        path: The file, for messages.

    Raises:
        ConfigError: they are not.
    """
    import onnx

    component = next(item for item in spec.components if item.name == BACKBONE_NECK_HEAD)
    for kind, found, wanted in (
        ("input", graph.inputs, component.inputs),
        ("output", graph.outputs, component.outputs),
    ):
        names, expected = [value.name for value in found], [tensor.name for tensor in wanted]
        if names != expected:
            raise ConfigError(
                f"{path}: {kind}s are {names}; the model has {expected}. The file belongs to another model, or to "
                "another component than pts_backbone_neck_head."
            )
        for value, tensor in zip(found, wanted, strict=True):
            tensor_type = value.type.tensor_type
            shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor_type.shape.dim)
            fits = len(shape) == len(tensor.shape) and all(
                size is None or size == want for size, want in zip(shape, tensor.shape, strict=True)
            )
            if not fits or tensor_type.elem_type != onnx.TensorProto.FLOAT:
                raise ConfigError(
                    f"{path}: {kind} '{value.name}' is {onnx.TensorProto.DataType.Name(tensor_type.elem_type)} {shape};"
                    f" the model needs FLOAT {tensor.shape}. The file belongs to another model config; export it again."
                )
