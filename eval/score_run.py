"""One pass over a file of frames, scored in every way that was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from base.errors import DataError
from eval.metrics import (
    NOT_A_TARGET,
    PLANE_DISTANCE,
    ClassMetrics,
    DetectionScorer,
    MatchingRules,
    ObjectLimits,
    ObjectTable,
)
from eval.metrics.detection_results import mean_of_known
from eval.metrics.nuscenes import NUSCENES_THRESHOLDS_M, NuScenesClass, NuScenesMetrics, NuScenesScorer
from eval.metrics.pair_errors import PairErrorScorer
from eval.score_configs import REFERENCE_MODES, ScoreConfig
from eval.score_frames import FrameChunk, FrameFile
from eval.score_labels import canonical_label

__all__ = ["FRAMES_AT_ONCE", "FRAME_SCORES_UP_TO", "score_file"]

FRAMES_AT_ONCE = 128
FRAME_SCORES_UP_TO = 100
"""With more frames than this, the scores of single frames are not written."""


def _number(value: float) -> float | None:
    """As the golden files have numbers: ten decimals, null for NaN."""
    return None if math.isnan(value) else round(value, 10)


def _key(threshold: float) -> str:
    return f"{threshold:g}"


def _tables(chunk: FrameChunk, config: ScoreConfig, names: list[str]) -> tuple[ObjectTable, ObjectTable]:
    """Detections and ground truth as a configuration sees them."""
    tables = []
    for table, truth in ((chunk.estimates, False), (chunk.ground_truth, True)):
        seen = chunk.in_ego(table) if config.in_map else table
        labels = config.label_table(names, ground_truth=truth)
        tables.append(replace(seen, label=labels[table.label]))
    return tables[0], tables[1]


class _ConfigRun:
    """Configurations that differ in their limits alone: what is matched once serves them all."""

    def __init__(self, configs: Sequence[ScoreConfig], *, curves: bool) -> None:
        self._configs = tuple(configs)
        self._curves = curves
        self._first = configs[0]
        limits = {config.name: config.limits for config in configs}
        self._scorers = {
            reference: DetectionScorer(
                self._first.class_names, thresholds, limits, self._first.rules(REFERENCE_MODES[reference][1])
            )
            for reference, thresholds in self._first.modes.items()
        }

    def add(self, chunk: FrameChunk, names: list[str]) -> None:
        found, truth = _tables(chunk, self._first, names)
        demanding = next((config.name for config in self._configs if config.needs_points), None)
        if demanding is not None and (truth.num_points < 0).any():
            raise DataError(
                f"configuration '{demanding}' limits the number of LiDAR points, but ground truth comes without "
                "'num_points'; add it to every box of 'gt', or set min_point_numbers to 0"
            )
        for scorer in self._scorers.values():
            scorer.add(found, truth, chunk.num_frames)

    def results(self) -> dict[str, dict[str, Any]]:
        """By the names of the configurations."""
        classes = {reference: scorer.result() for reference, scorer in self._scorers.items()}
        return {
            config.name: self._result(config, {reference: found[config.name] for reference, found in classes.items()})
            for config in self._configs
        }

    def _result(self, config: ScoreConfig, classes: dict[str, tuple[ClassMetrics, ...]]) -> dict[str, Any]:
        policy = config.policy
        num_frames = next(iter(self._scorers.values())).num_frames
        result: dict[str, Any] = {
            "modes": {reference: _mode_result(found, self._curves) for reference, found in classes.items()},
            "num_gt": sum(item.num_ground_truth for item in next(iter(classes.values()))),
            "num_frames": num_frames,
            "policy": {
                "name": policy.name,
                "heading": "unsigned" if policy.unsigned_heading else "signed",
                "ties": "stable" if policy.stable_ties else "unstable",
            },
        }
        if config.pass_fail_thresholds is not None:
            result["pass_fail"] = _pass_fail(classes["PLANEDISTANCE"], config.pass_fail_thresholds)
        if num_frames <= FRAME_SCORES_UP_TO:
            result["frame_mAP_mAPH"] = {
                reference: [[_number(item.mean_ap), _number(item.mean_aph)] for item in scorer.frame_means(config.name)]
                for reference, scorer in self._scorers.items()
            }
        return result


def _grouped(configs: Sequence[ScoreConfig]) -> list[list[ScoreConfig]]:
    """Configurations that differ in name, limits and pass/fail alone, together."""
    groups: list[tuple[ScoreConfig, list[ScoreConfig]]] = []
    for config in configs:
        common = replace(config, name="", limits=ObjectLimits(), pass_fail_thresholds=None)
        for key, members in groups:
            if key == common:
                members.append(config)
                break
        else:
            groups.append((common, [config]))
    return [members for _, members in groups]


def _mode_result(classes: Sequence[ClassMetrics], curves: bool) -> dict[str, Any]:
    labels = {}
    for item in classes:
        thresholds = {
            _key(at.threshold): {
                "ap": _number(at.ap),
                "aph": _number(at.aph),
                "num_gt": at.num_ground_truth,
                "num_est": at.num_detections,
                "num_tp": at.num_true_positives,
                "num_fp": at.num_false_positives,
                "aph_tp_sum": _number(at.heading_sum),
                "max_f1": _number(at.max_f1),
                "opt_conf": _number(at.best_score),
                "opt_precision": _number(at.best_precision),
                "opt_recall": _number(at.best_recall),
                "match_mean": _number(at.match_mean),
                "match_std": _number(at.match_std),
                **({"precision": list(at.curve)} if curves else {}),
            }
            for at in item.thresholds
        }
        labels[item.class_name] = {
            "mean_ap": _number(item.mean_ap),
            "mean_aph": _number(item.mean_aph),
            "thresholds": thresholds,
        }
    return {
        "mAP": _number(mean_of_known(item.mean_ap for item in classes)),
        "mAPH": _number(mean_of_known(item.mean_aph for item in classes)),
        "labels": labels,
    }


def _pass_fail(classes: Sequence[ClassMetrics], thresholds: Sequence[float]) -> dict[str, int]:
    at = [item.at(value) for item, value in zip(classes, thresholds, strict=True)]
    return {
        "tp": sum(item.num_true_positives for item in at),
        "fp": sum(item.num_false_positives for item in at),
        "fn": sum(item.num_misses for item in at),
        "tn": 0,  # only the false-positive validation task has negatives
    }


class _NuScenesRun:
    """The nuScenes score, with and without the challenge's filter."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self._scorers = {
            "unfiltered": NuScenesScorer(self.class_names, filtered=False),
            "filtered": NuScenesScorer(self.class_names, filtered=True),
        }

    def _label(self, name: str) -> int:
        for candidate in (name.lower(), canonical_label(name)):
            if candidate in self.class_names:
                return self.class_names.index(candidate)
        return NOT_A_TARGET

    def add(self, chunk: FrameChunk, names: list[str]) -> None:
        table = np.array([self._label(name) for name in names], np.int64)
        found = replace(chunk.estimates, label=table[chunk.estimates.label])
        truth = replace(chunk.ground_truth, label=table[chunk.ground_truth.label])
        for scorer in self._scorers.values():
            scorer.add(found, truth, chunk.num_frames)

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = {"config": f"detection_cvpr_2019, class_names {','.join(self.class_names)}"}
        for suffix, equal in (("", False), ("_attr_equal", True)):
            for name, scorer in self._scorers.items():
                result[name + suffix] = _nuscenes_result(scorer.result(attributes_equal=equal))
        return result


