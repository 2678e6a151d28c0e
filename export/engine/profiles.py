"""Optimization profiles: those a model config implies, and the check of any profile against a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from base.errors import EngineBuildError
from export.engine.request import ShapeProfile

if TYPE_CHECKING:
    import onnx

    from models.spec import ModelSpec

__all__ = ["check_profiles", "default_profiles", "graph_inputs"]

# A frame of a city drive fills about a third of the pillars that the limit allows.
_TYPICAL_FRACTION = 5 / 16


def default_profiles(spec: ModelSpec, static_voxels: int | None = None) -> dict[str, ShapeProfile]:
    """Profiles for every input of every component: one pillar to `max_voxels`, and the grid as it is.

    Args:
        spec: The model.
        static_voxels: The encoder's fixed number of pillars, where its graph has one.
    """
    smallest, typical, largest = 1, max(1, round(spec.max_voxels * _TYPICAL_FRACTION)), spec.max_voxels
    if static_voxels is not None:
        smallest = typical = largest = static_voxels
    profiles = {}
    for component in spec.components:
        for tensor in component.inputs:
            low, mid, high = (
                tuple(count if size is None else size for size in tensor.shape)
                for count in (smallest, typical, largest)
            )
            profiles[tensor.name] = ShapeProfile(low, mid, high)
    return profiles


def graph_inputs(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Input name -> shape with None for dynamic axes, in graph order; weights are left out."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
        for value in model.graph.input
        if value.name not in weights
    }


def check_profiles(
    inputs: Mapping[str, tuple[int | None, ...]], profiles: Mapping[str, ShapeProfile], onnx_name: str
) -> None:
    """Holds profiles against a graph's inputs.

    Raises:
        EngineBuildError: a profile is for an input that the graph does not have, one that is needed is missing, or a
            shape contradicts the graph; the message names both sides and the axis.
    """
    unknown = sorted(set(profiles) - set(inputs))
    if unknown:
        raise EngineBuildError(f"Profiles name {unknown}, but the inputs of '{onnx_name}' are {list(inputs)}.")
    for name, shape in inputs.items():
        profile = profiles.get(name)
        if profile is None:
            if None in shape:
                raise EngineBuildError(
                    f"Input '{name}' of '{onnx_name}' has shape {_text(shape)} with a dynamic axis and needs a "
                    "profile. Give one in backend_config.model_inputs."
                )
            continue
        _check_shape(name, shape, profile, onnx_name)


def _check_shape(name: str, shape: tuple[int | None, ...], profile: ShapeProfile, onnx_name: str) -> None:
    for kind in ("min", "opt", "max"):
        asked: tuple[int, ...] = getattr(profile, kind)
        if len(asked) != len(shape):
            raise EngineBuildError(
                f"Profile of '{name}' has {kind} shape {list(asked)} of rank {len(asked)}, but '{onnx_name}' has "
                f"{_text(shape)} of rank {len(shape)}."
            )
        for axis, (size, wanted) in enumerate(zip(shape, asked, strict=True)):
            if size is not None and size != wanted:
                raise EngineBuildError(
                    f"Profile of '{name}' has {kind} shape {list(asked)}, but '{onnx_name}' has {_text(shape)}: axis "
                    f"{axis} is {wanted} there and {size} here. The profile (backend_config.model_inputs) was written "
                    "for another grid or number of point features; leave it out to take what the model config implies."
                )


def _text(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
