"""What `deploy.predict` writes and prints: of one scan a document and a picture, of a sequence a line a scan."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from base.checks import recorded
from base.files import write_json
from base.messages import printable
from base.tables import text_table
from datasets.scan import ScanFormat
from deploy.prediction import BackendResult, Prediction, ScanPrediction

if TYPE_CHECKING:
    from base.boxes import Boxes3D
    from eval.verification import VerificationResult
    from models.spec import ModelSpec

__all__ = ["PredictionOutput"]

DOCUMENT, LINES, PICTURE = "detections.json", "detections.jsonl", "detections.png"
_MIN_SHOWN_SCORE = 0.3
_FRAME = "base_link: x forward, y left, z up from the ground; metres, radians, m/s"


@dataclass
class _Totals:
    """Of one backend over all scans so far."""

    scans: int = 0
    pillars: int = 0
    outside: int = 0
    dropped_pillars: int = 0
    boxes: Counter[int] = field(default_factory=Counter)
    total_ms: list[float] = field(default_factory=list)
    stages_ms: Mapping[str, float] = field(default_factory=dict)

    def add(self, result: BackendResult) -> None:
        self.scans += 1
        self.pillars += result.counts.voxels
        self.outside += result.counts.outside_points
        self.dropped_pillars += result.counts.dropped_voxels
        shown = result.detections.select(result.detections.scores >= _MIN_SHOWN_SCORE)
        self.boxes.update(int(label) for label in shown.labels)
        self.total_ms.append(result.stages_ms["total"])
        self.stages_ms = result.stages_ms


class PredictionOutput:
    """Takes scans as they come (`add`), then what they share (`finish`).

    A lone scan is written when all is known: `detections.json` and `detections.png`. Of a sequence every scan is a
    line of `detections.jsonl` when `add` returns, so that what comes to nothing later loses none; `detections.json` is
    written at the end and says what they share.

    Args:
        out: Existing folder.
        form: How the scans are stored; None for frames of an info file.
    """

    def __init__(self, out: Path, form: ScanFormat | None) -> None:
        self._out = out
        self._form = form
        self._lines: IO[str] | None = None
        self._first: ScanPrediction | None = None
        self._totals: dict[str, _Totals] = {}

    def add(self, scan: ScanPrediction, spec: ModelSpec, *, is_alone: bool) -> None:
        """Takes a scan with what was found in it.

        Raises:
            OSError: it cannot be written.
        """
        for result in scan.results:
            self._totals.setdefault(result.label, _Totals()).add(result)
        if self._first is None:
            self._first = scan
            # They belong together: what an earlier run left goes before new numbers come.
            for name in (PICTURE, LINES) if is_alone else (DOCUMENT, PICTURE):
                (self._out / name).unlink(missing_ok=True)
            if not is_alone:
                self._lines = (self._out / LINES).open("w", encoding="utf-8")
        if self._lines is not None:
            document = {
                "index": scan.scan.index,
                "time_s": scan.scan.time_s,
                "scan": self._scan(scan),
                "backends": [_backend(result, spec) for result in scan.results],
            }
            self._lines.write(json.dumps(document, sort_keys=True, allow_nan=False) + "\n")
            self._lines.flush()

    def close(self) -> None:
        """Ends the file of lines."""
        if self._lines is not None:
            self._lines.close()

    def _scan(self, scan: ScanPrediction) -> dict[str, Any]:
        source = scan.scan
        facts: dict[str, Any] = {
            "file" if source.sha256 else "sample": source.name,
            "points": source.num_in_file,
            "invalid_points": source.num_invalid,
            "zero_points": source.num_zeros,
        }
        return facts | ({"sha256": source.sha256} if source.sha256 else {})

    def _format(self) -> dict[str, Any]:
        form = self._form
        if form is None:
            return {}
        return {
            "columns": list(form.names),
            "intensity_scale": form.intensity_scale,
            "height_m": form.height_m,
            "yaw_deg": form.yaw_deg,
        }

    def finish(self, prediction: Prediction) -> None:
        """Writes what all scans share.

        Raises:
            OSError: it cannot be written.
        """
        from eval.codec import to_json

        spec, first = prediction.spec, self._first
        document: dict[str, Any] = {
            "model": spec.name,
            "point_columns": list(spec.point_columns),
            "checkpoint_sha256": prediction.checkpoint_sha256,
            "checks": to_json(recorded()),
            "frame": _FRAME,
            "skipped": dict(prediction.skipped),
            "verification": to_json(prediction.verification),
        }
        if first is not None and self._lines is None:
            document["scan"] = {**self._scan(first), "format": self._format()}
            document["backends"] = [_backend(result, spec) for result in first.results]
        else:
            document |= {"scans": prediction.num_scans, "frames": LINES, "format": self._format()}
            document["backends"] = list(self._totals)
        self.close()
        write_json(self._out / DOCUMENT, document)
        if first is not None and first.results and self._lines is None:
            self._draw(first, spec)

    def _draw(self, scan: ScanPrediction, spec: ModelSpec) -> None:
        from deploy.scan_picture import save_scan_png

        found = [
            (result.label, result.detections.select(result.detections.scores >= _MIN_SHOWN_SCORE))
            for result in scan.results
        ]
        extent = max(abs(limit) for limit in (*spec.point_cloud_range[:2], *spec.point_cloud_range[3:5]))
        title = f"{scan.scan.name}: {scan.scan.num_in_file} points, boxes with score ≥ {_MIN_SHOWN_SCORE:g}"
        save_scan_png(self._out / PICTURE, scan.scan.points, found, spec.class_names, extent, title)

    def summary(self, prediction: Prediction, record: Path | None) -> str:
        """What the terminal shows."""
        from runtime.counts import MAX_VOXELS_KEY

        spec, first = prediction.spec, self._first
        parts: list[str] = []
        if first is not None:
            source = first.scan
            zeros = f", {source.num_zeros} at (0, 0, 0)" if source.num_zeros else ""
            counts = f"{source.num_in_file} points, {source.num_invalid} invalid{zeros}"
            what = printable(source.name) if self._lines is None else f"{prediction.num_scans} scans, of the first"
            parts.append(f"{what}: {counts}; model '{spec.name}'")
        rows = [self._row(label, total, spec) for label, total in self._totals.items()]
        if rows:
            header = ("backend", "pillars", "points out of range", f"boxes ≥ {_MIN_SHOWN_SCORE:g}", "milliseconds")
            parts.append(text_table(header, rows))
        for label, total in self._totals.items():
            lost, kept = total.dropped_pillars, total.pillars
            if lost:
                share = f"{lost} of {lost + kept} ({lost / (lost + kept):.1%})"
                parts.append(f"{label}: pillars left out: {share}; raise {MAX_VOXELS_KEY}")
        parts += [f"{name} SKIPPED: {reason}" for name, reason in prediction.skipped.items()]
        if prediction.verification is not None:
            parts.append(_verification_table(prediction.verification))
        written = [self._out / DOCUMENT]
        if self._lines is not None:
            written.append(self._out / LINES)
        elif rows:
            written.append(self._out / PICTURE)
        parts.append(", ".join(map(str, written if record is None else [*written, record])))
        return "\n\n".join(parts)

    def _row(self, label: str, total: _Totals, spec: ModelSpec) -> tuple[str, ...]:
        classes = ", ".join(
            f"{total.boxes[index]} {name}" for index, name in enumerate(spec.class_names) if total.boxes[index]
        )
        if self._lines is None:
            stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in total.stages_ms.items())
        else:
            ordered = sorted(total.total_ms)
            stages = f"total {ordered[len(ordered) // 2]:.0f} (p50), {ordered[-1]:.0f} (max)"
        means = (f"{value / total.scans:.0f}" for value in (total.pillars, total.outside))
        return (label, *means, classes or "none", stages)


def _backend(result: BackendResult, spec: ModelSpec) -> dict[str, Any]:
    return {
        "backend": result.name,
        "device": result.device,
        "precision": result.precision,
        "pillars": result.counts.voxels,
        "dropped_pillars": result.counts.dropped_voxels,
        "points_out_of_range": result.counts.outside_points,
        "boxes_without_size": result.dropped.without_size,
        "boxes_not_finite": result.dropped.broken,
        "detections": _detections(result.detections, spec.class_names),
    }


def _detections(boxes: Boxes3D, class_names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "class": class_names[int(label)],
            "score": round(float(score), 6),
            "center": _rounded(box[:3]),
            "size_length_width_height": _rounded(box[3:6]),
            "yaw": round(float(box[6]), 6),
            "velocity": _rounded(box[7:9]),
        }
        for box, score, label in zip(boxes.boxes, boxes.scores, boxes.labels, strict=True)
    ]


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


def _verification_table(result: VerificationResult) -> str:
    rows: list[tuple[str, ...]] = []
    for verdict in result.outputs:
        item = verdict.comparison
        limits = {
            "relative L2": verdict.tolerance.relative_l2,
            "of range": verdict.tolerance.max_abs_share,
            "score": verdict.tolerance.max_score_error,
            "max abs": verdict.tolerance.max_abs,
        }
        rows.append(
            (
                item.name,
                f"{item.max_abs:.3g}",
                f"{item.mean_abs:.3g}",
                f"{item.relative_l2:.3g}",
                f"{item.cosine:.9f}",
                str(item.nonfinite_reference + item.nonfinite_test),
                "PASSED" if verdict.passed else "FAILED",
                ", ".join(f"{name} ≤ {limit:g}" for name, limit in limits.items() if limit is not None),
            )
        )
    header = ("output", "max abs", "mean abs", "relative L2", "cosine", "not finite", "verdict", "limits")
    parts = [result.summary(), *result.reasons, text_table(header, rows)] if rows else [result.summary()]
    boxes = result.boxes
    if boxes is not None:
        floor = result.box_tolerance.min_score if result.box_tolerance else _MIN_SHOWN_SCORE
        counts = (boxes.matched, boxes.moved, boxes.lost, boxes.gained)
        errors = (
            f"{boxes.max_center_m * 1e3:.3g} mm",
            f"{boxes.max_size_m * 1e3:.3g} mm",
            f"{boxes.max_yaw_rad:.2g} rad",
            f"{boxes.max_velocity_mps:.2g} m/s",
            f"{boxes.max_score:.2g}",
        )
        names = (f"boxes ≥ {floor:g}: matched", "moved", "lost", "gained", "center", "size", "yaw", "velocity", "score")
        parts.append(text_table(names, [(*map(str, counts), *errors)]))
    return "\n".join(parts)
