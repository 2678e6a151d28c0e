"""The networks that `benchmarks.int8_accuracy` compares: one trained model in every precision and by every method."""

from __future__ import annotations

import copy
import difflib
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError
from base.progress import progress
from export.opsets import INT8_OPSET
from models.components import BackboneNeckHead
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "BACKENDS",
    "FP16",
    "METHODS",
    "Variant",
    "Variants",
    "file_name",
    "is_choice_of_layers",
    "parse_variant",
    "variant_and_backend",
]

FP16 = "fp16"
_CALIBRATIONS = ("max", "percentile", "mse", "entropy", "sparse_mse")
_MADE_UP = ("equalized", "bias_correction", "lidar_ptq")
METHODS = ("fp32", FP16, *_CALIBRATIONS, *_MADE_UP, "modelopt", "qat")
"""Names of the variants.

fp32, fp16              the float model.
max … sparse_mse        calibrated by that method, nothing else.
equalized               channels equalized, then calibrated by mse.
bias_correction         calibrated by mse, then biases corrected.
lidar_ptq               `quantize_ptq(method="lidar_ptq")`.
modelopt                ModelOpt's INT8_DEFAULT_CFG on the same network and frames, its own export.
qat                     the checkpoint given with --qat-checkpoint.

What PTQ makes has variations, in this order: `mixed-` in front leaves the layers of --plan in FP16; behind a method of
the second group `-percentile` (or another calibration) replaces mse; `-even` or `-odd` takes every other calibration
frame alone: two models that differ in nothing but the choice of frames. At the end `:float=LAYERS` leaves layers in
FP16, and `:only=LAYERS` all others, for a calibration without more: names and patterns as --skip-layers takes them,
joined by commas. `NAME@BACKEND` is variant NAME on that backend instead of the command's: the same files on the same
frames, so that backends can be compared.
"""

BACKENDS = ("onnx", "openvino", "pytorch", "cuda")
"""What runs a variant: its ONNX files, or the PyTorch network that they were exported from. "cuda" goes from points to
boxes by itself, voxel encoder and decoding included."""

_HALVES = ("even", "odd")
# Of a file or folder, with what temporary ones add.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Variant:
    """What the name of a variant says.

    Attributes:
        method: One of `METHODS`.
        amax_method: How activations' ranges are chosen, where PTQ chooses any.
        mixed: Whether the layers of the plan stay in FP16.
        half: "even" or "odd": only every other calibration frame; None: all.
        floating: Layers that stay in FP16, beside those of the plan.
        only: The layers that are quantized; none: all that no other choice leaves out.
    """

    method: str
    amax_method: str = "mse"
    mixed: bool = False
    half: str | None = None
    floating: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


def variant_and_backend(name: str, default: str) -> tuple[str, str]:
    """The variant and the backend that a name such as "percentile@openvino" asks for.

    Args:
        name: With a backend or without.
        default: Backend of a name without one.

    Raises:
        ConfigError: there is no such backend.
    """
    variant, at, backend = name.partition("@")
    if at and backend not in BACKENDS:
        raise ConfigError(
            f"Unknown backend '{backend}' in '{name}'; behind the @ stands one of: {', '.join(BACKENDS)}."
        )
    return variant, backend or default


