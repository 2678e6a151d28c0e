"""Score thresholds of a bundle: per class and distance, the confidence at which the measured F1 is largest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from base.errors import DataError
from base.files import read_json, sha256_file
from base.manifests import Manifest, read_manifest
from base.messages import printable
from eval.detections_file import DETECTIONS, MANIFEST_KIND
from runtime.autoware_params import DEFAULT_DISTANCE_BINS_M, DEFAULT_SCORE_THRESHOLD

if TYPE_CHECKING:
    from base.boxes import Boxes3D
    from models.spec import ModelSpec

__all__ = [
    "MeasuredThreshold",
    "ScoreThresholds",
    "default_thresholds",
    "detections_of_results",
    "measure_thresholds",
    "require_same_model",
]

MATCH_DISTANCE_M = 1.0
"""A detection is right whose centre lies this near to an annotated one."""
MIN_GROUND_TRUTH = 20
"""Fewer objects than this say nothing about a threshold."""
_DECIMALS = 4


@dataclass(frozen=True)
class MeasuredThreshold:
    """One class in one distance bin.

    Attributes:
        value: The threshold to use.
        measured: Whether it comes from detections; otherwise it is the default.
        num_ground_truth: Annotated objects in the bin.
        max_f1: F1 at the threshold; NaN where nothing was measured.
        precision: Precision there.
        recall: Recall there.
    """

    value: float
    measured: bool = False
    num_ground_truth: int = 0
    max_f1: float = math.nan
    precision: float = math.nan
    recall: float = math.nan


@dataclass(frozen=True)
class ScoreThresholds:
    """Thresholds of all classes and bins.

    Attributes:
        distance_bins_m: Upper limits.
        classes: The model's class names.
        rows: Per class, per bin.
        source: What they were measured on, for people; empty for defaults.
    """

    distance_bins_m: tuple[float, ...]
    classes: tuple[str, ...]
    rows: tuple[tuple[MeasuredThreshold, ...], ...]
    source: str = ""

    @property
    def values(self) -> dict[str, tuple[float, ...]]:
        """Class name -> threshold per bin."""
        return {name: tuple(item.value for item in row) for name, row in zip(self.classes, self.rows, strict=True)}


def default_thresholds(spec: ModelSpec) -> ScoreThresholds:
    """The node's usual threshold for everything."""
    row = (MeasuredThreshold(DEFAULT_SCORE_THRESHOLD),) * len(DEFAULT_DISTANCE_BINS_M)
    return ScoreThresholds(DEFAULT_DISTANCE_BINS_M, spec.class_names, (row,) * len(spec.class_names))


