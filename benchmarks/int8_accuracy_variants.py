"""The networks that `benchmarks.int8_accuracy` compares: one trained model in every precision and by every method."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError
from base.progress import progress
from models.components import BackboneNeckHead
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FP16", "METHODS", "Variants"]

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
"""

_OPSET = 19


@dataclass(frozen=True, eq=False)
class _Calibrated:
    model: nn.Module
    manager: Any
    statistics: Any


class Variants:
    """Makes variants of a float model; calibration frames are run once for all calibrations."""

    def __init__(
        self,
        model: nn.Module,
        spec: ModelSpec,
        calibration: Sequence[Any],
        fresh_model: Callable[[], nn.Module],
        qat_checkpoint: Path | None = None,
    ) -> None:
        """Prepares.

        Args:
            model: Float CenterPoint with trained weights; copied, never changed.
            spec: Its specification.
            calibration: Calibration frames.
            fresh_model: Makes the untrained model, for the checkpoint of QAT.
            qat_checkpoint: Of the variant "qat".
        """
        self._model = model
        self._spec = spec
        self._frames = calibration
        self._fresh_model = fresh_model
        self._qat_checkpoint = qat_checkpoint
        self._plain: _Calibrated | None = None

    def network(self, method: str) -> nn.Module:
        """The variant as a PyTorch network, canvas -> heads in graph order.

        Raises:
            ConfigError: unknown method, or "qat" without a checkpoint.
        """
        if method == "fp32":
            return BackboneNeckHead(self._model, self._spec)
        if method == FP16:
            return _in_half_precision(BackboneNeckHead(copy.deepcopy(self._model), self._spec))
        if method == "modelopt":
            return self._modelopt()
        return BackboneNeckHead(self._quantized(method), self._spec)

    def export(self, method: str, folder: Path) -> None:
        """Writes the variant's ONNX files."""
        from deploy.onnx_export import OnnxExportSettings, export_components
        from deploy.quantized_model import align_biases

        if method == "modelopt":
            self._export_modelopt(folder)
        elif method in ("fp32", FP16):
            export_components(self._model, self._spec, folder, OnnxExportSettings(precision=method))
        else:
            model = self._quantized(method)
            align_biases(model)
            export_components(model, self._spec, folder, OnnxExportSettings(precision="int8", opset_version=_OPSET))

    def _quantized(self, method: str) -> nn.Module:
        from quant.checkpoint import load_ptq_model
        from quant.ptq import quantize_ptq

        count = len(self._frames)
        if method in _CALIBRATIONS:
            plain = self._calibrated()
            plain.manager.set_scales(plain.statistics, method)
            return copy.deepcopy(plain.model)
        if method == "equalized":
            return quantize_ptq(copy.deepcopy(self._model), self._frames, count, equalize=True)
        if method in _MADE_UP:
            return quantize_ptq(copy.deepcopy(self._model), self._frames, count, method=method)
        if method == "qat":
            if self._qat_checkpoint is None:
                raise ConfigError("The variant 'qat' needs --qat-checkpoint.")
            model = self._fresh_model()
            load_ptq_model(model, self._qat_checkpoint)
            return model
        raise ConfigError(f"Unknown variant '{method}'; variants: {', '.join(METHODS)}.")

    def _calibrated(self) -> _Calibrated:
        if self._plain is None:
            from quant.calibration import CalibrationManager
            from quant.fusion.bn_fusion import fuse_model_bn
            from quant.replace import quant_model

            model = copy.deepcopy(self._model)
            fuse_model_bn(model)
            quant_model(model)
            manager = CalibrationManager(model, self._spec)
            self._plain = _Calibrated(model, manager, manager.observe(self._frames, len(self._frames)))
        return self._plain

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

        from deploy.onnx_export import OnnxExportSettings, export_components

        network = self._modelopt()
        (component,) = (item for item in self._spec.components if item.name == BACKBONE_NECK_HEAD)
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            torch.onnx.export(
                network,
                (torch.zeros(self._spec.canvas_shape),),
                str(folder / f"{BACKBONE_NECK_HEAD}.onnx"),
                dynamo=False,
                opset_version=_OPSET,
                input_names=[tensor.name for tensor in component.inputs],
                output_names=[tensor.name for tensor in component.outputs],
            )
        whole = folder / "fp32"
        export_components(self._model, self._spec, whole, OnnxExportSettings())
        shutil.move(whole / f"{VOXEL_ENCODER}.onnx", folder / f"{VOXEL_ENCODER}.onnx")
        shutil.rmtree(whole)


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
