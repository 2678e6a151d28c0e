"""A folder of ONNX files to a folder of engines, each with a manifest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from base.errors import ConfigError, EngineBuildError, ExportError
from base.onnx_files import read_onnx
from base.progress import progress
from base.wholeness import replacing, require_whole
from export.engine.profiles import default_profiles, graph_inputs
from export.engine.request import DEFAULT_WORKSPACE_BYTES, EngineBuilder, EngineRequest, EngineResult, ShapeProfile
from export.engine.selection import open_engine_builder
from export.manifest import build_manifest, discard_manifest, write_manifest
from export.onnx_graph import metadata
from export.qdq.view import is_quantized
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec

__all__ = ["CenterPointTensorRTExportPipeline", "EngineSettings"]

COMPONENTS = (VOXEL_ENCODER, BACKBONE_NECK_HEAD)
# What an ONNX file says of itself that a manifest need not repeat.
_FILE_NOTES = {"component", "spec"}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """How engines are built.

    Attributes:
        builder: "auto", "tensorrt_rtx" or "tensorrt".
        precision_policy: auto, fp16, fp32_tf32, strongly_typed or int8.
        workspace_bytes: GPU memory that tactics may use.
        profiles: Input name -> shapes, in place of those that the model implies.
        timing_cache: File of measured tactics, for `tensorrt`.
        compute_capabilities: GPUs to build for, for `tensorrt_rtx`; empty: its own choice.
        optimization_level: 0 to 5; None: the builder's own.
    """

    builder: str = "auto"
    precision_policy: str = "auto"
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    profiles: Mapping[str, ShapeProfile] = field(default_factory=dict)
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None


class CenterPointTensorRTExportPipeline:
    """Builds the engines of both components.

    Args:
        settings: How.
        builder: In place of the one that `settings` names.
    """

    def __init__(self, settings: EngineSettings | None = None, builder: EngineBuilder | None = None) -> None:
        self.settings = settings or EngineSettings()
        self._builder = builder

    def run(self, onnx_dir: str | Path, out_dir: str | Path, spec: ModelSpec | None = None) -> tuple[EngineResult, ...]:
        """Builds `<out_dir>/<component>.engine`, with `.engine.json` (manifest) and `.engine.log` beside each.

        Every request is checked before the first build starts.

        Args:
            onnx_dir: Folder with both components' ONNX files.
            out_dir: Folder of the engines.
            spec: The model, for profiles; None: as the ONNX files tell.

        Raises:
            EngineBuildError: a file is missing, a profile does not fit, or a build fails.
            MissingDependencyError: the builder is not installed.
            BackendUnavailable: the builder cannot run on this machine.
        """
        requests = self.requests(Path(onnx_dir), Path(out_dir), spec)
        builder = self._builder or open_engine_builder(self.settings.builder)
        results = []
        engines = [request.engine_path.name for request in requests]
        with replacing(out_dir, [*engines, *(f"{name}.json" for name in engines)]) as folder:
            for request in progress(requests, f"building engines with {builder.name}", unit="engine"):
                result = builder.build(request)
                self._write_manifest(request, result)
                _logger.info(
                    "%s: %.1f MB in %.1f s (%s %s, %s)",
                    result.engine_path,
                    result.num_bytes / 1e6,
                    result.seconds,
                    result.builder,
                    result.version,
                    result.precision,
                )
                results.append(result)
            discard_manifest(folder, "engines")
        return tuple(results)

    def requests(self, onnx_dir: Path, out_dir: Path, spec: ModelSpec | None = None) -> tuple[EngineRequest, ...]:
        """What `run` will ask of the builder; checks that the files exist and the profiles' names are known."""
        if not onnx_dir.is_dir():
            raise EngineBuildError(
                f"ONNX folder '{onnx_dir}' does not exist. Export first (mode 'onnx' or 'both'), or set "
                "export.onnx_path."
            )
        require_whole(onnx_dir, "Export them again (mode 'onnx' or 'both').")
        settings, requests, known, quantized = self.settings, [], [], 0
        for name in COMPONENTS:
            path = onnx_dir / f"{name}.onnx"
            try:
                model = read_onnx(path)
            except ExportError as error:
                raise EngineBuildError(str(error)) from error
            inputs = graph_inputs(model)
            known += list(inputs)
            profiles = {}
            for tensor, shape in inputs.items():
                if tensor in settings.profiles:
                    profiles[tensor] = settings.profiles[tensor]
                elif None in shape:
                    implied = default_profiles(spec or _spec_of(metadata(model), path))
                    profiles[tensor] = implied[tensor]
            # Of an INT8 model, a component without quantized layers is built as its graph is.
            floating = settings.precision_policy == "int8" and not is_quantized(model)
            quantized += not floating
            requests.append(
                EngineRequest(
                    onnx_path=path,
                    engine_path=out_dir / f"{name}.engine",
                    profiles=profiles,
                    workspace_bytes=settings.workspace_bytes,
                    precision_policy="strongly_typed" if floating else settings.precision_policy,
                    timing_cache=settings.timing_cache,
                    compute_capabilities=settings.compute_capabilities,
                    optimization_level=settings.optimization_level,
                )
            )
        if not quantized:
            raise EngineBuildError(
                f"precision_policy 'int8' contradicts the ONNX files in '{onnx_dir}', none of which is quantized. "
                "Export them with precision 'int8', or use another policy."
            )
        unknown = sorted(set(settings.profiles) - set(known))
        if unknown:
            raise EngineBuildError(
                f"Profiles name {unknown}, but the inputs of the ONNX files in '{onnx_dir}' are {known}."
            )
        return tuple(requests)

    def _write_manifest(self, request: EngineRequest, result: EngineResult) -> None:
        said = metadata(read_onnx(request.onnx_path))
        manifest = build_manifest(
            kind="engine",
            inputs={"onnx": request.onnx_path},
            outputs={"engine": request.engine_path},
            settings={
                "builder": result.builder,
                "builder_version": result.version,
                "compute_capabilities": request.compute_capabilities,
                "graph_precision": result.precision,
                "model": {subject: value for subject, value in said.items() if subject not in _FILE_NOTES},
                "optimization_level": request.optimization_level,
                "precision_policy": request.precision_policy,
                "profiles": request.profiles,
                "workspace_bytes": request.workspace_bytes,
            },
        )
        write_manifest(request.engine_path.with_name(request.engine_path.name + ".json"), manifest)


def _spec_of(values: Mapping[str, str], path: Path) -> ModelSpec:
    try:
        return ModelSpec.from_json(values["spec"], str(path))
    except (KeyError, ConfigError) as error:
        raise EngineBuildError(
            f"'{path}' has a dynamic axis and does not say which model it belongs to. Give its profile in "
            "backend_config.model_inputs, or export it again with this project."
        ) from error
