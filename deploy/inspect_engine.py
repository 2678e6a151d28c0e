"""What an engine file says: its manifest always, its own tensors and layers where its library can open it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.errors import BackendUnavailable, DataError, ExportError, MissingDependencyError
from base.files import sha256_file
from base.lazy import require
from base.manifests import read_manifest
from deploy.inspect_graph import TensorFacts

__all__ = ["EngineFacts", "EngineLayer", "inspect_engine"]

_MIN_ENGINE_BYTES = 64


@dataclass(frozen=True)
class EngineLayer:
    """One kernel of an engine, as its library names it.

    Attributes:
        name: Of the fused layers.
        kind: Kind of layer.
        outputs: Type and layout of what it writes.
    """

    name: str
    kind: str
    outputs: str


@dataclass(frozen=True)
class EngineFacts:
    """One engine file.

    Attributes:
        file: Its name.
        size_bytes, sha256: Of the file.
        settings: Builder, version, precision, profiles, from the manifest beside it; empty without one.
        source: ONNX file it was built from, with its checksum; empty without a manifest.
        status: "READ", or "SKIPPED" where no library here opens the engine.
        reason: Why it was skipped.
        tensors: Inputs and outputs; empty where skipped.
        layers: Kernels; empty where skipped, or where the engine keeps no names.
    """

    file: str
    size_bytes: int
    sha256: str
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    status: str
    reason: str
    tensors: tuple[TensorFacts, ...]
    layers: tuple[EngineLayer, ...]


def inspect_engine(path: Path) -> EngineFacts:
    """Reads an engine and its manifest (`<engine>.json`).

    Raises:
        ExportError: the engine is missing, or too short to be one.
        DataError: the manifest is damaged, or describes another engine.
    """
    if not path.is_file():
        raise ExportError(f"Engine '{path}' does not exist. Build it with --mode=trt or --mode=both.")
    size, checksum = path.stat().st_size, sha256_file(path)
    if size < _MIN_ENGINE_BYTES:
        raise ExportError(f"'{path}' has {size} bytes; it is no engine. Build it again.")
    settings, source = _manifest(path, checksum)
    tensors: tuple[TensorFacts, ...] = ()
    layers: tuple[EngineLayer, ...] = ()
    status, reason = "READ", ""
    try:
        tensors, layers = _open(path, str(settings.get("builder", "")))
    except BackendUnavailable as unavailable:
        status, reason = "SKIPPED", str(unavailable)
    return EngineFacts(path.name, size, checksum, settings, source, status, reason, tensors, layers)


def _manifest(path: Path, checksum: str) -> tuple[dict[str, Any], dict[str, Any]]:
    file = path.with_name(path.name + ".json")
    if not file.is_file():
        return {}, {}
    manifest = read_manifest(file, "Build the engine again.")
    engine, source = manifest.outputs.get("engine"), manifest.inputs.get("onnx")
    if engine is None or source is None:
        raise DataError(f"'{file}' is no engine manifest: it names no engine or no ONNX file. Build the engine again.")
    if engine.sha256 != checksum:
        raise DataError(
            f"'{path}' is not the engine that '{file.name}' describes: its SHA-256 is {checksum}, the manifest says "
            f"{engine.sha256}. Build the engine again."
        )
    return dict(manifest.settings), source.model_dump()


def _open(path: Path, builder: str) -> tuple[tuple[TensorFacts, ...], tuple[EngineLayer, ...]]:
    from runtime.backends.engines import LIBRARIES, EngineLoader

    reasons = []
    for library in [builder] if builder in LIBRARIES else list(LIBRARIES):
        try:
            trt = require(LIBRARIES[library], "to open engines")
        except MissingDependencyError:
            reasons.append(f"{LIBRARIES[library]} is not installed")
            continue
        loader = EngineLoader(trt)
        try:
            engine = loader.load(path)
        except BackendUnavailable as refusal:
            # The path is in the table already.
            reasons.append(str(refusal).replace(str(path), path.name))
            continue
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return tuple(_tensor(engine, name) for name in names), engine_layers(text)
    raise BackendUnavailable("; ".join(reasons))


def _tensor(engine: Any, name: str) -> TensorFacts:
    shape = tuple("?" if size < 0 else int(size) for size in engine.get_tensor_shape(name))
    kind = str(engine.get_tensor_dtype(name)).rsplit(".", 1)[-1].lower()
    return TensorFacts(name, kind, shape)


def engine_layers(text: str) -> tuple[EngineLayer, ...]:
    """The layers in an engine inspector's JSON; an engine built without details gives names alone."""
    layers = []
    for layer in json.loads(text).get("Layers", []):
        if isinstance(layer, str):
            layers.append(EngineLayer(layer, "", ""))
            continue
        outputs = ", ".join(str(item.get("Format/Datatype", "")) for item in layer.get("Outputs", []))
        layers.append(EngineLayer(str(layer.get("Name", "")), str(layer.get("LayerType", "")), outputs))
    return tuple(layers)
