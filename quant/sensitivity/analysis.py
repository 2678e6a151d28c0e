"""The analysis: every frame once, and all layers inside that loop.

For a frame the network runs once in floating point and once quantized; a layer then costs only the segments behind it.
Memory holds one frame's activations, and the detections of every run.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from base.progress import progress
from eval.metrics import FrameResult, default_ranges
from eval.statistics import paired_bootstrap
from models.components import BackboneNeckHead
from quant.sensitivity.layers import Unit, units_of
from quant.sensitivity.profile import AnalysisCost, Effect, LayerSensitivity, MeasuredCost, SensitivityProfile
from quant.sensitivity.segments import SegmentGraph
from runtime.decode import decode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.spec import ModelSpec
    from quant.sensitivity.frames import SensitivityFrame

__all__ = ["MIN_GROUPS", "Run", "build_sensitivity_profile", "network_of", "score"]

MIN_GROUPS = 10
"""Fewest scenes that the bootstrap draws; with fewer it draws frames."""

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """One setting of the quantizers over all frames.

    Attributes:
        results: Detections of every frame.
        signal: Sum of y² of each output, y in floating point.
        noise: Sum of (y - x)².
    """

    results: list[FrameResult]
    signal: dict[str, float]
    noise: dict[str, float]

    @classmethod
    def of(cls, heads: Iterable[str]) -> Run:
        """An empty one."""
        names = tuple(heads)
        return cls([], dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0))

    def add(self, frame: SensitivityFrame, outputs: Sequence[Tensor], reference: Sequence[Tensor], spec: Any) -> None:
        """Scores one frame's outputs."""
        for name, value, plain in zip(self.signal, outputs, reference, strict=True):
            self.signal[name] += float(plain.double().square().sum())
            # The same tensor: this output does not depend on what was switched.
            self.noise[name] += 0.0 if value is plain else float((value.double() - plain.double()).square().sum())
        detections = _decode(outputs, spec)
        self.results.append(FrameResult(frame.token, detections, frame.ground_truth))

    @property
    def sqnr_db(self) -> dict[str, float]:
        """Output -> signal to quantization noise."""
        return {name: _decibel(self.signal[name], self.noise[name]) for name in self.signal}


def build_sensitivity_profile(
    model: nn.Module,
    batches: Iterable[SensitivityFrame],
    *,
    spec: ModelSpec,
    granularity: str = "layer",
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
    show_progress: bool = True,
) -> SensitivityProfile:
    """Measures every quantized layer of a calibrated model, in both directions.

    A layer is its weights and its input. Where a tensor has several consumers, only the one in question sees it
    quantized. Layers whose quantizers are switched off stay in floating point. The model is left as it was.

    Args:
        model: Quantized and calibrated (`quant.quantize_ptq`): the detector, or its `BackboneNeckHead`.
        batches: Frames (`open_sensitivity_frames`).
        spec: Of the model.
        granularity: "layer", or "stage": whole backbone blocks and head branches, for less than half of the cost.
        confidence: Of the intervals.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        show_progress: Whether to show a progress bar.

    Raises:
        DataError: no frames, or one that does not fit the model.
        ConfigError: nothing is quantized, or the network cannot be cut into segments.
    """
    network = network_of(model, spec)
    began = _clock()
    analysis: _Analysis | None = None
    total = len(batches) if isinstance(batches, Sized) else None
    frames = progress(batches, "sensitivity analysis", total) if show_progress else batches
    with torch.inference_mode():
        for frame in frames:
            if tuple(frame.canvas.shape) != spec.canvas_shape:
                raise DataError(
                    f"Frame '{frame.token}': canvas {tuple(frame.canvas.shape)}; "
                    f"model '{spec.name}' needs {spec.canvas_shape}."
                )
            if analysis is None:
                analysis = _Analysis(SegmentGraph(network, frame.canvas), spec, granularity)
            analysis.add(frame)
    if analysis is None:
        raise DataError("The sensitivity analysis was given no frames.")
    scored = _clock()
    profile = analysis.profile(confidence, num_resamples, seed)
    measured = MeasuredCost(
        analysis.evaluation_s,
        analysis.quantized_s,
        analysis.analysis_s,
        _clock() - scored,
        scored - began - analysis.analysis_s,
    )
    _logger.info(
        "sensitivity: %d runs cost %.1f evaluations by MACs, %.1f by time",
        profile.cost.num_runs,
        profile.cost.multiple,
        measured.multiple,
    )
    return SensitivityProfile(**{**vars(profile), "measured": measured})