def file_name(name: str) -> str:
    """What a variant's files are called: its name; of one that is too long, its beginning and a hash of all of it."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def parse_variant(name: str) -> Variant:
    """The variant of a name.

    Raises:
        ConfigError: there is none; the message has the nearest names.
    """
    whole, colon, choice = name.partition(":")
    mixed, rest = whole.startswith("mixed-"), whole.removeprefix("mixed-")
    method, *options = rest.split("-")
    half = options.pop() if options and options[-1] in _HALVES else None
    amax_method = options.pop() if options and method in _MADE_UP and options[-1] in _CALIBRATIONS else None
    if options or method not in METHODS or ((mixed or half) and method not in (*_CALIBRATIONS, *_MADE_UP)):
        near = difflib.get_close_matches(method, METHODS, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near and near != [name] else ""
        raise ConfigError(
            f"Unknown variant '{name}'; variants: {', '.join(METHODS)}; of what PTQ makes also mixed-NAME, "
            f"NAME-even and NAME-odd, of {', '.join(_MADE_UP)} also NAME-percentile and the like.{hint}"
        )
    floating, only = _choice(name, choice) if colon else ((), ())
    if (only and method not in _CALIBRATIONS) or (floating and method not in (*_CALIBRATIONS, *_MADE_UP)):
        raise ConfigError(
            f"Variant '{name}': :float=… is for what PTQ makes, :only=… for a calibration without more: "
            f"{', '.join(_CALIBRATIONS)}."
        )
    amax = amax_method or (method if method in _CALIBRATIONS else "mse")
    return Variant(method, amax, mixed, half, floating, only)


def is_choice_of_layers(name: str) -> bool:
    """Whether a variant is a calibration of which some layers are switched off: many can share one pass over frames."""
    variant = parse_variant(name)
    return variant.method in _CALIBRATIONS and bool(variant.floating or variant.only)


def _choice(name: str, choice: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers that stay in FP16, and those that alone do not."""
    kind, _, value = choice.partition("=")
    layers = tuple(value.split(","))
    if kind not in ("float", "only") or not all(layers):
        raise ConfigError(f"Variant '{name}': behind the colon stands float=LAYERS or only=LAYERS, joined by commas.")
    return (layers, ()) if kind == "float" else ((), layers)


@dataclass(frozen=True, eq=False)
class _Calibrated:
    model: nn.Module
    manager: Any
    statistics: Any


class _Half(Sequence[Any]):
    """Every other one of a sequence's frames, each made when asked for."""

    def __init__(self, frames: Sequence[Any], half: str) -> None:
        self._frames = frames
        self._indices = range(_HALVES.index(half), len(frames), 2)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._frames[i] for i in self._indices[index]]
        return self._frames[self._indices[index]]


