"""ONNX files and engines that a run finds: are they whole, of this model, and made by this project?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError, DataError
from base.files import sha256_file
from base.keeping import key_of_checkpoint
from base.manifests import Manifest, read_manifest, require_as_made, require_same_file
from base.messages import printable, shown
from base.onnx_files import read_onnx
from base.wholeness import require_whole
from export.onnx_graph import PRODUCER, metadata
from export.precision import graph_precision
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = [
    "calibration_marks",
    "check_engine_dir",
    "check_onnx_dir",
    "component_files",
    "engine_marks",
    "onnx_marks",
]

_COMPONENTS = (VOXEL_ENCODER, BACKBONE_NECK_HEAD)
# The key that only a quantized checkpoint has.
_QUANTIZED = key_of_checkpoint("quantization")

# What files of one export say about themselves alone.
_OWN_NOTES = {"component"}
_logger = logging.getLogger(__name__)


def component_files(folder: Path, spec: ModelSpec, suffix: str) -> dict[str, Path]:
    """Component -> its file in `folder`, whether or not it exists."""
    return {component.name: folder / f"{component.name}{suffix}" for component in spec.components}


def require_files(folder: Path, spec: ModelSpec, suffix: str, key: str, remedy: str) -> dict[str, Path]:
    """The component files of a folder that must exist.

    Raises:
        ConfigError: the folder, or a file in it, is missing.
    """
    files = component_files(folder, spec, suffix)
    names = ", ".join(file.name for file in files.values())
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"'{key}' is '{folder}', which {state}; it must be a folder with {names}. {remedy}")
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise ConfigError(f"'{key}' is '{folder}', which lacks {', '.join(missing)}. {remedy}")
    return files


def check_onnx_dir(folder: Path, spec: ModelSpec, checkpoint: Path | None, key: str) -> str:
    """Checks that a folder's ONNX files are whole and belong together, to this model and to this checkpoint.

    Files from elsewhere say nothing about themselves, and nothing vouches for them: the log says so.

    Args:
        folder: Where both files lie.
        spec: The model; with its rotation convention.
        checkpoint: The weights that the files must have been exported from; None where that does not matter.
        key: Configuration key that names the folder, for messages.

    Returns:
        What the graphs compute in: "fp32", "fp16", "mixed" or "int8".

    Raises:
        ConfigError: a file is missing, or of another model, checkpoint or export than the rest.
        ExportError: a file is not whole.
        DataError: the folder's manifest is broken.
    """
    remedy = "Export them with --mode=onnx."
    files = require_files(folder, spec, ".onnx", key, remedy)
    require_whole(folder, remedy)
    models = {file: read_onnx(file) for file in files.values()}
    notes = {file: metadata(model) for file, model in models.items()}
    weights = f"sha256 {sha256_file(checkpoint)}" if checkpoint is not None else None
    for file, said in notes.items():
        if "spec_sha256" not in said:
            _logger.warning(
                "'%s' does not say which model and weights it is of: nothing vouches for it but its names and shapes",
                file,
            )
        _check_model(file, said, spec, remedy)
        sources = [said[source] for source in ("weights", "quantized_weights") if source in said]
        if weights is not None and sources and weights not in sources:
            raise ConfigError(
                f"'{file}' was exported from other weights ({printable(sources[0])}) than '{checkpoint}' ({weights}). "
                f"{remedy}"
            )
    # Of an INT8 export, the voxel encoder alone is a float graph.
    precisions = {file: notes[file].get("precision", graph_precision(models[file])) for file in models}
    _check_one_export(folder, {file.name: {"precision": precisions[file], **notes[file]} for file in models}, remedy)
    require_as_made(folder, [file.name for file in files.values()], "onnx", remedy)
    return next(iter(precisions.values()))


def _check_model(file: Path, said: Mapping[str, Any], spec: ModelSpec, remedy: str) -> None:
    """Holds what a file says about its model against the model of this run."""
    if "spec_sha256" in said and said["spec_sha256"] != spec.fingerprint():
        raise ConfigError(
            f"'{file}' was exported from model '{printable(str(said.get('model')))}' with rotation convention "
            f"'{printable(str(said.get('rot_convention')))}', which is not the model of this run ('{spec.name}', "
            f"{'y_axis_clockwise' if spec.rot_y_axis_reference else 'x_axis_counterclockwise'}). {remedy}"
        )


def _check_one_export(folder: Path, notes: Mapping[str, Mapping[str, Any]], remedy: str) -> None:
    """Whatever two files both say about the export that they come from must be the same."""
    first, *others = notes
    for other in others:
        for subject in sorted((set(notes[first]) & set(notes[other])) - _OWN_NOTES):
            if notes[first][subject] != notes[other][subject]:
                listed = ", ".join(
                    f"{name} is {printable(str(said[subject]))}" for name, said in notes.items() if subject in said
                )
                raise ConfigError(
                    f"The files in '{folder}' come from different exports: by their {subject}, {listed}. {remedy}"
                )


def check_engine_dir(
    folder: Path, spec: ModelSpec, onnx_dir: Path | None, key: str, checkpoint: Path | None = None
) -> str:
    """Checks that a folder's engines are whole and belong together, to this model and to what it was made from.

    Args:
        folder: Where both engines lie, each with its manifest.
        spec: The model; with its rotation convention.
        onnx_dir: ONNX files that the engines must have been built from; None, or a missing file, where there are none.
        key: Configuration key that names the folder, for messages.
        checkpoint: The weights behind them; None where that does not matter.

    Returns:
        What the engines compute in.

    Raises:
        ConfigError: an engine or its manifest is missing, an engine differs from its manifest or is of other ONNX
            files, another model or other weights.
        DataError: a manifest is broken.
    """
    remedy = "Build them with --mode=trt or --mode=both."
    files = require_files(folder, spec, ".engine", key, remedy)
    require_whole(folder, remedy)
    weights = f"sha256 {sha256_file(checkpoint)}" if checkpoint is not None else None
    precisions: list[str] = []
    notes: dict[str, Mapping[str, Any]] = {}
    for name, file in files.items():
        path = file.with_name(file.name + ".json")
        if not path.is_file():
            raise ConfigError(
                f"'{file}' has no manifest ('{path.name}'): whether it is whole and what it was built from is not "
                f"known. {remedy}"
            )
        manifest = read_manifest(path, remedy)
        if {"engine", "onnx"} - {*manifest.outputs, *manifest.inputs}:
            raise DataError(f"'{path}' is no manifest of an engine: it names no engine, or no ONNX file. {remedy}")
        require_same_file(file, manifest.outputs["engine"], path, remedy)
        source = onnx_dir / f"{name}.onnx" if onnx_dir is not None else None
        if source is not None and source.is_file() and sha256_file(source) != manifest.inputs["onnx"].sha256:
            raise ConfigError(f"'{file}' was built from another '{source.name}' than the one in '{onnx_dir}'. {remedy}")
        said = _model_of(manifest, path, remedy)
        _check_model(file, said, spec, remedy)
        sources = [said[subject] for subject in ("weights", "quantized_weights") if subject in said]
        if weights is not None and sources and weights not in sources:
            raise ConfigError(
                f"'{file}' was built from an export of other weights ({printable(str(sources[0]))}) than "
                f"'{checkpoint}' ({weights}). {remedy}"
            )
        notes[file.name] = said
        precisions.append(_engine_precision(manifest.settings, path, remedy))
    _check_one_export(folder, notes, remedy)
    return "int8" if "int8" in precisions else precisions[-1]


def _model_of(manifest: Manifest, path: Path, remedy: str) -> dict[str, Any]:
    """What the ONNX file said of its model; empty for one that said nothing, or an engine of an earlier version."""
    said = manifest.settings.get("model", {})
    if not isinstance(said, dict):
        raise DataError(f"'{path}': settings.model is {shown(said)}, but must be a dictionary. {remedy}")
    return said


def _engine_precision(settings: Mapping[str, Any], path: Path, remedy: str) -> str:
    graph, policy = settings.get("graph_precision"), settings.get("precision_policy")
    if not isinstance(graph, str) or not isinstance(policy, str):
        raise DataError(
            f"'{path}' is no manifest of an engine: graph_precision is {shown(graph)} and precision_policy "
            f"{shown(policy)}, but both must be text. {remedy}"
        )
    return policy if graph == "fp32" and policy in ("fp16", "fp32_tf32") else graph


def onnx_marks(folder: str = "") -> dict[str, bytes | str]:
    """What ONNX files of ours are known by (`base.keeping`); `folder` lies in the one that is written: "onnx/"."""
    return {f"{folder}{name}.onnx": PRODUCER.encode() for name in _COMPONENTS}


def engine_marks(folder: str = "") -> dict[str, bytes | str]:
    """Of engines, which are written after their builder's log, and of the manifests beside them."""
    engines = [f"{folder}{name}.engine" for name in _COMPONENTS]
    return {f"{name}.json": b'"schema_version"' for name in engines} | {name: f"{name}.log" for name in engines}


def calibration_marks(folder: str = "") -> dict[str, bytes | str]:
    """Of a quantized checkpoint and the cache beside it."""
    return {f"{folder}checkpoint.pth": _QUANTIZED, f"{folder}calibration.json": b'"int8 calibration"'}
