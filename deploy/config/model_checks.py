"""A deploy configuration against the model it is to deploy: shapes, output names, tolerances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError
from deploy.config.parsing import nearest
from deploy.config.schema import DeployConfig, ShapeRange
from export.opsets import DEFAULT_OPSET, GRID_SAMPLE_OPSET
from models.unsupported import DEFORMABLE, uses_layer

if TYPE_CHECKING:
    from models.spec import ModelSpec, TensorSpec

__all__ = ["check_against_model", "check_operators", "configured_profiles"]


def check_against_model(config: DeployConfig, spec: ModelSpec, source: str) -> None:
    """Holds shapes and names of the configuration against the model.

    Raises:
        ConfigError: an optimization profile does not fit the model's grid, features or pillar limit, or a tolerance
            or an accuracy gate names an output, class or range that the model does not have, or nuScenes' score is
            asked for of a model that it cannot score.
    """
    configured_profiles(config, spec, source)
    tolerance = config.verification.tolerance
    outputs = [tensor.name for component in spec.components for tensor in component.outputs]
    _check_names(tolerance, outputs, "verification.tolerance", "output", spec, source)
    _check_names(config.verification.relative_l2, outputs, "verification.relative_l2", "output", spec, source)
    if config.evaluation.enabled and config.evaluation.metrics.nuscenes:
        from eval.metrics.nuscenes_frames import check_nuscenes_classes

        check_nuscenes_classes(spec.class_names, spec.post_max_size * len(spec.tasks), source)
    gates = config.evaluation.gates
    where = "evaluation.gates.max_drop_per"
    _check_names(gates.max_drop_per_class, spec.class_names, f"{where}_class", "class", spec, source)
    if isinstance(gates.max_drop_per_range, Mapping):
        _check_names(gates.max_drop_per_range, _range_names(spec), f"{where}_range", "range", spec, source)


def check_operators(config: DeployConfig, model_cfg: Any, source: str) -> None:
    """Holds the operator set of the export against the layers of the model.

    Raises:
        ConfigError: it has not every operator that they need.
    """
    opset = config.onnx_config.opset_version
    if config.export.mode in ("onnx", "both") and opset < GRID_SAMPLE_OPSET and uses_layer(model_cfg.model, DEFORMABLE):
        raise ConfigError(
            f"{source}: 'onnx_config.opset_version' is {opset}, but the model has deformable convolutions "
            f"({', '.join(sorted(DEFORMABLE))}), which are exported as GridSample, an operator since "
            f"{GRID_SAMPLE_OPSET}. Set it to {DEFAULT_OPSET}."
        )


def _range_names(spec: ModelSpec) -> list[str]:
    from eval.ranges import ranges_of

    return [f"{low:g}-{high:g} m" for low, high in ranges_of(spec)]


def _check_names(
    table: float | Mapping[str, float] | None, known: Sequence[str], key: str, what: str, spec: ModelSpec, source: str
) -> None:
    for name in table if isinstance(table, Mapping) else ():
        if name not in known:
            guess = nearest(name, known)
            suggestion = f" Did you mean '{guess}'?" if guess else ""
            plural = {"output": "outputs", "class": "classes", "range": "ranges"}[what]
            raise ConfigError(
                f"{source}: '{key}.{name}' names no {what} of model '{spec.name}'.{suggestion} Its {plural} are "
                f"{', '.join(known)}."
            )


def configured_profiles(config: DeployConfig, spec: ModelSpec, source: str) -> dict[str, ShapeRange]:
    """Input -> shapes of the optimization profile that the configuration gives; other inputs follow from the model.

    Raises:
        ConfigError: a configured shape does not fit the model.
    """
    entries = config.backend_config.model_inputs
    given = dict(entries[0].input_shapes) if entries else {}
    inputs = {tensor.name: tensor for component in spec.components for tensor in component.inputs}
    for name, shapes in given.items():
        where = f"backend_config.model_inputs[0].input_shapes.{name}"
        if name not in inputs:
            guess = nearest(name, inputs)
            suggestion = f" Did you mean '{guess}'?" if guess else ""
            raise ConfigError(
                f"{source}: '{where}' names no input of model '{spec.name}'.{suggestion} Its inputs are "
                f"{', '.join(inputs)}."
            )
        _check_shapes(shapes, inputs[name], spec, where, source)
    return given


def _check_shapes(shapes: ShapeRange, tensor: TensorSpec, spec: ModelSpec, where: str, source: str) -> None:
    expected = ["voxels" if size is None else size for size in tensor.shape]
    for key in ("min_shape", "opt_shape", "max_shape"):
        shape = getattr(shapes, key)
        if len(shape) != len(tensor.shape):
            raise ConfigError(
                f"{source}: '{where}.{key}' is {list(shape)}, but '{tensor.name}' of model '{spec.name}' has "
                f"{len(tensor.shape)} axes: {expected}."
            )
        for axis, (size, wanted) in enumerate(zip(shape, tensor.shape, strict=True)):
            if wanted is not None and size != wanted:
                raise ConfigError(
                    f"{source}: '{where}.{key}' is {list(shape)}, but model '{spec.name}' has {expected}: axis {axis} "
                    f"({_meaning(tensor, axis)}) must be {wanted}. Correct it, or leave '{tensor.name}' out to take "
                    "the shapes from the model config."
                )
    for axis, wanted in enumerate(tensor.shape):
        if wanted is None and shapes.max_shape[axis] < spec.max_voxels:
            raise ConfigError(
                f"{source}: '{where}.max_shape' allows {shapes.max_shape[axis]} pillars, but model '{spec.name}' makes "
                f"up to {spec.max_voxels} (max_voxels): a dense frame would not run. Raise max_shape to "
                f"{spec.max_voxels}, or lower max_voxels in the model config."
            )


def _meaning(tensor: TensorSpec, axis: int) -> str:
    names = {
        "input_features": ("pillars", "points per pillar", "features per point"),
        "spatial_features": ("batch", "channels", "grid cells along y", "grid cells along x"),
    }
    return names[tensor.name][axis]