class Variants:
    """Makes variants of a float model; calibration frames are run once for all calibrations of the same layers."""

    def __init__(
        self,
        model: nn.Module,
        spec: ModelSpec,
        calibration: Sequence[Any],
        fresh_model: Callable[[], nn.Module],
        qat_checkpoint: Path | None = None,
        plan: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        """Prepares.

        Args:
            model: Float CenterPoint with trained weights, on the CPU; copied, never changed.
            spec: Its specification.
            calibration: Calibration frames.
            fresh_model: Makes the untrained model, for the checkpoint of QAT.
            qat_checkpoint: Of the variant "qat".
            plan: Layers that the mixed variants leave in FP16.
            device: Where frames run and roundings are learned; what comes out is on the CPU.
        """
        self._model = model
        self._spec = spec
        self._frames = calibration
        self._fresh_model = fresh_model
        self._qat_checkpoint = qat_checkpoint
        self._plan = tuple(plan)
        self._device = device
        self._plain: dict[tuple[bool, str | None], _Calibrated] = {}

    def network(self, name: str) -> nn.Module:
        """The variant as a PyTorch network, canvas -> heads in graph order.

        Raises:
            ConfigError: unknown variant, "qat" without a checkpoint, or a mixed one without a plan.
        """
        if name == "fp32":
            return BackboneNeckHead(self._model, self._spec)
        if name == FP16:
            return _in_half_precision(BackboneNeckHead(copy.deepcopy(self._model), self._spec))
        if name == "modelopt":
            return self._modelopt()
        return BackboneNeckHead(self._quantized(parse_variant(name)), self._spec)

    def layers(self) -> tuple[str, ...]:
        """The layers that calibrations quantize, in the network's order."""
        from quant.sensitivity.layers import QuantizedLayers

        plain = self._calibrated(mixed=False, half=None)
        plain.manager.set_scales(plain.statistics, "max")
        return QuantizedLayers(plain.model).paths

    def calibrate(self, names: Sequence[str]) -> None:
        """Runs the frames that calibrations of these variants need; forked processes then share what they saw."""
        for variant in map(parse_variant, names):
            if variant.method in _CALIBRATIONS:
                self._calibrated(variant.mixed, variant.half)

    def export(self, name: str, folder: Path) -> None:
        """Writes the variant's ONNX files."""
        from export.onnx_export import OnnxExportSettings, export_components
        from export.quantized_model import align_biases

        if name == "modelopt":
            self._export_modelopt(folder)
        elif name in ("fp32", FP16):
            export_components(self._model, self._spec, folder, OnnxExportSettings(precision=name))
        else:
            model = self._quantized(parse_variant(name))
            align_biases(model)
            export_components(model, self._spec, folder, OnnxExportSettings(precision="int8", opset_version=INT8_OPSET))

    def _quantized(self, variant: Variant) -> nn.Module:
        from quant.checkpoint import load_ptq_model
        from quant.ptq import quantize_ptq

        if variant.mixed and not self._plan:
            raise ConfigError("A mixed variant needs --plan: the JSON file of quant.search, or one with 'skip_layers'.")
        if variant.method in _CALIBRATIONS:
            plain = self._calibrated(variant.mixed, variant.half)
            plain.manager.set_scales(plain.statistics, variant.amax_method)
            model = copy.deepcopy(plain.model).cpu()
            if variant.floating or variant.only:
                _switch(model, variant)
            return model
        if variant.method == "qat":
            if self._qat_checkpoint is None:
                raise ConfigError("The variant 'qat' needs --qat-checkpoint.")
            model = self._fresh_model()
            load_ptq_model(model, self._qat_checkpoint)
            return model
        frames = self._chosen(variant.half)
        equalized = variant.method == "equalized"
        return quantize_ptq(
            copy.deepcopy(self._model).to(self._device),
            frames,
            len(frames),
            variant.amax_method,
            skip_layers=(*(self._plan if variant.mixed else ()), *variant.floating),
            method="calibrate" if equalized else variant.method,
            equalize=True if equalized else None,
        ).cpu()

    def _chosen(self, half: str | None) -> Sequence[Any]:
        return self._frames if half is None else _Half(self._frames, half)

    def _calibrated(self, mixed: bool, half: str | None) -> _Calibrated:
        if (mixed, half) not in self._plain:
            from quant.calibration import CalibrationManager
            from quant.fusion.bn_fusion import fuse_model_bn
            from quant.replace import quant_model

            model = copy.deepcopy(self._model).to(self._device)
            fuse_model_bn(model)
            quant_model(model, self._plan if mixed else ())
            manager = CalibrationManager(model, self._spec)
            frames = self._chosen(half)
            self._plain[mixed, half] = _Calibrated(model, manager, manager.observe(frames, len(frames)))
        return self._plain[mixed, half]

    def _modelopt(self) -> nn.Module:
        import modelopt.torch.quantization as mtq
        import torch

        network = BackboneNeckHead(copy.deepcopy(self._model), self._spec)

        def run(module: nn.Module) -> None:
            with torch.no_grad():
                for frame in progress(self._frames, "calibrating by ModelOpt"):
                    module(frame.canvas)

        quantized: nn.Module = mtq.quantize(network, mtq.INT8_DEFAULT_CFG, run)
        return quantized

    def _export_modelopt(self, folder: Path) -> None:
        import torch

        from export.onnx_export import OnnxExportSettings, export_components

        network = self._modelopt()
        (component,) = (item for item in self._spec.components if item.name == BACKBONE_NECK_HEAD)
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            torch.onnx.export(
                network,
                (torch.zeros(self._spec.canvas_shape),),
                str(folder / f"{BACKBONE_NECK_HEAD}.onnx"),
                dynamo=False,
                opset_version=INT8_OPSET,
                input_names=[tensor.name for tensor in component.inputs],
                output_names=[tensor.name for tensor in component.outputs],
            )
        whole = folder / "fp32"
        export_components(self._model, self._spec, whole, OnnxExportSettings())
        shutil.move(whole / f"{VOXEL_ENCODER}.onnx", folder / f"{VOXEL_ENCODER}.onnx")
        shutil.rmtree(whole)


def _switch(model: nn.Module, variant: Variant) -> None:
    """Switches the layers off that the variant leaves in FP16; scales of the others do not depend on it."""
    from quant.layer_names import select
    from quant.sensitivity.layers import QuantizedLayers

    layers = QuantizedLayers(model)
    chosen = select(variant.floating or variant.only, layers.paths, "layers")
    layers.switch(chosen if variant.only else set(layers.paths) - chosen)


def _in_half_precision(network: nn.Module) -> nn.Module:
    """`network` with weights and the outputs of every convolution rounded to FP16, computed in FP32."""
    from torch import nn

    def rounded(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output.half().float()

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
            for parameter in module.parameters():
                parameter.data = parameter.data.half().float()
            module.register_forward_hook(rounded)
    return network
