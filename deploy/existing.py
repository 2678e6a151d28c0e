"""ONNX files and engines that a run did not make itself: are they whole, and do they belong to this model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError, DataError
from base.files import read_json, sha256_file
from base.onnx_files import read_onnx
from deploy.onnx_graph import metadata
from deploy.precision import graph_precision

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = ["check_engine_dir", "check_onnx_dir", "component_files"]


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
    """Checks that a folder's ONNX files belong together, to this model and to this checkpoint.

    Args:
        folder: Where both files lie.
        spec: The model; with its rotation convention.
        checkpoint: The weights that the files must have been exported from; None where that does not matter.
        key: Configuration key that names the folder, for messages.

    Returns:
        What the graphs compute in: "fp32", "fp16", "mixed" or "int8".

    Raises:
        ConfigError: a file is missing, or of another model, checkpoint or precision than the rest.
        ExportError: a file is not whole.
    """
    remedy = "Export them with --mode=onnx."
    files = require_files(folder, spec, ".onnx", key, remedy)
    weights = f"sha256 {sha256_file(checkpoint)}" if checkpoint is not None else None
    precisions: dict[str, str] = {}
    for file in files.values():
        model = read_onnx(file)
        notes = metadata(model)
        # Files from elsewhere carry no notes; the backend checks their names and shapes when it opens them.
        if "spec_sha256" in notes and notes["spec_sha256"] != spec.fingerprint():
            raise ConfigError(
                f"'{file}' was exported from model '{notes.get('model')}' with rotation convention "
                f"'{notes.get('rot_convention')}', which is not the model of this run ('{spec.name}', "
                f"{'y_axis_clockwise' if spec.rot_y_axis_reference else 'x_axis_counterclockwise'}). {remedy}"
            )
        sources = [notes[key] for key in ("weights", "quantized_weights") if key in notes]
        if weights is not None and sources and weights not in sources:
            raise ConfigError(
                f"'{file}' was exported from other weights ({notes['weights']}) than '{checkpoint}' ({weights}). "
                f"{remedy}"
            )
        # Of an INT8 export, the voxel encoder alone is a float graph.
        precisions[file.name] = notes.get("precision", graph_precision(model))
    if len(set(precisions.values())) > 1:
        listed = ", ".join(f"{name} is {precision}" for name, precision in precisions.items())
        raise ConfigError(f"The ONNX files in '{folder}' come from different exports: {listed}. {remedy}")
    return next(iter(precisions.values()))


def check_engine_dir(folder: Path, spec: ModelSpec, onnx_dir: Path | None, key: str) -> str:
    """Checks that a folder's engines are whole and, where their ONNX files are known, were built from those.

    Returns:
        What the engines compute in; "fp32" for engines without a manifest.

    Raises:
        ConfigError: an engine is missing, differs from its manifest, or was built from other ONNX files.
    """
    remedy = "Build them with --mode=trt or --mode=both."
    precisions = []
    for name, file in require_files(folder, spec, ".engine", key, remedy).items():
        manifest_file = file.with_name(file.name + ".json")
        if not manifest_file.is_file():
            continue
        manifest = read_json(manifest_file)
        try:
            engine, onnx = manifest["outputs"]["engine"]["sha256"], manifest["inputs"]["onnx"]["sha256"]
            precisions.append(_engine_precision(manifest["settings"]))
        except (KeyError, TypeError) as error:
            raise DataError(f"'{manifest_file}' is no engine manifest: {error!r} is missing. {remedy}") from error
        if sha256_file(file) != engine:
            raise ConfigError(f"'{file}' is not the engine that its manifest describes. {remedy}")
        source = onnx_dir / f"{name}.onnx" if onnx_dir is not None else None
        if source is not None and source.is_file() and sha256_file(source) != onnx:
            raise ConfigError(f"'{file}' was built from another '{source.name}' than the one in '{onnx_dir}'. {remedy}")
    return "int8" if "int8" in precisions else (precisions or ["fp32"])[-1]


def _engine_precision(settings: dict[str, Any]) -> str:
    if settings["graph_precision"] == "fp32" and settings["precision_policy"] in ("fp16", "fp32_tf32"):
        return str(settings["precision_policy"])
    return str(settings["graph_precision"])
