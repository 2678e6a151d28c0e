"""A checkpoint against the model that its weights go into: what both say of the same fact, apart from shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from base.checks import Finding
from base.messages import shown
from models.known_checks import KNOWN_CHECKS

if TYPE_CHECKING:
    from torch import nn

    from models.config_text import ConfigText

__all__ = ["class_list", "compare_checkpoint", "compare_classes"]

_CLASS_KEYS = ("classes", "class_names")
# Where trainers keep what a checkpoint says of itself: mmengine and mmcv, Lightning.
_META_KEYS = ("meta", "hyper_parameters")
_CONFIG_KEYS = ("cfg", "config")
_MAJOR = re.compile(r"\s*v?(\d{1,9})(?:\.|\Z)")
_DIFFERS, _ELSEWHERE = "checkpoint-config", "checkpoint-range"
_RETRAIN = "Use the config that it was trained with, or the checkpoint that was trained with this config."


def compare_checkpoint(
    checkpoint: Mapping[str, Any], model: nn.Module, where: str, *, must_say: bool = True
) -> Iterator[Finding]:
    """What a checkpoint says of its classes, its framework and its config, against the model as its config built it.

    Args:
        checkpoint: As `load_weights_file` gives it.
        model: mmdet3d's CenterPoint; of another model nothing is known and nothing is compared.
        where: Such as "Checkpoint 'a.pth'".
        must_say: Whether a checkpoint that names no classes is worth a warning.
    """
    head = getattr(model, "pts_bbox_head", None)
    if head is None:
        return
    wanted = [name for names in head.class_names for name in names]
    trained = dict(_trained_configs(checkpoint))
    stated = [*_stated_classes(checkpoint), *_trained_classes(trained)]
    for place, classes in stated:
        yield from compare_classes(
            "checkpoint-classes", f"{where}, {place},", classes, "the model config's head", wanted, _RETRAIN
        )
    if not stated and must_say:
        yield Finding(
            KNOWN_CHECKS["checkpoint-classes-unknown"],
            where,
            "it does not say which classes it was trained on, so that nothing can tell whether label 0 is "
            f"'{wanted[0]}' for it too",
            remedy=f"The model config's order is taken: {', '.join(wanted)}.",
        )
    yield from _compare_version(checkpoint, where)
    yield from _compare_configs(trained, model, where)


def compare_classes(
    check: str, place: str, classes: Sequence[str], other_place: str, others: Sequence[str], remedy: str
) -> Iterator[Finding]:
    """Two lists of classes, whose order is that of the labels: nothing where they are equal.

    Args:
        check: Id of the check.
        place: Where the first stands.
        classes: The first.
        other_place: Where the second stands.
        others: The second.
        remedy: What to do.
    """
    if list(classes) == list(others):
        return
    if sorted(classes) == sorted(others):
        what = "The same classes in another order: every label would be called by a wrong name."
    else:
        only = [sorted(set(a) - set(b)) for a, b in ((classes, others), (others, classes))]
        what = f"Only the first has {shown(only[0])}, only the second {shown(only[1])}."
    yield Finding(KNOWN_CHECKS[check], place, _listed(classes), other_place, _listed(others), f"{what} {remedy}")


def class_list(value: object) -> list[str] | None:
    """Names in the order of their labels, of a list of them or of a dictionary name -> label; None of anything else."""
    if isinstance(value, Mapping):
        labels = list(value.values())
        names = list(value)
        if all(type(label) is int for label in labels) and sorted(labels) == list(range(len(labels))):
            names = sorted(value, key=value.__getitem__)
        return class_list(names) if labels else None
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return list(value)
    return None


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(shown(str(name))[1:-1] for name in names[:20])
    return f"[{text}{', …' if len(names) > 20 else ''}]"


def _stated_classes(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Place and classes, of every place that has some."""
    for key in _META_KEYS:
        meta = checkpoint.get(key)
        if not isinstance(meta, Mapping):
            continue
        for place, mapping in ((key, meta), (f"{key}.dataset_meta", meta.get("dataset_meta"))):
            for name, value in mapping.items() if isinstance(mapping, Mapping) else ():
                if isinstance(name, str) and name.lower() in _CLASS_KEYS and (classes := class_list(value)):
                    yield f"{place}.{name}", classes


