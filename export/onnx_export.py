"""PyTorch components to ONNX files: checked, named, whole or absent, and equal to the last byte on every run."""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import ExportError
from base.files import atomic_path, sha256_file
from base.lazy import require
from base.progress import progress
from base.wholeness import replacing
from export.components import CenterPointComponentExtractor, ExportableComponent
from export.manifest import discard_manifest
from export.onnx_checks import check_component, simplify
from export.onnx_graph import canonicalize_, set_metadata_
from export.opsets import DEFAULT_OPSET, INT8_OPSET, MAX_OPSET, MIN_OPSET
from export.precision import PRECISIONS, convert_precision
from export.qdq.view import is_quantized
from models.spec import VOXEL_ENCODER

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx
    from torch import nn

    from models.spec import ModelSpec

__all__ = ["CenterPointONNXExportPipeline", "OnnxArtifact", "OnnxExportSettings", "export_components"]

EXPORT_PRECISIONS = (*PRECISIONS, "int8")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnnxExportSettings:
    """How components become ONNX files.

    Attributes:
        opset_version: ONNX operator set, 13 to 20.
        do_constant_folding: Fold constant expressions while tracing.
        keep_initializers_as_inputs: List weights among the graph inputs too (consumers of ONNX IR below 4).
        simplify: Run onnx-simplifier; its failure is an error.
        precision: "fp32"; "fp16": FP16 inside with FP32 inputs and outputs; "int8": of a quantized model, with Q/DQ
            pairs and `float_precision` beside them.
        float_precision: What an INT8 export computes in where it is not INT8: "fp16" or "fp32".
        quantized_layers: Module path -> whether it is to be quantized; the graph of an INT8 export is held against it.
        static_voxels: Number of pillars fixed in the voxel encoder; None leaves that axis dynamic.
        rot_y_axis_reference: Fold Autoware's yaw and size convention into the last layers of `rot` and `dim`.
        provenance: Further entries of the files' metadata, such as the checkpoint's sha256. Nothing that changes
            from run to run belongs here.
        stamps: Component -> entries of its file's metadata under their own names, for readers that look for those.
    """

    opset_version: int = DEFAULT_OPSET
    do_constant_folding: bool = True
    keep_initializers_as_inputs: bool = False
    simplify: bool = False
    precision: str = "fp32"
    float_precision: str = "fp16"
    quantized_layers: Mapping[str, bool] | None = None
    static_voxels: int | None = None
    rot_y_axis_reference: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)
    stamps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not MIN_OPSET <= self.opset_version <= MAX_OPSET:
            raise ExportError(
                f"opset_version is {self.opset_version}; this exporter writes {MIN_OPSET} to {MAX_OPSET}. Use "
                f"{DEFAULT_OPSET} unless a consumer asks for another."
            )
        if self.precision not in EXPORT_PRECISIONS:
            raise ExportError(f"precision is '{self.precision}'; an export is one of {', '.join(EXPORT_PRECISIONS)}.")
        if self.float_precision not in PRECISIONS:
            raise ExportError(f"float_precision is '{self.float_precision}'; it is one of {', '.join(PRECISIONS)}.")
        if self.precision == "int8" and self.opset_version < INT8_OPSET:
            raise ExportError(
                f"opset_version is {self.opset_version}; INT8 needs {INT8_OPSET} or newer. Set "
                f"onnx_config.opset_version (--opset) to {INT8_OPSET}."
            )


@dataclass(frozen=True)
class OnnxArtifact:
    """One written ONNX file."""

    component: str
    path: Path
    sha256: str
    num_bytes: int
    precision: str
    seconds: float


