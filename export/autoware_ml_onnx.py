"""ONNX files of autoware-ml's own exporter, taken over: its names, its open axes and its yaw become this project's.

Its files are `pts_voxel_encoder_centerpoint.onnx` and `pts_backbone_neck_head_centerpoint.onnx`. The head keeps the
convention that it was trained with; where the vehicle's is asked for, the last convolutions of `dim` and `rot` are
rearranged in the graph, as `export.rotation` does it to a model.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ExportError
from base.files import atomic_path, sha256_file
from base.messages import shown
from base.onnx_files import read_onnx
from base.wholeness import replacing
from export.manifest import discard_manifest
from export.onnx_checks import check_component
from export.onnx_graph import canonicalize_, set_metadata_
from export.precision import graph_precision
from export.rotation import CONVERSION
from models.spec import BACKBONE_NECK_HEAD

if TYPE_CHECKING:
    import onnx

    from models.spec import ComponentSpec, ModelSpec

__all__ = ["THEIR_SUFFIX", "adopt_their_files", "check_their_files", "holds_their_files"]

THEIR_SUFFIX = "_centerpoint"
_COMPONENTS = ("pts_voxel_encoder", BACKBONE_NECK_HEAD)
_REMEDY = "Export it again with autoware-ml."
_MAX_NOTE = 1 << 12
# Keys of its `metainfo` that say what the model config says too.
_TOLD = ("class_names", "point_cloud_range", "voxel_size")

_logger = logging.getLogger(__name__)


def holds_their_files(folder: Path) -> bool:
    """Whether a folder has both files by autoware-ml's names, and none by this project's."""
    return all((folder / f"{name}{THEIR_SUFFIX}.onnx").is_file() for name in _COMPONENTS) and not any(
        (folder / f"{name}.onnx").exists() for name in _COMPONENTS
    )


def check_their_files(folder: Path, spec: ModelSpec) -> str:
    """Holds the files against a model, and writes nothing.

    Args:
        folder: With both files.
        spec: The model, in the convention that is wanted.

    Returns:
        What the graphs compute in.

    Raises:
        ExportError: a file is broken or of another model, says other classes, another range or other cells than the
            config, or its last convolutions cannot be rearranged.
    """
    models = [_converted(folder, component, spec) for component in spec.components]
    return graph_precision(models[-1])


def adopt_their_files(folder: Path, spec: ModelSpec, out: Path) -> tuple[Path, ...]:
    """Writes both files as this project has them; what they say of themselves is kept in their metadata.

    Args:
        folder: With both files.
        spec: The model, in the convention that is wanted.
        out: Folder of the new files.

    Returns:
        The new files.

    Raises:
        ExportError: as `check_their_files`, or a file cannot be written.
    """
    models = {component.name: _converted(folder, component, spec) for component in spec.components}
    names = [f"{name}.onnx" for name in models]
    try:
        with replacing(out, names):
            for name, model in models.items():
                with atomic_path(out / f"{name}.onnx") as temporary:
                    temporary.write_bytes(model.SerializeToString(deterministic=True))
            discard_manifest(out, "onnx")
    except OSError as error:
        raise ExportError(
            f"Cannot write '{out}': {error.strerror or error}. Free space or choose another folder."
        ) from error
    _logger.info("%s: files of autoware-ml, taken over into %s", folder, out)
    return tuple(out / name for name in names)


def _converted(folder: Path, component: ComponentSpec, spec: ModelSpec) -> onnx.ModelProto:
    path = folder / f"{component.name}{THEIR_SUFFIX}.onnx"
    shapes = {tensor.name: tensor.shape for tensor in (*component.inputs, *component.outputs)}
    model = read_onnx(path, remedy=_REMEDY, missing=_REMEDY, shapes=shapes)
    _require_told(model, spec, path)
    notes = _notes(model)
    canonicalize_(model, component.name)
    del model.metadata_props[:]
    if component.name == BACKBONE_NECK_HEAD and spec.rot_y_axis_reference:
        _fold_rotation_(model, path)
    try:
        check_component(model, component)
    except ExportError as error:
        raise ExportError(f"'{path}': {error} Is it of this model config?") from error
    set_metadata_(
        model,
        {
            **notes,
            "component": component.name,
            "model": spec.name,
            "precision": graph_precision(model),
            "rot_convention": "y_axis_clockwise" if spec.rot_y_axis_reference else "x_axis_counterclockwise",
            "spec": json.dumps(spec.to_dict(), sort_keys=True),
            "spec_sha256": spec.fingerprint(),
            "weights": f"sha256 {_sha256(folder)}",
        },
    )
    return model


def _sha256(folder: Path) -> str:
    """Of both files together: what is made of one of them belongs to the other."""
    digests = [sha256_file(folder / f"{name}{THEIR_SUFFIX}.onnx") for name in _COMPONENTS]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _require_told(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> None:
    """What a file says of itself, against the model config: shapes alone do not show classes in another order."""
    told = {entry.key: entry.value for entry in model.metadata_props}
    expected: tuple[tuple[str | float, ...], ...] = (spec.class_names, spec.point_cloud_range, spec.voxel_size)
    for key, wanted in zip(_TOLD, expected, strict=True):
        if key not in told:
            continue
        found = tuple(part.strip() for part in told[key][:_MAX_NOTE].split(","))
        if found != wanted and not _same_numbers(found, wanted):
            raise ExportError(
                f"'{path}' is of another model: its {key} is {', '.join(map(shown, found))}; the model config has "
                f"{', '.join(map(str, wanted))}. Give the config that it was exported with."
            )


def _same_numbers(texts: tuple[str, ...], numbers: tuple[str | float, ...]) -> bool:
    try:
        return [float(text) for text in texts] == [float(number) for number in numbers]
    except ValueError:
        return False


def _notes(model: onnx.ModelProto) -> dict[str, str]:
    """What the exporter stamped: producer and version, release, model, task, run, and the parameters of inference."""
    header = {"producer": f"{model.producer_name} {model.producer_version}".strip(), "domain": model.domain}
    said = {key: value for key, value in header.items() if value}
    said |= {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith("centerpoint.")}
    return {f"autoware_ml.{key}": value[:_MAX_NOTE] for key, value in said.items()}


def _fold_rotation_(model: onnx.ModelProto, path: Path) -> None:
    """Rearranges the output channels of the convolutions behind `dim` and `rot`."""
    import onnx

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, rows in CONVERSION.items():
        node = next((node for node in model.graph.node if name in node.output), None)
        constants = [tensors.get(source) for source in node.input[1:]] if node is not None else []
        if node is None or node.op_type != "Conv" or not constants or None in constants:
            found = "nothing" if node is None else f"a {node.op_type}"
            raise ExportError(
                f"'{path}': output '{name}' comes from {found}, not from a convolution with constant weights, so that "
                "its yaw cannot be brought into the vehicle's convention. Export from the checkpoint (--mode=both)."
            )
        for tensor in constants:
            assert tensor is not None
            values = onnx.numpy_helper.to_array(tensor)
            if values.shape[0] != len(rows):
                raise ExportError(
                    f"'{path}': output '{name}' has {values.shape[0]} channels, not {len(rows)}. {_REMEDY}"
                )
            factors = np.array([factor for _, factor in rows], values.dtype).reshape(-1, *[1] * (values.ndim - 1))
            turned = values[[source for source, _ in rows]] * factors
            tensor.CopyFrom(onnx.numpy_helper.from_array(turned, tensor.name))
