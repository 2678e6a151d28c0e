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
from quant.settings import PTQ_METHODS, PtqSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.spec import ModelSpec
    from quant.reconstruction.settings import ReconstructionSettings

__all__ = ["check_layer_names", "quantize_ptq", "run_ptq"]

_logger = logging.getLogger(__name__)


def quantize_ptq(
    model: nn.Module,
    dataloader: Iterable[Any],
    num_calibration_batches: int = 100,
    amax_method: str = "mse",
    fuse_bn: bool = True,
    skip_layers: Iterable[str] = (),
    *,
    workers: int | None = None,
    processes: Processes = ALONE,
    **further: Any,
) -> nn.Module:
    """Quantizes a CenterPoint in place: `run_ptq`, by the names that the specification calls its settings.

    Args:
        model, dataloader, workers, processes: As for `run_ptq`.
        num_calibration_batches, amax_method, fuse_bn, skip_layers: `num_batches` and its kin of `PtqSettings`.
        further: Other fields of `PtqSettings`, by name.

    Returns:
        `model`, whose `quantization_structure` says what is quantized; `save_ptq_model` stores it.

    Raises:
        ConfigError, DataError: as `run_ptq`.
    """
    settings = PtqSettings(
        num_calibration_batches, amax_method, fuse_bn=fuse_bn, skip_layers=tuple(skip_layers), **further
    )
    run_ptq(model, dataloader, settings, workers=workers, processes=processes)
    return model


def run_ptq(
    model: nn.Module,
    dataloader: Iterable[Any],
    settings: PtqSettings,
    *,
    spec: ModelSpec | None = None,
    workers: int | None = None,
    processes: Processes = ALONE,
) -> CalibrationManager:
    """Quantizes a CenterPoint in place: fold BatchNorm, replace layers, calibrate, and make up for what that costs.

    Args:
        model: mmdet3d CenterPoint with trained weights; put into evaluation mode and changed.
        dataloader: An mmengine data loader, `quant.calibration.calibration_batches(…)`, or canvases (1, C, H, W).
        settings: How.
        spec: The model's specification, which may say how it is run.
        workers: Forked processes of the calibration; None: one a processor.
        processes: Those of torchrun, which share the frames of the calibration. The first one's model is the result:
            it alone makes up for the loss and writes the cache.

    Returns:
        What calibrated `model`. Its result is the calibration before anything made up for the loss.

    Raises:
        ConfigError: an unknown method or layer, a model that is quantized already, or settings that exclude each other.
        DataError: no frames, NaN or infinite activations, or a cache of another model or method.
    """
    from quant.calibration.batches import frames_of
    from quant.fusion.bn_fusion import fuse_model_bn
    from quant.reconstruction.settings import ReconstructionSettings
    from quant.replace import quant_model

    reconstruction = settings.reconstruction or ReconstructionSettings()
    _check(model, settings)
    model.eval()
    frames, num_frames = frames_of(model, dataloader, settings.num_batches)
    if settings.fuse_bn:
        fuse_model_bn(model)
    windows, reference = None, None
    if settings.equalizes or settings.method != "calibrate":
        from quant.stored_frames import StoredFrames

        frames = StoredFrames(frames, num_frames)
        windows = _survey(model, frames, reconstruction, settings.equalizes)
        reference = copy.deepcopy(model)
    quant_model(model, settings.skip_layers, engine=settings.engine)
    manager = CalibrationManager(model, spec)
    cache = settings.calib_cache
    if cache is not None and (settings.any_cache or Path(cache).exists()):
        _load_cache(manager, cache, None if settings.any_cache else (settings.amax_method, settings.weight_method))
    else:
        manager.calibrate(
            frames,
            num_frames,
            amax_method=settings.amax_method,
            weight_method=settings.weight_method,
            progress=processes.is_first,
            workers=workers,
            processes=processes,
        )
        if cache is not None and processes.is_first:
            manager.save_calib_cache(cache)
    if windows is not None and reference is not None and processes.is_first:
        _make_up(model, reference, windows, settings.method, reconstruction)
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
    from quant.reconstruction.losses import joined_heatmaps
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
            sampler.add(frame.canvas, joined_heatmaps({name: found[name] for name in blocks[-1].outputs}))
    if equalize:
        ranges.equalize()
    return sampler.windows()


def _score_threshold(model: nn.Module) -> float:
    return float(cast(Any, model).pts_bbox_head.bbox_coder.score_threshold or 0.0)


def _check(model: nn.Module, settings: PtqSettings) -> None:
    """What can be refused before anything is changed."""
    from quant.modules.layer import QuantizedLayer

    method = settings.method
    if method not in PTQ_METHODS:
        near = difflib.get_close_matches(method, PTQ_METHODS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"Unknown PTQ method '{method}'; methods: {', '.join(PTQ_METHODS)}.{hint}")
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise ConfigError("The model is quantized already. Quantize a float one, or call unquant_model first.")
    if not settings.fuse_bn and (settings.equalizes or method != "calibrate"):
        raise ConfigError(
            f"{'equalize' if settings.equalizes else f'method {method}'} changes biases, which BatchNorm would undo; "
            "use fuse_bn=True."
        )
    check_layer_names(model, settings.skip_layers, "skip_layers")


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