def measure_thresholds(
    detections: str | Path,
    spec: ModelSpec,
    distance_bins_m: Sequence[float] = DEFAULT_DISTANCE_BINS_M,
    match_distance_m: float = MATCH_DISTANCE_M,
    min_ground_truth: int = MIN_GROUND_TRUTH,
) -> ScoreThresholds:
    """Thresholds from detections and ground truth of an evaluation.

    Annotated objects outside the grid, and those without a LiDAR point where points are counted, are left out: that the
    model cannot find them must not lower a threshold. A bin with fewer annotated objects than `min_ground_truth`, or
    without any right detection, keeps the default.
    Thresholds are rounded down, so that the detection that set one stays.

    Args:
        detections: JSON Lines as `eval.detections_file.write_detections` writes them, or the folder that
            `deploy.detect` made.
        spec: Of the model; its classes are looked for.
        distance_bins_m: Upper limits of the bins, ascending.
        match_distance_m: See `MATCH_DISTANCE_M`.
        min_ground_truth: See `MIN_GROUND_TRUTH`.

    Raises:
        DataError: the file is missing, broken, or of other classes.
    """
    from eval.detections_file import read_detections
    from eval.metrics import FrameResult, evaluate_detections

    detections = Path(detections)
    if detections.is_dir():
        detections /= DETECTIONS
    frames = [
        FrameResult(frame.token, frame.detections, _visible(frame.ground_truth, spec))
        for frame in read_detections(detections, spec.class_names)
    ]
    edges = (0.0, *(float(limit) for limit in distance_bins_m))
    metrics = evaluate_detections(
        frames,
        spec.class_names,
        thresholds_m=(match_distance_m,),
        ranges_m=tuple(pairwise(edges)),
    )
    rows = []
    for name in spec.class_names:
        row = []
        for index in range(len(edges) - 1):
            result = metrics.ranges[index].of_class(name).thresholds[0]
            if result.num_ground_truth < min_ground_truth or math.isnan(result.max_f1):
                row.append(MeasuredThreshold(DEFAULT_SCORE_THRESHOLD, num_ground_truth=result.num_ground_truth))
                continue
            scale = 10**_DECIMALS
            row.append(
                MeasuredThreshold(
                    min(math.floor(result.best_score * scale) / scale, 1 - 1 / scale),
                    True,
                    result.num_ground_truth,
                    result.max_f1,
                    result.best_precision,
                    result.best_recall,
                )
            )
        rows.append(tuple(row))
    source = f"{len(frames)} frames, {detections.name}, sha256 {sha256_file(detections)}"
    made = _manifest_of(detections)
    if made is not None:
        info, version = made.inputs.get("info_file"), printable(str(made.versions.get("onnxruntime")))
        name, checksum = (printable(info.file), info.sha256) if info is not None else ("frames", "unknown")
        source += f", what ONNX Runtime {version} and the node's decode make of {name} (sha256 {checksum})"
    return ScoreThresholds(tuple(edges[1:]), spec.class_names, tuple(rows), source)


def require_same_model(detections: str | Path, facts: Mapping[str, str]) -> None:
    """Refuses detections that `deploy.detect` made with another model than the one of `facts`.

    Args:
        detections: The file, or its folder; of a file without a manifest nothing is known, and nothing is refused.
        facts: Metadata of the model's ONNX files.

    Raises:
        DataError: the weights or the precision differ.
    """
    path = Path(detections)
    made = _manifest_of(path / DETECTIONS if path.is_dir() else path)
    if made is None:
        return
    for key in ("weights", "precision"):
        theirs, ours = made.settings.get(key), facts.get(key)
        if theirs != ours:
            raise DataError(
                f"'{detections}' was detected by a model with {key} {printable(str(theirs))}; the bundle's has "
                f"{printable(str(ours))}. Measure with the model that is bundled (deploy.detect)."
            )


def _manifest_of(detections: Path) -> Manifest | None:
    """The manifest that `deploy.detect` writes beside its detections."""
    path = detections.with_name("manifest.json")
    if not path.is_file():
        return None
    # A folder from elsewhere may have a manifest of its own.
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != MANIFEST_KIND:
        return None
    manifest = read_manifest(path, "Detect again (deploy.detect).")
    return manifest if detections.name in manifest.outputs else None


def _visible(truth: Boxes3D, spec: ModelSpec) -> Boxes3D:
    limits = np.asarray(spec.point_cloud_range)
    centre = truth.boxes[:, :2]
    inside = np.all((centre >= limits[:2]) & (centre < limits[3:5]), axis=1)
    if truth.num_points is not None:
        inside &= truth.num_points > 0
    return truth.select(inside)


def detections_of_results(results: str | Path, label: str | None = None) -> Path:
    """File of the detections that belong to one evaluation of a `results.json`.

    Args:
        results: Written by a deployment run.
        label: Of the evaluation; may be left out where there is one.

    Raises:
        DataError: the file is no results file, or has no such detections.
    """
    from eval.results import read_results

    run = read_results(results)
    # The node's own boxes where the run has them: thresholds are applied to those.
    found = run.candidates or run.detections
    if label is None and len(found) == 1:
        (label,) = found
    if label is None or label not in found:
        raise DataError(
            f"'{results}' has detections of {sorted(found) or 'no evaluation'}; "
            f"{'name one of them' if label is None else f'there is none named {label!r}'} (--label)."
        )
    return Path(results).parent / found[label]