def _trained_configs(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, ConfigText]]:
    """Place and content of the config that was trained, which mmengine and mmcv keep as text."""
    meta = checkpoint.get("meta")
    for key in _CONFIG_KEYS if isinstance(meta, Mapping) else ():
        text = meta.get(key) if isinstance(meta, Mapping) else None
        if isinstance(text, str):
            from models.config_text import read_config_text

            if (trained := read_config_text(text)) is not None:
                yield f"meta.{key}", trained


def _trained_classes(configs: Mapping[str, ConfigText]) -> Iterator[tuple[str, list[str]]]:
    for place, trained in configs.items():
        tasks = trained.at("model.pts_bbox_head.tasks")
        names = [task.get("class_names") for task in _listed_values(tasks) if isinstance(task, Mapping)]
        classes = class_list([name for part in names for name in _listed_values(part)])
        if classes:
            yield f"{place}: model.pts_bbox_head.tasks", classes


def _listed_values(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _compare_version(checkpoint: Mapping[str, Any], where: str) -> Iterator[Finding]:
    meta = checkpoint.get("meta")
    version = meta.get("mmdet3d_version") if isinstance(meta, Mapping) else None
    major = _MAJOR.match(version) if isinstance(version, str) else None
    if major is not None and int(major.group(1)) < 1:
        yield Finding(
            KNOWN_CHECKS["checkpoint-version"],
            f"{where}, meta.mmdet3d_version,",
            shown(version),
            "this project",
            "mmdet3d 1.0 or later",
            "Before 1.0 the sizes of a box were width, length, height and its yaw ran clockwise: boxes would come out "
            "turned by a quarter. Train anew with mmdet3d 1.0 or later, or convert the weights.",
        )


def _compare_configs(configs: Mapping[str, ConfigText], model: nn.Module, where: str) -> Iterator[Finding]:
    """The config that was trained against the one that built the model."""
    for place, trained in configs.items():
        for name, (said, built, check) in _facts(trained, model).items():
            if said is not None and _plain(said) != _plain(built):
                what = "Weights mean something else then." if check == _DIFFERS else "Accuracy may differ."
                yield Finding(
                    KNOWN_CHECKS[check],
                    f"{where}, {place}: model.{name},",
                    shown(said),
                    "the model config",
                    shown(_plain(built)),
                    f"{what} {_RETRAIN}",
                )


def _facts(trained: ConfigText, model: Any) -> dict[str, tuple[Any, Any, str]]:
    """Place in the config -> what was trained, what is built, and the check; shapes are compared as such."""
    layer = model.data_preprocessor.voxel_layer
    encoder, head = model.pts_voxel_encoder, model.pts_bbox_head
    part = "data_preprocessor.voxel_layer"
    facts = {
        "data_preprocessor.voxel_type": getattr(model.data_preprocessor, "voxel_type", None),
        f"{part}.voxel_size": layer.voxel_size,
        "pts_voxel_encoder.legacy": getattr(encoder, "legacy", None),
        "pts_bbox_head.norm_bbox": head.norm_bbox,
        "pts_bbox_head.bbox_coder.out_size_factor": head.bbox_coder.out_size_factor,
    }
    out = {name: (_said(trained, name), built, _DIFFERS) for name, built in facts.items()}
    kind = trained.at("model.pts_voxel_encoder.type")
    if isinstance(kind, str):
        # Trainers' own exporters name their subclasses so.
        plain = kind.rsplit(".", 1)[-1].removesuffix("ONNX")
        out["pts_voxel_encoder.type"] = (plain, type(encoder).__name__, _DIFFERS)
    out[f"{part}.max_num_points"] = (_said(trained, f"{part}.max_num_points"), layer.max_num_points, _ELSEWHERE)
    limits, name = _said(trained, f"{part}.point_cloud_range"), f"{part}.point_cloud_range"
    if isinstance(limits, list) and len(limits) == len(layer.point_cloud_range):
        # A convolution does not know where it is; the height enters a pillar's features as it is.
        heights = (limits[2::3], list(layer.point_cloud_range)[2::3])
        check = _ELSEWHERE if _plain(heights[0]) == _plain(heights[1]) else _DIFFERS
        out[name] = (limits, layer.point_cloud_range, check)
    return out


def _said(trained: ConfigText, name: str) -> Any:
    """What a config says; before mmdet3d 1.0 voxels were an entry of their own."""
    found = trained.at(f"model.{name}")
    older = name.replace("data_preprocessor.voxel_layer.", "pts_voxel_layer.")
    return trained.at(f"model.{older}") if found is None else found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
