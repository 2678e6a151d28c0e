"""Post-training quantization: from a trained model and some frames to a quantized model, without training."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from base.errors import ConfigError
from base.progress import progress
from base.torchrun import ALONE, Processes
from quant.calibration.calibrator import CalibrationManager
from quant.quantizer import DEFAULT_ENGINE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.spec import ModelSpec
    from quant.reconstruction.settings import ReconstructionSettings

__all__ = ["PTQ_METHODS", "check_layer_names", "quantize_ptq", "run_ptq"]

PTQ_METHODS = ("calibrate", "bias_correction", "lidar_ptq")

_logger = logging.getLogger(__name__)


def quantize_ptq(
    model: nn.Module,
    dataloader: Iterable[Any],
    num_calibration_batches: int = 100,
    amax_method: str = "mse",
    fuse_bn: bool = True,
    skip_layers: Iterable[str] = (),
    *,
    method: str = "calibrate",
    engine: str = DEFAULT_ENGINE,
    weight_method: str = "mse",
    equalize: bool | None = None,
    calib_cache: str | Path | None = None,
    reconstruction: ReconstructionSettings | None = None,
    workers: int | None = None,
    processes: Processes = ALONE,
) -> nn.Module:
    """Quantizes a CenterPoint in place: fold BatchNorm, replace layers, calibrate, and make up for what that costs.

    Args:
        model: mmdet3d CenterPoint with trained weights; put into evaluation mode and changed.
        dataloader: An mmengine data loader, `quant.calibration.calibration_batches(…)`, or canvases (1, C, H, W).
        num_calibration_batches: Batches at most; all but a data loader's are one frame each.
        amax_method: How activations' ranges are chosen: "max", "percentile", "mse", "entropy" or "sparse_mse".
        fuse_bn: Fold BatchNorm into the convolutions; the integer graph has none. Off for training afterwards.
        skip_layers: Module paths and patterns of layers that stay in floating point.
        method: "calibrate"; "bias_correction": then make every channel's mean right; "lidar_ptq": then also learn
            roundings, biases and activation scales block by block (`quant.reconstruction`).
        engine: Of the quantizers, "pytorch_quantization" or "modelopt".
        weight_method: "mse" or "max".
        equalize: Bring the channels of each activation to one range first (`quant.equalization`); None: with
            "lidar_ptq" alone.
        calib_cache: File of scales: used where it exists, else written.
        reconstruction: Settings of "lidar_ptq".
        workers: Forked processes of the calibration; None: one a processor.
        processes: Those of torchrun, which share the frames of the calibration. The first one's model is the result:
            it alone makes up for the loss and writes `calib_cache`.

    Returns:
        `model`, whose `quantization_structure` says what is quantized; `save_ptq_model` stores it.

    Raises:
        ConfigError: an unknown method or layer, a model that is quantized already, or settings that exclude each other.
        DataError: no frames, NaN or infinite activations, or a cache of another model or method.
    """
    run_ptq(
        model,
        dataloader,
        num_calibration_batches,
        amax_method,
        fuse_bn,
        skip_layers,
        method=method,
        engine=engine,
        weight_method=weight_method,
        equalize=equalize,
        calib_cache=calib_cache,
        reconstruction=reconstruction,
        workers=workers,
        processes=processes,
    )
    return model


def run_ptq(
    model: nn.Module,
    dataloader: Iterable[Any],
    num_calibration_batches: int,
    amax_method: str | None,
    fuse_bn: bool,
    skip_layers: Iterable[str],
    *,
    method: str,
    engine: str,
    spec: ModelSpec | None = None,
    weight_method: str | None = "mse",
    equalize: bool | None = None,
    calib_cache: str | Path | None = None,
    reconstruction: ReconstructionSettings | None = None,
    workers: int | None = None,
    processes: Processes = ALONE,
) -> CalibrationManager:
    """`quantize_ptq`, for those who need its calibration too.

    Args and errors as for `quantize_ptq`, but that `amax_method` and `weight_method` may be None with a `calib_cache`
    that exists, whose scales are then taken whatever their method; and `spec`, the model's specification, may say how
    it is run.

    Returns:
        What calibrated `model`. Its result is the calibration before anything made up for the loss.
    """
    from quant.calibration.batches import frames_of
    from quant.fusion.bn_fusion import fuse_model_bn
    from quant.reconstruction.settings import ReconstructionSettings
    from quant.replace import quant_model

    settings = reconstruction or ReconstructionSettings()
    equalize = method == "lidar_ptq" if equalize is None else equalize
    skip_layers = tuple(skip_layers)
    _check(model, method, fuse_bn, equalize, skip_layers)
    model.eval()
    frames, num_frames = frames_of(model, dataloader, num_calibration_batches)
    if fuse_bn:
        fuse_model_bn(model)
    windows, reference = None, None
    if equalize or method != "calibrate":
        from quant.stored_frames import StoredFrames

        frames = StoredFrames(frames, num_frames)
        windows = _survey(model, frames, settings, equalize)
        reference = copy.deepcopy(model)
    quant_model(model, skip_layers, engine=engine)
    manager = CalibrationManager(model, spec)
    if amax_method is None or weight_method is None:
        if calib_cache is None:
            raise ConfigError(
                "A calibration needs amax_method and weight_method, or a calib_cache to take scales from."
            )
        _load_cache(manager, calib_cache)
    elif calib_cache is not None and Path(calib_cache).exists():
        _load_cache(manager, calib_cache, (amax_method, weight_method))
    else:
        manager.calibrate(
            frames,
            num_frames,
            amax_method=amax_method,
            weight_method=weight_method,
            progress=processes.is_first,
            workers=workers,
            processes=processes,
        )
        if calib_cache is not None and processes.is_first:
            manager.save_calib_cache(calib_cache)
    if windows is not None and reference is not None and processes.is_first:
        _make_up(model, reference, windows, method, settings)
    return manager


def _make_up(
    model: nn.Module, reference: nn.Module, windows: Tensor, method: str, settings: ReconstructionSettings
) -> None:
    if method in ("bias_correction", "lidar_ptq"):
        from quant.bias_correction import correct_biases

        # Before a reconstruction too: learning takes many small steps to what this finds in one.
        correct_biases(model, reference, windows, threads=settings.threads)
    if method == "lidar_ptq":
        from quant.reconstruction.network import reconstruct

        reconstruct(model, reference, windows, _score_threshold(model), settings)


def _survey(model: nn.Module, frames: Sequence[Any], settings: ReconstructionSettings, equalize: bool) -> Tensor:
    """Runs the float model over frames, cuts windows, and equalizes channels where asked."""
    import torch

    from quant.calibration.batches import evenly_spaced
    from quant.equalization import ChannelRanges
    from quant.fixed_threads import fixed_threads
    from quant.reconstruction.blocks import CANVAS, partition, run_blocks
    from quant.reconstruction.losses import HEATMAP
    from quant.reconstruction.windows import WindowSampler

    sampler = WindowSampler(
        per_frame=settings.windows_per_frame,
        heatmap_cells=settings.window_cells,
        threshold=_score_threshold(model),
        seed=settings.seed,
    )
    blocks = partition(model)
    device = next(model.parameters()).device
    indices = evenly_spaced(len(frames), settings.frames)
    with ChannelRanges(model) as ranges, fixed_threads(settings.threads), torch.no_grad():
        for index in progress(indices, "running the float model"):
            frame = frames[index]
            found = run_blocks(blocks, {CANVAS: frame.canvas.to(device)})
            sampler.add(frame.canvas, found[HEATMAP])
    if equalize:
        ranges.equalize()
    return sampler.windows()


def _score_threshold(model: nn.Module) -> float:
    return float(cast(Any, model).pts_bbox_head.bbox_coder.score_threshold)


def _check(model: nn.Module, method: str, fuse_bn: bool, equalize: bool, skip_layers: Sequence[str]) -> None:
    """What can be refused before anything is changed."""
    from quant.modules.layer import QuantizedLayer

    if method not in PTQ_METHODS:
        near = difflib.get_close_matches(method, PTQ_METHODS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"Unknown PTQ method '{method}'; methods: {', '.join(PTQ_METHODS)}.{hint}")
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise ConfigError("The model is quantized already. Quantize a float one, or call unquant_model first.")
    if not fuse_bn and (equalize or method != "calibrate"):
        raise ConfigError(
            f"{'equalize' if equalize else f'method {method}'} changes biases, which BatchNorm would undo; "
            "use fuse_bn=True."
        )
    check_layer_names(model, skip_layers, "skip_layers")


def check_layer_names(model: nn.Module, names: Iterable[str], what: str) -> None:
    """Whether each of `names` names a layer of a float model that can be quantized.

    Raises:
        ConfigError: one names none; it begins with `what` and suggests the nearest.
    """
    from quant.layer_names import select
    from quant.modules.quant_concat import expose_concats, hide_concats
    from quant.replace import quantizable_layers

    expose_concats(model)
    try:
        select(names, quantizable_layers(model), what)
    finally:
        hide_concats(model)


def _load_cache(manager: CalibrationManager, path: str | Path, wanted: tuple[str, str] | None = None) -> None:
    """`wanted`: amax_method and weight_method that it must have been made with."""
    result = manager.load_calib_cache(path)
    found = (result.amax_method, result.weight_method)
    if wanted is not None and found != wanted:
        raise ConfigError(
            f"Calibration cache '{path}' was made with amax_method '{found[0]}' and weight_method '{found[1]}', asked "
            f"for are '{wanted[0]}' and '{wanted[1]}'. Ask for the same, or give another file."
        )
    _logger.info("Scales from %s: %d frames, %s", path, result.num_frames, result.amax_method)
