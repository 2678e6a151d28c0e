"""What mmdet3d can do and a deployed network cannot: refused by its name, before any work starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from base.errors import ConfigError
from base.messages import shown, shown_place

__all__ = [
    "DEFORMABLE",
    "is_dynamic",
    "random_steps",
    "refuse_augmented",
    "refuse_unsupported",
    "step_kind",
    "uses_layer",
]

DEFORMABLE = frozenset({"DCN", "DCNv2"})
"""mmcv's deformable convolutions, which are exported as GridSample (`models.deform_conv`)."""

_DYNAMIC = (
    "Dynamic pillars, of any number of points, are voxel_type='dynamic' with max_num_points=-1 and a "
    "'DynamicPillarFeatureNet'; others are voxel_type='hard' with a max_num_points and a 'PillarFeatureNet'."
)
_NEEDED = (
    "What is missing is the middle encoder: submanifold and strided sparse 3D convolutions, as an operator that ONNX "
    "Runtime, OpenVINO, TensorRT and the engine of the backend 'cuda' all have; backbone, neck and head are those of "
    "pillar models. Train the pillar config of the same data in its place (mmdet3d's 'centerpoint_pillar02_*'), or run "
    "this model in mmdet3d."
)
_DYNAMIC_ENCODER = "DynamicPillarFeatureNet"
# Steps that draw at random, whatever their arguments.
_RANDOM_STEPS = frozenset({"ObjectNoise", "ObjectSample", "PointShuffle", "PointSample", "RandomDropPointsColor"})


def step_kind(step: object) -> str:
    """The type of a part of a config, such as a pipeline's step, without its scope."""
    kind = step.get("type", "") if isinstance(step, Mapping) else ""
    name = getattr(kind, "__name__", kind)
    return name.rsplit(".", 1)[-1] if isinstance(name, str) else ""


def uses_layer(node: object, kinds: Collection[str]) -> bool:
    """Whether a part of a config, or a part of that, is of one of the types."""
    if isinstance(node, Mapping):
        return step_kind(node) in kinds or any(uses_layer(value, kinds) for value in node.values())
    return isinstance(node, list | tuple) and any(uses_layer(value, kinds) for value in node)


def refuse_unsupported(model: Mapping[str, Any], file: str) -> None:
    """Dynamic pillars, and voxels that are no pillars.

    Args:
        model: `model` of a config, of plain types; its parts may be of wrong types.
        file: The config, for messages.

    Raises:
        ConfigError: names what it is, and where it stands.
    """
    preprocessor = _part(model, "data_preprocessor")
    voxel_type = preprocessor.get("voxel_type", "hard")
    encoder, middle = (step_kind(model.get(name)) for name in ("pts_voxel_encoder", "pts_middle_encoder"))
    is_rightly_dynamic = is_dynamic(model)
    if isinstance(voxel_type, str) and voxel_type != "hard" and not is_rightly_dynamic:
        reason = _DYNAMIC if voxel_type == "dynamic" else "Pillars of another kind cannot be exported."
        raise ConfigError(
            f"{file}: model.data_preprocessor.voxel_type is {shown(voxel_type)}, but must be 'hard'. {reason}"
        )
    layer = _part(preprocessor, "voxel_layer")
    for name in ("max_num_points", "max_voxels"):
        value = layer.get(name)
        if not is_rightly_dynamic and -1 in (value if isinstance(value, list | tuple) else [value]):
            raise ConfigError(
                f"{file}: model.data_preprocessor.voxel_layer.{name} is {shown(value)}, but must be at least 1: -1 "
                f"stands for dynamic pillars. {_DYNAMIC}"
            )
    if encoder == _DYNAMIC_ENCODER and not is_rightly_dynamic:
        raise ConfigError(f"{file}: model.pts_voxel_encoder is a {shown(encoder)}. {_DYNAMIC}")
    if is_rightly_dynamic:
        _check_dynamic(model, file)
    for name, kind, is_3d in (
        ("pts_voxel_encoder", encoder, encoder.endswith("VFE")),
        ("pts_middle_encoder", middle, middle.startswith("Sparse")),
    ):
        if is_3d:
            raise ConfigError(
                f"{file}: model.{name} is a {shown(kind)}: a network on voxels with sparse 3D convolutions, which have "
                f"no ONNX operator. Only pillars (PillarFeatureNet, PointPillarsScatter) can be exported. {_NEEDED}"
            )


