"""The analysis: every frame once, and all layers inside that loop.

For a frame the network runs once in floating point and once quantized; a layer then costs only the segments behind it.
Memory holds one frame's activations a process, and the detections of every run.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from base.errors import ConfigError, DataError
from base.shares import WHOLE, Share
from models.components import BackboneNeckHead
from quant.sensitivity.layers import QuantizedLayers, Unit, units_of
from quant.sensitivity.profile import AnalysisCost, LayerSensitivity, MeasuredCost, SensitivityProfile
from quant.sensitivity.runs import FrameRecord, clock, over_frames, run_of, score, scored_frame, scoring_groups
from quant.sensitivity.segments import SegmentGraph

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec
    from quant.sensitivity.frames import SensitivityFrame

__all__ = ["build_sensitivity_profile", "network_of"]

_logger = logging.getLogger(__name__)


def build_sensitivity_profile(
    model: nn.Module,
    batches: Iterable[SensitivityFrame],
    *,
    spec: ModelSpec,
    granularity: str = "layer",
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    show_progress: bool = True,
    share: Share = WHOLE,
) -> SensitivityProfile:
    """Measures every quantized layer of a calibrated model, in both directions.

    A layer is its weight and its input. Where a tensor has several consumers, only the one in question sees it
    quantized. Layers that are switched off stay in floating point. The model is left as it was.

    Args:
        model: Quantized and calibrated (`quant.quantize_ptq`): the detector, or its `BackboneNeckHead`.
        batches: Frames (`open_sensitivity_frames`).
        spec: Of the model.
        granularity: "layer", or "stage": whole backbone blocks and head branches, for less than half of the cost.
        confidence: Of the intervals.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        workers: Processes that share the frames; None: one a processor on a CPU. Their number changes no bit.
        show_progress: Whether to show a progress bar.
        share: Of what is switched: the profile then has these layers alone (`quant.sensitivity.parts` puts parts
            together). Each share runs the network in floating point and quantized, too.

    Raises:
        DataError: no frames, or one that does not fit the model.
        ConfigError: nothing is quantized, the network cannot be cut into segments, or there are fewer layers or stages
            than shares.
    """
    network = network_of(model, spec)
    everything = units_of(QuantizedLayers(network).paths, granularity)
    units = tuple(everything[index] for index in share.indices(len(everything)))
    if not units:
        raise ConfigError(
            f"There is no part {share} of {len(everything)} {granularity}s to measure; cut them into fewer parts."
        )

    def work(frames: Iterator[SensitivityFrame]) -> Iterator[FrameRecord]:
        graph: SegmentGraph | None = None
        began = clock()
        for frame in frames:
            if tuple(frame.canvas.shape) != spec.canvas_shape:
                raise DataError(
                    f"Frame '{frame.token}': canvas {tuple(frame.canvas.shape)}; "
                    f"model '{spec.name}' needs {spec.canvas_shape}."
                )
            with torch.inference_mode():
                graph = graph or SegmentGraph(network, frame.canvas)
                with graph.layers.restored():
                    yield _record(graph, units, frame, spec, clock() - began)
            began = clock()

    records = over_frames(
        batches,
        work,
        label="sensitivity analysis",
        workers=workers,
        on_cpu=next(network.parameters()).device.type == "cpu",
        show_progress=show_progress,
    )
    profile = _profile(records, units, spec, granularity, confidence, num_resamples, seed)
    _logger.info("sensitivity: %d runs cost %.1f evaluations", profile.cost.num_runs, profile.cost.multiple)
    return profile


def network_of(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """The part of the model that runs on a canvas, in evaluation mode.

    Raises:
        ConfigError: the model has no such part.
    """
    if isinstance(model, BackboneNeckHead):
        return model.eval()
    for part in ("pts_backbone", "pts_neck", "pts_bbox_head"):
        if getattr(model, part, None) is None:
            raise ConfigError(f"{type(model).__name__} has no '{part}'; the analysis needs a pillar CenterPoint.")
    return BackboneNeckHead(model, spec).eval()


def _record(
    graph: SegmentGraph, units: Sequence[Unit], frame: SensitivityFrame, spec: ModelSpec, loading_s: float
) -> FrameRecord:
    """All runs of one frame: in floating point, quantized, every unit alone, all but every unit."""
    everything = frozenset(graph.layers.paths)
    macs = 2 * graph.macs
    began = clock()
    values = graph.run(frame.canvas, ())
    reference = graph.outputs(values)
    signal = tuple(float(value.double().square().sum()) for value in reference)
    plain = scored_frame(reference, reference, spec)
    evaluated = clock()
    alone = [scored_frame(graph.rerun(values, (), unit.layers), reference, spec) for unit in units]
    # One set of activations at a time: those of the first direction are let go before the second's are made.
    values = {}
    halfway = clock()
    values = graph.run(frame.canvas, everything)
    quantized = scored_frame(graph.outputs(values), reference, spec)
    quantized_s = clock() - halfway
    all_but = []
    for unit in units:
        rest = everything.difference(unit.layers)
        all_but.append(scored_frame(graph.rerun(values, everything, rest), reference, spec))
        macs += graph.cost((), unit.layers) + graph.cost(everything, rest)
    seconds = {
        "loading": loading_s,
        "evaluation": evaluated - began,
        "quantized": quantized_s,
        "analysis": clock() - began,
    }
    runs = (plain, quantized, *alone, *all_but)
    of_units = (sum(graph.layer_macs(path) for path in unit.layers) for unit in units)
    return FrameRecord(
        frame.token, frame.scene, frame.ground_truth, signal, runs, seconds, (graph.macs, macs, *of_units)
    )


def _profile(
    records: Sequence[FrameRecord],
    units: Sequence[Unit],
    spec: ModelSpec,
    granularity: str,
    confidence: float,
    num_resamples: int,
    seed: int,
) -> SensitivityProfile:
    began = clock()
    groups = scoring_groups([record.scene for record in records])
    settings: dict[str, Any] = {"confidence": confidence, "num_resamples": num_resamples, "seed": seed}
    plain, quantized = run_of(records, 0, spec), run_of(records, 1, spec)
    layers = []
    network_macs, analysis_macs, *of_units = records[0].macs
    for index, unit in enumerate(units):
        alone, all_but = (run_of(records, 2 + index + offset, spec) for offset in (0, len(units)))
        layers.append(
            LayerSensitivity(
                unit.name,
                unit.layers,
                of_units[index],
                score(plain, alone, spec, groups, **settings),
                score(quantized, all_but, spec, groups, **settings),
            )
        )
    overall = score(plain, quantized, spec, groups, **settings)
    seconds = {name: sum(record.seconds[name] for record in records) for name in records[0].seconds}
    return SensitivityProfile(
        model_name=spec.name,
        model_fingerprint=spec.fingerprint(),
        granularity=granularity,
        head_names=tuple(head.name for head in spec.heads),
        float_map=overall.mean_ap - overall.difference,
        quantized=overall,
        layers=tuple(layers),
        num_frames=len(records),
        num_groups=len(set(groups)) if groups else len(records),
        confidence=confidence,
        num_resamples=num_resamples,
        frames_sha256=hashlib.sha256("\n".join(record.token for record in records).encode()).hexdigest(),
        cost=AnalysisCost(network_macs, analysis_macs, 2 + 2 * len(units)),
        measured=MeasuredCost(
            evaluation_s=seconds["evaluation"],
            quantized_s=seconds["quantized"],
            analysis_s=seconds["analysis"],
            bootstrap_s=clock() - began,
            loading_s=seconds["loading"],
        ),
    )
