"""Calibration of a quantized model: activations by a pass over frames, weights from themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from base.errors import ConfigError, DataError
from base.int8 import scale_of_amax
from base.shares import WHOLE, Share
from base.torchrun import ALONE, Processes
from quant.calibration.amax import check_method, compute_amax
from quant.calibration.identity import architecture_fingerprint, weights_fingerprint
from quant.calibration.observation import ActivationStatistics, observe_activations
from quant.calibration.result import CalibrationResult, QuantizerCalibration
from quant.calibration.weights import weight_amax
from quant.settings import ACTIVATION_METHODS, WEIGHT_METHODS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.spec import ModelSpec

__all__ = ["METHODS", "CalibrationManager"]

METHODS = ("histogram", *ACTIVATION_METHODS)
_CLIPPED_STEPS = 127.5
# What of a CenterPoint a canvas runs through.
_PARTS = ("pts_backbone", "pts_neck", "pts_bbox_head")


class CalibrationManager:
    """Gives every quantizer of a model its scale.

    A scale depends on the frames, the weights and the method alone: histograms hold integers, frames run with one
    thread each, and scales are rounded to eight significant bits. The number of processes, of threads and the order of
    the frames change no byte.

    Memory: one frame's activations a process, and 32 KB for each quantizer, however many frames there are.
    """

    def __init__(
        self, model: nn.Module, spec: ModelSpec | None = None, *, run: Callable[[Tensor], Any] | None = None
    ) -> None:
        """Args:
            model: A quantized CenterPoint (`quant.quant_model`), or any quantized module that takes a batch as its
                argument.
            spec: The CenterPoint's specification; without it, its backbone, neck and head run as they are.
            run: What runs a batch through `model`, in place of `spec`.

        Raises:
            ConfigError: the model has no quantizer.
        """
        from quant.quantizer import named_quantizers
        from quant.utils import idle_quantizers

        self.model = model
        self.spec = spec
        self._run = run
        self._quantizers = named_quantizers(model)
        if not self._quantizers:
            raise ConfigError(f"{type(model).__name__} has no quantizer to calibrate; call quant.quant_model first.")
        self._weights = _weights(model)
        # Of layers that are switched to floating point nothing is seen, and nothing is missing.
        self._idle = idle_quantizers(model)
        self._result: CalibrationResult | None = None

    def calibrate(
        self,
        batches: Iterable[Any],
        num_batches: int = 100,
        method: str = "histogram",
        amax_method: str | None = None,
        weight_method: str = "mse",
        *,
        percentile: float = 99.99,
        progress: bool = True,
        workers: int | None = None,
        processes: Processes = ALONE,
    ) -> CalibrationResult:
        """Observes frames and sets every scale: `observe`, then `set_scales`.

        Args:
            batches: `calibration_batches(…)`, an mmengine data loader, or canvases (1, C, H, W).
            num_batches: Batches at most; evenly spaced ones of a sequence, the first of another iterable.
            method: "histogram": `amax_method` chooses; "max": the largest value seen, whatever `amax_method` says; or
                what `amax_method` may be, in its place.
            amax_method: "mse" (default), "percentile", "entropy", "sparse_mse" or "max"; see `quant.calibration.amax`.
            weight_method: "mse" or "max"; see `quant.calibration.weights`.
            percentile: For the method of that name.
            progress: Whether to show a progress bar.
            workers: Forked processes that share the frames; None: one a processor on a CPU, 1 on a GPU.
            processes: Those of torchrun (`base.torchrun`), which share the frames; every one gets the scales of all.

        Raises:
            ConfigError: unknown method, or two that contradict each other.
            DataError: no frame, NaN or infinite activations, or a quantizer that saw nothing; the message names it.
        """
        check_method(method, METHODS, "method")
        if method not in ("histogram", "max") and amax_method not in (None, method):
            raise ConfigError(f"method '{method}' contradicts amax_method '{amax_method}'; give one of them.")
        chosen = (amax_method or "mse") if method == "histogram" else method
        # A misspelt method must not cost a pass over the frames.
        check_method(chosen, ACTIVATION_METHODS, "amax_method")
        check_method(weight_method, WEIGHT_METHODS, "weight_method")
        statistics = self.observe(batches, num_batches, progress=progress, workers=workers, processes=processes)
        return self.set_scales(statistics, chosen, weight_method, percentile=percentile)

    def observe(
        self,
        batches: Iterable[Any],
        num_batches: int = 100,
        *,
        progress: bool = True,
        workers: int | None = None,
        processes: Processes = ALONE,
        share: Share = WHOLE,
    ) -> ActivationStatistics:
        """One pass over frames, quantizers off; no scale changes.

        Args:
            share: Of the frames: the other machines' are no part of what is returned.

        Other arguments and errors as for `calibrate`.
        """
        from quant.calibration.batches import frames_of

        activations = {name: self._quantizers[name] for name in self.observed}
        frames, num_frames = frames_of(self.model, batches, num_batches)
        statistics = observe_activations(
            self.model,
            self._network(),
            activations,
            frames,
            num_frames,
            all_quantizers=self._quantizers.values(),
            show_progress=progress,
            workers=workers,
            processes=processes,
            share=share,
        )
        if share == WHOLE:
            self.require_seen(statistics)
        return statistics

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the quantizers whose scales come from frames."""
        return tuple(name for name in self._quantizers if name not in self._weights)

    def require_seen(self, statistics: ActivationStatistics) -> None:
        """Whether each quantizer that is switched on saw something.

        Raises:
            DataError: one did not; the message names it.
        """
        unseen = [name for name, seen in statistics.histograms.items() if seen.total == 0 and name not in self._idle]
        if unseen:
            raise DataError(
                f"{len(unseen)} quantizers never saw a tensor in {len(statistics.tokens)} calibration frames: "
                f"{', '.join(unseen)}. The network did not run these layers; leave them out with skip_layers."
            )

    def set_scales(
        self,
        statistics: ActivationStatistics,
        amax_method: str = "mse",
        weight_method: str = "mse",
        *,
        percentile: float = 99.99,
    ) -> CalibrationResult:
        """Chooses and sets every scale; several methods can be tried on the statistics of one pass.

        Raises:
            ConfigError: unknown method.
            DataError: a method finds no scale; the message names the quantizer.
        """
        check_method(amax_method, ACTIVATION_METHODS, "amax_method")
        check_method(weight_method, WEIGHT_METHODS, "weight_method")
        chosen: dict[str, tuple[Tensor, bool]] = {}
        for name in self._quantizers:
            if name in self._weights:
                weight, axis = self._weights[name]
                chosen[name] = weight_amax(weight, axis, weight_method, name), weight_method == "max"
            elif statistics.histograms[name].total:
                chosen[name] = (
                    _amax(statistics, name, amax_method, percentile),
                    amax_method == "max",
                )
        # Nothing is set before everything is chosen.
        entries = {}
        for name, (amax, up) in chosen.items():
            entries[name] = self._set(name, amax, up, statistics)
        self._result = CalibrationResult(
            amax_method=amax_method,
            weight_method=weight_method,
            percentile=percentile if amax_method == "percentile" else None,
            num_frames=len(statistics.tokens),
            tokens_sha256=statistics.tokens_sha256,
            architecture=architecture_fingerprint(self.model),
            weights_sha256=weights_fingerprint(self.model),
            quantizers=entries,
            histograms=statistics.histograms,
        )
        return self._result

    @property
    def result(self) -> CalibrationResult:
        """The last calibration, made or read from a cache.

        Raises:
            ConfigError: nothing was calibrated yet.
        """
        if self._result is None:
            raise ConfigError("There is no calibration yet; call calibrate first.")
        return self._result

    def save_calib_cache(self, path: str | Path) -> None:
        """Writes the last calibration as JSON; equal calibrations give equal bytes.

        Raises:
            ConfigError: nothing was calibrated yet.
        """
        from quant.calibration.cache import write_cache

        if self._result is None:
            raise ConfigError("There is no calibration to save; call calibrate first.")
        write_cache(self._result, path)

    def load_calib_cache(self, path: str | Path) -> CalibrationResult:
        """Sets every scale from a cache.

        Raises:
            DataError: the file is missing, truncated, changed, of another model, or holds an invalid scale.
        """
        import torch

        from quant.calibration.cache import read_cache

        result = read_cache(path, self.model, frozenset(self._quantizers) - self._idle)
        for name, entry in result.quantizers.items():
            quantizer = self._quantizers[name]
            quantizer.set_scale(torch.tensor(entry.scale, dtype=torch.float64).reshape(quantizer.scale.shape))
        self._result = result
        return result

    def _set(self, name: str, amax: Tensor, up: bool, statistics: ActivationStatistics) -> QuantizerCalibration:
        quantizer = self._quantizers[name]
        quantizer.set_scale(scale_of_amax(amax), up=up)
        scale = quantizer.scale.detach().cpu().double()
        if name in self._weights:
            weight, axis = self._weights[name]
            magnitude = weight.detach().cpu().double().abs()
            shape = [1] * magnitude.dim()
            if axis is not None:
                shape[axis] = -1
            clipped = (magnitude > _CLIPPED_STEPS * scale.reshape(shape)).double().mean().item()
            zeros, largest = (magnitude == 0).double().mean().item(), magnitude.max().item()
        else:
            histogram = statistics.histograms[name]
            clipped = histogram.share_above(_CLIPPED_STEPS * scale.item())
            zeros, largest = histogram.zeros / histogram.total, histogram.max
        return QuantizerCalibration(
            kind="weight" if name in self._weights else "activation",
            axis=quantizer.spec.axis,
            scale=tuple(scale.reshape(-1).tolist()),
            amax=tuple(amax.reshape(-1).tolist()),
            max_seen=largest,
            zero_share=zeros,
            clipped_share=clipped,
        )

    def _network(self) -> Callable[[Tensor], Any]:
        if self._run is not None:
            return self._run
        if self.spec is None:
            parts = [getattr(self.model, name, None) for name in _PARTS]
            return self.model if None in parts else partial(_in_turn, parts)
        from models.components import BackboneNeckHead

        return BackboneNeckHead(self.model, self.spec)


def _in_turn(parts: Sequence[Any], x: Any) -> Any:
    for part in parts:
        x = part(x)
    return x


def _amax(statistics: ActivationStatistics, name: str, method: str, percentile: float) -> Tensor:
    import torch

    histogram, occupied = statistics.histograms[name], statistics.occupied[name]
    amax = compute_amax(histogram, method, occupied=occupied, percentile=percentile, name=name)
    return torch.tensor(amax, dtype=torch.float64)


def _weights(model: nn.Module) -> dict[str, tuple[Tensor, int | None]]:
    """Name of each weight quantizer -> the weight and its channel axis."""
    from quant.quantizer.base import Quantizer

    found: dict[str, tuple[Tensor, int | None]] = {}
    for path, module in model.named_modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if isinstance(quantizer, Quantizer):
            weight = cast("Tensor", module.weight)
            found[f"{path}.weight_quantizer" if path else "weight_quantizer"] = weight, quantizer.spec.axis
    return found