def is_dynamic(model: Mapping[str, Any]) -> bool:
    """Whether pillars hold any number of points, as both places that have a say agree."""
    kind = _part(model, "data_preprocessor").get("voxel_type", "hard")
    return kind == "dynamic" and step_kind(model.get("pts_voxel_encoder")) == _DYNAMIC_ENCODER


def _check_dynamic(model: Mapping[str, Any], file: str) -> None:
    """What dynamic pillars must be to be taken row by row (`models.dynamic_pillars`)."""
    channels = _part(model, "pts_voxel_encoder").get("feat_channels", (64,))
    if isinstance(channels, list | tuple) and len(channels) > 1:
        raise ConfigError(
            f"{file}: model.pts_voxel_encoder.feat_channels is {shown(channels)}: {len(channels)} layers on dynamic "
            "pillars. The second takes the maximum over a whole pillar, however many points it has, and a graph has a "
            "fixed number of points. One layer can be exported."
        )
    layer = _part(_part(model, "data_preprocessor"), "voxel_layer")
    limits, size = layer.get("point_cloud_range"), layer.get("voxel_size")
    numbers = [*limits, *size] if isinstance(limits, list) and isinstance(size, list) else []
    if len(numbers) == 9 and all(isinstance(number, int | float) for number in numbers) and numbers[8] > 0:
        levels = round((numbers[5] - numbers[2]) / numbers[8])
        if levels != 1:
            raise ConfigError(
                f"{file}: point_cloud_range and voxel_size make {levels} cells along z; dynamic pillars have one. Make "
                "the height of a cell that of the range."
            )


def _part(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = node.get(key)
    return value if isinstance(value, Mapping) else {}


def refuse_augmented(pipeline: Sequence[Any], file: str, at: Sequence[str | int]) -> None:
    """Test-time augmentation: several versions of a frame, flipped or scaled, whose boxes are merged.

    A `MultiScaleFlipAug3D` that makes one version, unflipped and of scale 1, as mmdet3d's own configs have it, is none.

    Args:
        pipeline: Steps of a test pipeline.
        file, at: Where they stand, for messages.

    Raises:
        ConfigError: names the step.
    """
    for index, step in enumerate(pipeline):
        kind = step_kind(step)
        if kind == "MultiScaleFlipAug3D":
            scales, flip = step.get("pts_scale_ratio", 1), step.get("flip", False)
            many = isinstance(step.get("img_scale"), list) and len(step["img_scale"]) > 1
            scale = scales[0] if isinstance(scales, list | tuple) and len(scales) == 1 else scales
            if not flip and not many and scale == 1:
                continue
            what = f"flip={shown(flip)}, pts_scale_ratio={shown(scales)}{', several img_scale' if many else ''}"
        elif kind == "TestTimeAug":
            what = "several versions of a frame"
        else:
            continue
        raise ConfigError(
            f"{file}: {shown_place([*at, index])} is a {kind} ({what}): test-time augmentation runs the network "
            "several times a frame and merges the boxes; what is exported runs once. Take it out of the pipeline, or "
            "set flip=False and pts_scale_ratio=1."
        )


def random_steps(pipeline: Sequence[Any], *, nested: bool = False) -> Iterator[str]:
    """Types of steps, in order, that change a frame by chance; a flip of probability 0 or a rotation by 0 is none.

    Args:
        pipeline: Steps of a pipeline.
        nested: Whether they stand in a `MultiScaleFlipAug3D`, which decides on flip and scale itself.
    """
    for step in pipeline:
        kind = step_kind(step)
        inner = step.get("transforms") if isinstance(step, Mapping) else None
        if kind == "MultiScaleFlipAug3D" and isinstance(inner, list | tuple):
            yield from random_steps(inner, nested=True)
        elif kind in _RANDOM_STEPS:
            yield kind
        elif kind == "RandomFlip3D":
            ratios = [step.get(f"flip_ratio_bev_{direction}", 0.0) for direction in ("horizontal", "vertical")]
            if not nested and any(ratios):
                yield kind
        elif kind == "GlobalRotScaleTrans":
            turn = _all(step.get("rot_range", 0.78), 0)
            shift = _all(step.get("translation_std", 0), 0)
            if not (turn and shift and (nested or _all(step.get("scale_ratio_range", 0.95), 1))):
                yield kind


def _all(value: Any, wanted: float) -> bool:
    return all(item == wanted for item in (value if isinstance(value, list | tuple) else [value]))