def export_components(
    model: nn.Module,
    spec: ModelSpec,
    out_dir: str | Path,
    settings: OnnxExportSettings | None = None,
    samples: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> tuple[OnnxArtifact, ...]:
    """Exports every component of `model` to `<out_dir>/<component>.onnx`.

    Args:
        model: Stock mmdet3d CenterPoint on the CPU; left as it is.
        spec: What its config says about it.
        out_dir: Folder of the files; made where it does not exist.
        settings: See `OnnxExportSettings`.
        samples: Input name -> real input to trace with; seeded random numbers where left out.

    Raises:
        ExportError: a component cannot be traced, converted, simplified or written, or its graph is not what the
            model config implies. No file is left half written.
    """
    settings = settings or OnnxExportSettings()
    if settings.rot_y_axis_reference:
        from export.rotation import fold_rot_y_axis_reference

        model, spec = fold_rot_y_axis_reference(model, spec)
    extractor = CenterPointComponentExtractor(model, spec, static_voxels=settings.static_voxels)
    components = extractor.extract(samples)
    models = []
    for component in progress(components, "exporting ONNX", unit="component"):
        started = time.monotonic()
        models.append((component, component_to_onnx(component, spec, settings), time.monotonic() - started))
    if settings.precision == "int8" and not any(is_quantized(onnx_model) for _, onnx_model, _ in models):
        raise ExportError(
            f"Model '{spec.name}' has no quantized layer, so it cannot be exported with precision 'int8'. Quantize it "
            "first (quant.quantize_ptq), or give a quantized checkpoint."
        )
    folder, names = Path(out_dir), [component.file_name for component in components]
    try:
        with replacing(folder, names):
            artifacts = tuple(_written(*item, folder, settings) for item in models)
            discard_manifest(folder, "onnx")
    except OSError as error:
        raise ExportError(
            f"Cannot write '{folder / names[0]}' and the files beside it: {error.strerror or error}. Free space or "
            "choose another folder."
        ) from error
    return artifacts


def _written(
    component: ExportableComponent, model: onnx.ModelProto, seconds: float, folder: Path, settings: OnnxExportSettings
) -> OnnxArtifact:
    path = folder / component.file_name
    _write(model, path)
    artifact = OnnxArtifact(
        component=component.name,
        path=path,
        sha256=sha256_file(path),
        num_bytes=path.stat().st_size,
        precision=settings.precision,
        seconds=seconds,
    )
    _logger.info("%s: %.1f MB in %.1f s", path, artifact.num_bytes / 1e6, artifact.seconds)
    return artifact


def component_to_onnx(component: ExportableComponent, spec: ModelSpec, settings: OnnxExportSettings) -> onnx.ModelProto:
    """Traces one component and takes it through simplification, precision, naming and checks.

    Raises:
        ExportError: a step fails, or the graph breaks a rule of `export.qdq.rules`.
    """
    model = _trace(component, settings)
    canonicalize_(model, component.name)
    if settings.simplify:
        model = simplify(model, component.name)
        canonicalize_(model, component.name)
    check_component(model, component.spec)
    if is_quantized(model):
        model = _quantized(model, component, settings)
    else:
        # A component without a quantized layer, such as the voxel encoder, is a float graph.
        precision = settings.float_precision if settings.precision == "int8" else settings.precision
        model = convert_precision(model, precision)
    if settings.precision == "int8":
        from export.qdq.rules import require_rules

        require_rules(model, component.name, _planned_layers(component.name, settings))
    check_component(model, component.spec)
    set_metadata_(
        model,
        {
            **settings.provenance,
            "component": component.name,
            "model": spec.name,
            "precision": settings.precision,
            **({"float_precision": settings.float_precision} if settings.precision == "int8" else {}),
            "rot_convention": "y_axis_clockwise" if spec.rot_y_axis_reference else "x_axis_counterclockwise",
            "spec": json.dumps(spec.to_dict(), sort_keys=True),
            "spec_sha256": spec.fingerprint(),
        },
    )
    for key, value in sorted(settings.stamps.get(component.name, {}).items()):
        model.metadata_props.add(key=key, value=value)
    if settings.keep_initializers_as_inputs:
        _list_initializers_as_inputs(model)
        check_component(model, component.spec)
    return model


def _quantized(model: onnx.ModelProto, component: ExportableComponent, settings: OnnxExportSettings) -> onnx.ModelProto:
    if settings.precision != "int8":
        raise ExportError(
            f"Component '{component.name}' is quantized, but the export's precision is '{settings.precision}'. Export "
            "it with precision 'int8', or from the float checkpoint."
        )
    from export.qdq.float_precision import convert_qdq_precision
    from export.qdq.passes import arrange_qdq

    model = arrange_qdq(model)
    # Once more: every node gets constants of its own, named after it.
    canonicalize_(model, component.name)
    return convert_qdq_precision(model, settings.float_precision)


def _planned_layers(component: str, settings: OnnxExportSettings) -> dict[str, bool] | None:
    """The plan in the names of a component's graph: the voxel encoder is traced without its own name in front."""
    if settings.quantized_layers is None:
        return None
    prefix = f"{VOXEL_ENCODER}."
    inside = {path: wanted for path, wanted in settings.quantized_layers.items() if path.startswith(prefix)}
    if component == VOXEL_ENCODER:
        return {path.removeprefix(prefix): wanted for path, wanted in inside.items()}
    return {path: wanted for path, wanted in settings.quantized_layers.items() if path not in inside}


def _trace(component: ExportableComponent, settings: OnnxExportSettings) -> onnx.ModelProto:
    torch = require("torch", "to export ONNX")
    require("onnx", "to export ONNX")
    import onnx

    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # The TorchScript exporter announces its successor at every call, and mmdet3d's layers compare shapes in Python,
        # which tracing turns into the constants that they are here.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        try:
            torch.onnx.export(
                component.module,
                component.sample_inputs,
                buffer,
                # The newer exporter records stack traces, and its graphs differ with the version of three packages.
                dynamo=False,
                opset_version=settings.opset_version,
                do_constant_folding=settings.do_constant_folding,
                input_names=list(component.input_names),
                output_names=list(component.output_names),
                # Only the number of pillars. The points of a pillar (axis 1) look dynamic too, but must not
                # be: a padded row is zero before the first layer and, through its normalization, a constant
                # after it, and takes part in the maximum. Fewer rows would give another function, not a faster one.
                dynamic_axes=component.dynamic_axes,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                f"Component '{component.name}' cannot be traced to ONNX opset {settings.opset_version}: {error}"
            ) from error
    model: onnx.ModelProto = onnx.load_from_string(buffer.getvalue())
    return model


def _list_initializers_as_inputs(model: onnx.ModelProto) -> None:
    import onnx

    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _write(model: onnx.ModelProto, path: Path) -> None:
    data = model.SerializeToString(deterministic=True)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise ExportError(
            f"Cannot write '{path}' ({len(data) / 1e6:.1f} MB): {error.strerror or error}. Free space or choose "
            "another folder."
        ) from error


class CenterPointONNXExportPipeline:
    """Exports a CenterPoint to a folder of ONNX files, one for each component."""

    def __init__(self, settings: OnnxExportSettings | None = None) -> None:
        self.settings = settings or OnnxExportSettings()

    def run(
        self,
        model: nn.Module,
        spec: ModelSpec,
        out_dir: str | Path,
        samples: Mapping[str, npt.NDArray[np.float32]] | None = None,
    ) -> tuple[OnnxArtifact, ...]:
        """See `export_components`."""
        return export_components(model, spec, out_dir, self.settings, samples)
