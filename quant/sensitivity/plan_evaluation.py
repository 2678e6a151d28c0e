"""Accuracy of mixed-precision plans, measured: the quantized network with some layers switched to floating point."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from base.errors import ConfigError
from quant.sensitivity.analysis import network_of
from quant.sensitivity.layers import QuantizedLayers
from quant.sensitivity.profile import Effect
from quant.sensitivity.runs import FrameRecord, over_frames, run_of, score, scored_frame, scoring_groups

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec
    from quant.sensitivity.frames import SensitivityFrame

__all__ = ["evaluate_plan"]


def evaluate_plan(
    model: nn.Module,
    frames: Iterable[SensitivityFrame],
    skipped: Collection[str],
    *,
    spec: ModelSpec,
    workers: int | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> Effect:
    """The plan against the network in floating point, on the same frames. The model is left as it was.

    Args:
        model: Quantized and calibrated.
        frames: To evaluate on.
        skipped: Module paths of the layers in floating point.
        spec: Of the model.
        workers: Processes that share the frames; None: one a processor on a CPU.
        show_progress: Whether to show a progress bar.
        **settings: Of the bootstrap: confidence, num_resamples, seed.

    Raises:
        ConfigError: a layer of the plan is no quantized layer of the model.
        DataError: no frames.
    """
    network = network_of(model, spec)
    layers = QuantizedLayers(network)
    unknown = sorted(set(skipped) - set(layers.paths))
    if unknown:
        raise ConfigError(f"The plan skips {', '.join(unknown[:3])}, which the model does not quantize.")
    enabled = frozenset(layers.paths).difference(skipped)

    def work(part: Iterator[SensitivityFrame]) -> Iterator[FrameRecord]:
        for frame in part:
            with torch.inference_mode(), layers.restored():
                layers.switch(())
                reference = network(frame.canvas)
                layers.switch(enabled)
                outputs = network(frame.canvas)
                runs = tuple(scored_frame(values, reference, spec) for values in (reference, outputs))
                signal = tuple(float(value.double().square().sum()) for value in reference)
            yield FrameRecord(frame.token, frame.scene, frame.ground_truth, signal, runs, {}, ())

    records = over_frames(
        frames,
        work,
        label=f"evaluating a plan with {len(skipped)} of {len(layers.paths)} layers in floating point",
        workers=workers,
        on_cpu=next(network.parameters()).device.type == "cpu",
        show_progress=show_progress,
    )
    groups = scoring_groups([record.scene for record in records])
    return score(run_of(records, 0, spec), run_of(records, 1, spec), spec, groups, **settings)
