"""One pass over the calibration frames: what every activation quantizer sees, as histograms."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from base.errors import ConfigError, DataError
from base.progress import progress
from base.shares import WHOLE, Share
from base.torchrun import ALONE, Processes
from quant.calibration.batches import CalibrationFrame, evenly_spaced
from quant.calibration.histogram import AbsHistogram
from quant.calibration.identity import weights_fingerprint
from quant.calibration.occupancy import Occupancy
from quant.calibration.processes import in_processes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from quant.quantizer.base import Quantizer

__all__ = ["ActivationStatistics", "Histograms", "merged_histograms", "observe_activations"]

Histograms: TypeAlias = "dict[str, tuple[AbsHistogram, AbsHistogram]]"
"""Quantizer name -> histograms of all its inputs and of those in occupied cells."""


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """What one pass saw; every method chooses its scales from it.

    Attributes:
        histograms: Quantizer name -> histogram of its inputs.
        occupied: Quantizer name -> histogram of its inputs in the cells that hold pillars; see `Occupancy`.
        tokens: Frames that were run, in their order.
    """

    histograms: Mapping[str, AbsHistogram]
    occupied: Mapping[str, AbsHistogram]
    tokens: tuple[str, ...]

    @property
    def tokens_sha256(self) -> str:
        """Identifies the set of frames, whatever their order."""
        return hashlib.sha256("\n".join(sorted(self.tokens)).encode()).hexdigest()


def observe_activations(
    model: nn.Module,
    run: Callable[[Tensor], Any],
    quantizers: Mapping[str, Quantizer],
    batches: Iterable[Any],
    num_batches: int,
    *,
    all_quantizers: Iterable[Quantizer],
    show_progress: bool = True,
    workers: int | None = None,
    processes: Processes = ALONE,
    share: Share = WHOLE,
) -> ActivationStatistics:
    """Runs the float network over frames and collects a histogram for each quantizer.

    Args:
        model: In whose evaluation mode and on whose device the frames run.
        run: The network, canvas -> outputs.
        quantizers: Name -> activation quantizer to observe.
        batches: `CalibrationFrame`s or canvases; of a sequence, evenly spaced ones are taken, of another iterable the
            first.
        num_batches: Frames at most.
        all_quantizers: Every quantizer of the model; switched off meanwhile.
        workers: Forked processes; None: one a processor where the model lies on the CPU, `batches` is a sequence and
            `processes` are not several, else 1.
        processes: Of torchrun: each observes its share of the frames, and all return what all have seen.

    Raises:
        DataError: no frame, NaN or infinite activations, or models of `processes` that differ.
        ConfigError: `workers` or `processes` cannot be had.
        PeerFailed: another of `processes` failed.
    """
    if num_batches < 1:
        raise DataError(f"Zero calibration frames: num_batches is {num_batches}; give 1 or more (100 are usual).")
    device = next(model.parameters()).device
    indexable = isinstance(batches, Sequence)
    if share.of > 1 and not indexable:
        raise ConfigError(
            "These batches can only be read one after the other and cannot be cut into parts; give a sequence, such as "
            "calibration_batches returns."
        )
    if processes.size > 1:
        workers = workers or 1
        if not indexable:
            raise ConfigError(
                "These batches can only be read one after the other, which several processes of torchrun cannot share; "
                "give a sequence, such as calibration_batches returns, or start one process."
            )
    workers = _num_workers(workers, str(device.type), indexable)
    with _float_network(model, all_quantizers):
        if isinstance(batches, Sequence):
            chosen = evenly_spaced(len(batches), num_batches)
            own = [chosen[number] for number in share.indices(len(chosen))]
            if not own and chosen:
                raise ConfigError(f"There is no part {share} of {len(chosen)} frames; cut them into fewer parts.")
            indices = tuple(own[processes.rank :: processes.size])
            frames: Callable[[Sequence[int]], Iterator[Any]] = lambda part: (batches[i] for i in part)  # noqa: E731
            workers = min(workers, max(len(indices), 1))
        else:
            indices = tuple(range(num_batches))
            frames = lambda part: islice(iter(batches), len(part))  # noqa: E731

        def work(part: Sequence[int]) -> Iterator[str | Histograms]:
            observers = {name: _Observer(name) for name in quantizers}
            with _observed(quantizers, observers):
                for index, item in zip(part, _made(frames(part), observers), strict=False):
                    processes.check()
                    frame = _frame(item, index)
                    canvas = frame.canvas.to(device)
                    occupancy = Occupancy(canvas) if canvas.dim() == 4 else None
                    for observer in observers.values():
                        observer.begin(frame.token, occupancy)
                    run(canvas)
                    yield frame.token
            yield {name: (observer.histogram, observer.occupied) for name, observer in observers.items()}

        seen = _observed_here(work, indices, workers, show_progress)
    fingerprint = weights_fingerprint(model) if processes.size > 1 else ""
    everyone = processes.exchange((*seen, fingerprint))
    if any(other != fingerprint for _, _, other in everyone):
        raise DataError(
            "The processes of torchrun hold models with different weights, so that their histograms are not of one "
            "network: give all the same checkpoint, and GPUs of one kind."
        )
    tokens = [token for own_tokens, _, _ in everyone for token in own_tokens]
    return merged_histograms(tokens, [part for _, parts, _ in everyone for part in parts])


def _observed_here(
    work: Callable[[Sequence[int]], Iterator[Any]], indices: Sequence[int], workers: int, show_progress: bool
) -> tuple[list[str], list[Histograms]]:
    """Tokens in order of arrival, and the histograms of each worker."""
    messages = work(indices) if workers == 1 else in_processes(work, [indices[w::workers] for w in range(workers)])
    tokens: list[str] = []
    parts: list[Histograms] = []

    def frames() -> Iterator[str]:
        for message in messages:
            if isinstance(message, str):
                yield message
            else:
                parts.append(message)

    label = f"calibrating ({workers} process{'es' if workers > 1 else ''})"
    for token in progress(frames(), label, len(indices)) if show_progress else frames():
        tokens.append(token)
    return tokens, parts


def merged_histograms(tokens: Sequence[str], parts: Sequence[Histograms]) -> ActivationStatistics:
    """What several have seen, as one would have: integers are added, in any order. Changes the first of `parts`.

    Raises:
        DataError: no frames.
    """
    if not tokens:
        raise DataError(
            "Zero calibration frames: the batches are empty. Give a split with frames, or another --data-root."
        )
    merged = parts[0]
    for part in parts[1:]:
        for name, pair in part.items():
            for mine, other in zip(merged[name], pair, strict=True):
                mine.merge(other)
    return ActivationStatistics(
        {name: pair[0] for name, pair in merged.items()},
        {name: pair[1] for name, pair in merged.items()},
        tuple(tokens),
    )


class _Observer:
    """A quantizer's observer: adds each tensor of a frame once, however many consumers the tensor has."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.histogram = AbsHistogram()
        self.occupied = AbsHistogram()
        self._frame: str | None = None
        self._occupancy: Occupancy | None = None
        self._seen: list[weakref.ref[Tensor]] = []

    def begin(self, frame: str | None, occupancy: Occupancy | None = None) -> None:
        self._frame = frame
        self._occupancy = occupancy
        self._seen = []

    def __call__(self, x: Tensor) -> None:
        if any(reference() is x for reference in self._seen):
            return
        self._seen.append(weakref.ref(x))
        self.histogram.observe(x, self.name, self._frame)
        for part in self._occupancy.select(x) if self._occupancy is not None else [x]:
            self.occupied.observe(part, self.name, self._frame)