class _Analysis:
    """The runs of all units, filled frame by frame."""

    def __init__(self, graph: SegmentGraph, spec: ModelSpec, granularity: str) -> None:
        self.graph = graph
        self.spec = spec
        self.granularity = granularity
        self.units = units_of(graph.layers.paths, granularity)
        self.everything = frozenset(graph.layers.paths)
        heads = [head.name for head in spec.heads]
        self.plain, self.quantized = Run.of(heads), Run.of(heads)
        self.alone = [Run.of(heads) for _ in self.units]
        self.all_but = [Run.of(heads) for _ in self.units]
        self.scenes: list[str] = []
        self.evaluation_s = self.quantized_s = self.analysis_s = 0.0

    def add(self, frame: SensitivityFrame) -> None:
        """Runs and scores one frame in every setting."""
        graph = self.graph
        self.scenes.append(frame.scene)
        with graph.layers.restored():
            began = _clock()
            values = graph.run(frame.canvas, ())
            reference = graph.outputs(values)
            self.plain.add(frame, reference, reference, self.spec)
            self.evaluation_s += _clock() - began
            for unit, run in zip(self.units, self.alone, strict=True):
                run.add(frame, graph.rerun(values, (), unit.layers), reference, self.spec)
            # One set of activations at a time: those of the first direction are let go before the second's are made.
            values = {}
            halfway = _clock()
            values = graph.run(frame.canvas, self.everything)
            self.quantized.add(frame, graph.outputs(values), reference, self.spec)
            self.quantized_s += _clock() - halfway
            for unit, run in zip(self.units, self.all_but, strict=True):
                rest = self.everything.difference(unit.layers)
                run.add(frame, graph.rerun(values, self.everything, rest), reference, self.spec)
            self.analysis_s += _clock() - began

    def profile(self, confidence: float, num_resamples: int, seed: int) -> SensitivityProfile:
        """Everything but the measured times."""
        groups = _groups(self.scenes)
        settings: dict[str, Any] = {"confidence": confidence, "num_resamples": num_resamples, "seed": seed}
        layers = tuple(
            LayerSensitivity(
                unit.name,
                unit.layers,
                sum(self.graph.layer_macs(path) for path in unit.layers),
                score(self.plain, alone, self.spec, groups, **settings),
                score(self.quantized, all_but, self.spec, groups, **settings),
            )
            for unit, alone, all_but in zip(self.units, self.alone, self.all_but, strict=True)
        )
        tokens = "\n".join(result.token for result in self.plain.results)
        quantized = score(self.plain, self.quantized, self.spec, groups, **settings)
        return SensitivityProfile(
            model_name=self.spec.name,
            model_fingerprint=self.spec.fingerprint(),
            granularity=self.granularity,
            head_names=tuple(head.name for head in self.spec.heads),
            float_map=quantized.mean_ap - quantized.difference,
            quantized=quantized,
            layers=layers,
            num_frames=len(self.scenes),
            num_groups=len(set(groups)) if groups else len(self.scenes),
            confidence=confidence,
            num_resamples=num_resamples,
            frames_sha256=hashlib.sha256(tokens.encode()).hexdigest(),
            cost=self._cost(self.units),
        )

    def _cost(self, units: Sequence[Unit]) -> AnalysisCost:
        graph, everything = self.graph, self.everything
        macs = 2 * graph.macs
        macs += sum(graph.cost((), unit.layers) for unit in units)
        macs += sum(graph.cost(everything, everything.difference(unit.layers)) for unit in units)
        return AnalysisCost(graph.macs, macs, 2 + 2 * len(units))


def network_of(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """The part of the model that runs on a canvas, in evaluation mode."""
    if isinstance(model, BackboneNeckHead):
        return model.eval()
    for part in ("pts_backbone", "pts_neck", "pts_bbox_head"):
        if getattr(model, part, None) is None:
            raise ConfigError(f"{type(model).__name__} has no '{part}'; the analysis needs a pillar CenterPoint.")
    return BackboneNeckHead(model, spec).eval()


def score(baseline: Run, run: Run, spec: ModelSpec, groups: Sequence[str] | None, **settings: Any) -> Effect:
    """SQNR and mAP of a run, and its difference to another with its interval.

    Args:
        baseline: What it is compared with.
        run: The same frames.
        spec: Of the model.
        groups: Scene of each frame, where scenes are drawn.
        **settings: Of `eval.statistics.paired_bootstrap`.
    """
    reach = max(abs(spec.point_cloud_range[axis]) for axis in (0, 1, 3, 4))
    outermost = max(high for _, high in default_ranges(reach))
    compared = paired_bootstrap(
        baseline.results, run.results, spec.class_names, ranges_m=((0.0, outermost),), groups=groups, **settings
    ).total
    return Effect(run.sqnr_db, compared.b, compared.difference, compared.low, compared.high, compared.verdict)


def _clock() -> float:
    """Seconds of work: the process's on a CPU; on a machine with a CUDA device, of the wall."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def _groups(scenes: Sequence[str]) -> list[str] | None:
    return list(scenes) if all(scenes) and len(set(scenes)) >= MIN_GROUPS else None


def _decode(outputs: Sequence[Tensor], spec: ModelSpec) -> Boxes3D:
    names = [head.name for head in spec.heads]
    return decode({name: value.float().cpu().numpy() for name, value in zip(names, outputs, strict=True)}, spec)


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf
