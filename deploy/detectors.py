"""The one way from files to a detector: checked to be whole and of this model, and on a device or refused."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from base.arguments import DEFAULT_POINTS
from base.errors import BackendUnavailable, ConfigError, MissingDependencyError
from deploy.config.names import ONNX_BACKENDS
from export.existing import check_engine_dir, check_onnx_dir
from runtime.decoders import TRAINING_DECODER, Decoder

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec
    from runtime.detector import InspectableDetector

_T = TypeVar("_T")

__all__ = ["DetectorFiles", "Network", "cannot_run_here", "open_checked_detector"]


@dataclass(frozen=True, eq=False)
class Network:
    """A PyTorch model to run.

    Attributes:
        model: The mmdet3d model; it stays as it is.
        precision: What it computes in.
    """

    model: nn.Module
    precision: str = "fp32"


@dataclass(frozen=True)
class DetectorFiles:
    """Where networks come from. What a backend does not read may be left out.

    Attributes:
        network: For pytorch.
        onnx_dir: Folder with both ONNX files, for onnx, openvino and cuda; what engines must have been built from.
        engine_dir: Folder with both engines, for tensorrt.
        checkpoint: The weights that ONNX files and engines must be of.
        onnx_key, engine_key: What messages call the folders.
        from_points: Whether tensorrt goes from points to boxes on its device, in place of its encoder's engine, where
            kernels of ours take the encoder's ONNX file.
    """

    network: Network | None = None
    onnx_dir: Path | None = None
    engine_dir: Path | None = None
    checkpoint: Path | None = None
    onnx_key: str = "--onnx-dir"
    engine_key: str = "--engine-dir"
    from_points: bool = False


def open_checked_detector(
    backend: str,
    files: DetectorFiles,
    *,
    spec: ModelSpec,
    device: str,
    decoder: Decoder = TRAINING_DECODER,
    threads: int | None = None,
    max_points: int = DEFAULT_POINTS,
) -> tuple[InspectableDetector, str]:
    """Opens a detector on files; close it, or use it as a context manager.

    Args:
        backend: "pytorch", "onnx", "openvino", "tensorrt" or "cuda".
        files: Where its network comes from.
        spec: The model, with its rotation convention.
        device: "cpu" or "cuda:N".
        decoder: What makes boxes.
        threads: CPU threads of ONNX Runtime and OpenVINO; None for their default.
        max_points: Most points of a cloud, for which a GPU makes room.

    Returns:
        The detector, and what its network computes in.

    Raises:
        ConfigError: files are missing, or of another model, checkpoint or export than the rest.
        DataError, ExportError: a file is not whole.
        BackendUnavailable: this machine cannot run it, for the want of a GPU or of what drives one.
        MissingDependencyError: a package that runs it on the CPU is not installed.
    """
    from runtime.opening import open_detector

    options, precision = _options(backend, files, spec)
    if backend in ("onnx", "openvino") and threads is not None:
        options["threads"] = threads
    if device != "cpu":
        options["capacity"] = max_points
    try:
        return open_detector(backend, spec=spec, device=device, decoder=decoder, **options), precision
    except MissingDependencyError as missing:
        if device == "cpu":
            raise
        raise BackendUnavailable(str(missing)) from missing


def cannot_run_here(backend: str, reason: BackendUnavailable) -> BackendUnavailable:
    """What ends a command that was asked for one backend alone (exit code 2), in the words that others show it with."""
    return BackendUnavailable(f"--backend={backend} cannot run here: {reason}")


def _options(backend: str, files: DetectorFiles, spec: ModelSpec) -> tuple[dict[str, Any], str]:
    """What `runtime.open_detector` takes, and the precision."""
    if backend == "pytorch":
        from models.components import extract_components

        network = _given(files.network, backend, "a model")
        # A copy: a backend moves its modules to its device, and two may be open at once.
        return {"components": extract_components(copy.deepcopy(network.model), spec)}, network.precision
    if backend in ONNX_BACKENDS:
        onnx_dir = _given(files.onnx_dir, backend, files.onnx_key)
        return {"onnx_dir": onnx_dir}, check_onnx_dir(onnx_dir, spec, files.checkpoint, files.onnx_key)
    engine_dir = _given(files.engine_dir, backend, files.engine_key)
    precision = check_engine_dir(engine_dir, spec, files.onnx_dir, files.engine_key, files.checkpoint)
    options: dict[str, Any] = {"engine_dir": engine_dir}
    if files.from_points:
        from models.spec import VOXEL_ENCODER

        options["encoder_onnx"] = _given(files.onnx_dir, backend, files.onnx_key) / f"{VOXEL_ENCODER}.onnx"
    return options, precision


def _given(value: _T | None, backend: str, what: str) -> _T:
    if value is None:
        raise ConfigError(f"Backend '{backend}' needs {what}, which was not given.")
    return value