@contextmanager
def _observed(quantizers: Mapping[str, Quantizer], observers: Mapping[str, _Observer]) -> Iterator[None]:
    before = {name: quantizer.observer for name, quantizer in quantizers.items()}
    try:
        for name, quantizer in quantizers.items():
            quantizer.observer = observers[name]
        yield
    finally:
        for name, quantizer in quantizers.items():
            quantizer.observer = before[name]


@contextmanager
def _float_network(model: nn.Module, quantizers: Iterable[Quantizer]) -> Iterator[None]:
    """Evaluation mode, quantizers off, one thread, exact convolutions, no gradients; all put back afterwards.

    How a convolution's sums are split depends on the number of threads; with one, an activation is the same on any
    machine setting.
    """
    import torch

    quantizers = list(quantizers)
    training = [module for module in model.modules() if module.training]
    enabled = [quantizer for quantizer in quantizers if quantizer.enabled]
    threads = torch.get_num_threads()
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        model.eval()
        for quantizer in quantizers:
            quantizer.enabled = False
        torch.set_num_threads(1)
        with torch.inference_mode(), exact:
            yield
    finally:
        torch.set_num_threads(threads)
        for module in training:
            module.training = True
        for quantizer in enabled:
            quantizer.enabled = True


def _num_workers(workers: int | None, device: str, indexable: bool) -> int:
    if workers is None:
        return len(os.sched_getaffinity(0)) if device == "cpu" and indexable else 1
    if workers < 1:
        raise ConfigError(f"workers is {workers}; give 1 or more, or None for one a processor.")
    if workers > 1 and device != "cpu":
        raise ConfigError(
            f"workers is {workers}, but the model lies on '{device}': several processes share frames on the CPU only."
        )
    if workers > 1 and not indexable:
        raise ConfigError(
            f"workers is {workers}, but these batches can only be read one after the other; give a sequence, such as "
            "calibration_batches returns, or workers=1."
        )
    return workers


def _made(frames: Iterator[Any], observers: Mapping[str, _Observer]) -> Iterator[Any]:
    """The frames; quantizers of a voxel encoder see their inputs while a frame is made, before its token is known."""
    while True:
        for observer in observers.values():
            observer.begin(None)
        try:
            frame = next(frames)
        except StopIteration:
            return
        yield frame


def _frame(item: Any, index: int) -> CalibrationFrame:
    from torch import Tensor

    if isinstance(item, CalibrationFrame):
        return item
    if isinstance(item, Tensor):
        return CalibrationFrame(f"batch {index}", item)
    raise DataError(
        f"Calibration batch {index} is a {type(item).__name__}; a canvas (1, C, H, W) as a tensor or a "
        "CalibrationFrame is needed, or a batch of mmdet3d's, {'inputs': {'points': …}, …} (dataloader_batches)."
    )