def _nuscenes_result(metrics: NuScenesMetrics) -> dict[str, Any]:
    def numbers(values: dict[str, float]) -> dict[str, float | None]:
        return {name: _number(value) for name, value in values.items()}

    def label(item: NuScenesClass) -> dict[str, Any]:
        return {
            "ap": {_key(at): _number(value) for at, value in zip(NUSCENES_THRESHOLDS_M, item.ap, strict=True)},
            "mean_ap": _number(item.mean_ap),
            "tp_errors": numbers(item.tp_errors),
            "num_gt": item.num_ground_truth,
            "num_est": item.num_detections,
            "max_recall": {_key(at): value for at, value in zip(NUSCENES_THRESHOLDS_M, item.max_recall, strict=True)},
        }

    return {
        "mAP": _number(metrics.mean_ap),
        "NDS": _number(metrics.nds),
        "tp_errors": numbers(metrics.tp_errors),
        "tp_scores": numbers(metrics.tp_scores),
        "labels": {item.class_name: label(item) for item in metrics.classes},
    }


class _PairErrorRun:
    """Errors of the pairs within 2 m plane distance, or what the configuration passes."""

    def __init__(self, config: ScoreConfig) -> None:
        self._config = config
        thresholds = config.pass_fail_thresholds or (2.0,) * len(config.class_names)
        rules: MatchingRules = config.rules(PLANE_DISTANCE)
        limits: ObjectLimits = config.limits
        self._scorer = PairErrorScorer(config.class_names, thresholds, limits, rules)

    def add(self, chunk: FrameChunk, names: list[str]) -> None:
        self._scorer.add(*_tables(chunk, self._config, names))

    def result(self) -> dict[str, Any]:
        return {
            name: {
                error: {
                    "average": _number(summary.average),
                    "rms": _number(summary.rms),
                    "std": _number(summary.std),
                    "max": _number(summary.max),
                    "min": _number(summary.min),
                    "percentile_99": _number(summary.percentile_99),
                }
                for error, summary in errors.items()
            }
            for name, errors in self._scorer.result().items()
        }


def score_file(
    frames: FrameFile, configs: Sequence[ScoreConfig], nuscenes_classes: Sequence[str], *, curves: bool = False
) -> dict[str, Any]:
    """Reads the frames once and scores them.

    Args:
        frames: What to score.
        configs: perception_eval's semantics; the pair errors ("tp_errors") are those of the first.
        nuscenes_classes: Classes of the nuScenes score.
        curves: Also give the precision at the recalls 0, 0.01, … 1 of every class and threshold.

    Returns:
        {"results": {config: …}, "nuscenes": …, "tp_errors": …}, with the keys of the golden files.

    Raises:
        DataError: the file, a frame or a box is broken.
    """
    runs = [_ConfigRun(group, curves=curves) for group in _grouped(configs)]
    nuscenes = _NuScenesRun(nuscenes_classes)
    errors = [_PairErrorRun(config) for config in configs[:1]]
    for chunk in frames.chunks(FRAMES_AT_ONCE):
        parts: list[_ConfigRun | _NuScenesRun | _PairErrorRun] = [*runs, nuscenes, *errors]
        for part in parts:
            part.add(chunk, frames.label_names)
    result: dict[str, Any] = {"results": {}, "nuscenes": nuscenes.result()}
    for config_run in runs:
        result["results"] |= config_run.results()
    for error_run in errors:
        result["tp_errors"] = error_run.result()
    return result
