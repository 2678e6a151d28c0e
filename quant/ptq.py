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
from base.shares import Share
from base.torchrun import ALONE, Processes
from quant.calibration.calibrator import CalibrationManager
from quant.settings import PTQ_METHODS, PtqSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.spec import ModelSpec
    from quant.reconstruction.settings import ReconstructionSettings

__all__ = ["check_layer_names", "quantize_ptq", "require_parts_possible", "run_ptq", "write_ptq_part"]

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
    parts: Sequence[Path] = (),
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
        parts: Files of `write_ptq_part`, all parts of the calibration, in place of a pass over the frames.

    Returns:
        What calibrated `model`. Its result is the calibration before anything made up for the loss.

    Raises:
        ConfigError: an unknown method or layer, a model that is quantized already, or settings that exclude each other.
        DataError: no frames, NaN or infinite activations, or a cache of another model or method, or parts of another
            calibration.
    """
    from quant.calibration.batches import frames_of
    from quant.fusion.bn_fusion import fuse_model_bn
    from quant.reconstruction.settings import ReconstructionSettings
    from quant.replace import quant_model

    reconstruction = settings.reconstruction or ReconstructionSettings()
    _check(model, settings)
    if parts:
        require_parts_possible(settings)
    model.eval()
    batches, num_frames = frames_of(model, dataloader, settings.num_batches)
    frames = batches
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
    if parts:
        from quant.calibration.parts import merge_calibration_parts

        seen = merge_calibration_parts(manager, batches, num_frames, parts, settings=_of_parts(settings))
        manager.set_scales(seen, settings.amax_method, settings.weight_method)
        if cache is not None:
            manager.save_calib_cache(cache)
    elif cache is not None and (settings.any_cache or Path(cache).exists()):
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


def write_ptq_part(
    model: nn.Module,
    dataloader: Iterable[Any],
    settings: PtqSettings,
    share: Share,
    path: str | Path,
    *,
    spec: ModelSpec | None = None,
    workers: int | None = None,
) -> int:
    """Observes one share of the calibration frames for `run_ptq(…, parts=…)`, which several machines do at once.

    What makes up for the loss of an INT8 model afterwards is learned from windows of all frames: `run_ptq` does that.

    Args:
        model, dataloader, spec, workers: As for `run_ptq`; the model is left quantized and without scales.
        settings: Those of the whole; the methods that choose scales do not matter yet.
        share: Which part.
        path: The file to write.

    Returns:
        How many frames were observed.

    Raises:
        ConfigError: settings that cannot be cut into parts: channels are brought to one range by all frames before any
            is observed, and a cache holds the scales of all; else as `run_ptq`.
        DataError: as `run_ptq`.
    """
    from quant.calibration.batches import frames_of
    from quant.calibration.parts import write_calibration_part
    from quant.fusion.bn_fusion import fuse_model_bn
    from quant.replace import quant_model

    _check(model, settings)
    require_parts_possible(settings)
    if settings.calib_cache is not None:
        raise ConfigError("A calibration cache holds the scales of all frames; a part has none. Give it to the merge.")
    model.eval()
    frames, num_frames = frames_of(model, dataloader, settings.num_batches)
    if settings.fuse_bn:
        fuse_model_bn(model)
    quant_model(model, settings.skip_layers, engine=settings.engine)
    manager = CalibrationManager(model, spec)
    return write_calibration_part(
        manager, frames, num_frames, share, path, settings=_of_parts(settings), workers=workers
    )


def require_parts_possible(settings: PtqSettings) -> None:
    """Whether a calibration with these settings can be cut into parts.

    Raises:
        ConfigError: it cannot; the message says why.
    """
    if settings.equalizes:
        raise ConfigError(
            "A calibration that equalizes channels cannot be cut into parts: the ranges of all frames change the "
            f"weights before any frame is observed. Leave equalization out, or run method '{settings.method}' as one."
        )


def _of_parts(settings: PtqSettings) -> dict[str, Any]:
    """The choices that parts must agree in; the others come after the frames."""
    return {
        "engine": settings.engine,
        "fuse_bn": settings.fuse_bn,
        "skip_layers": list(settings.skip_layers),
    }


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
