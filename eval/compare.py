"""Two runs against each other: `python -m eval.compare a/results.json b/results.json`.

Backends of the same name are compared: accuracy by class and range, latency by percentile. Where both runs kept the
detections of every frame and the frames are the same, differences have intervals and verdicts.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from base.arguments import number, whole_number
from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import DataError
from base.files import user_path, write_json
from base.messages import plain_lines
from base.ownership import owned_file
from base.tables import text_table
from eval.codec import to_json
from eval.detections_file import read_detections
from eval.evaluator import EvaluationSummary
from eval.metrics import TOTAL
from eval.results import RunResults, read_results
from eval.statistics import BootstrapComparison, Difference, paired_bootstrap

__all__ = ["LatencyDifference", "RunComparison", "compare_runs", "main"]


@dataclass(frozen=True)
class LatencyDifference:
    """One statistic of the time from points to boxes, milliseconds.

    Attributes:
        name: "mean", "p50", "p90", "p95", "p99".
        a: Of the first run.
        b: Of the second.
    """

    name: str
    a: float
    b: float

    @property
    def ratio(self) -> float:
        """b over a."""
        return self.b / self.a if self.a else math.nan


@dataclass(frozen=True)
class RunComparison:
    """One backend of two runs.

    Attributes:
        label_a: Of the first: "onnx fp32 (cpu)".
        label_b: Of the second.
        accuracy: Differences of AP, with intervals where `note` is empty.
        latency: Differences of the total time.
        note: Why there are no intervals.
    """

    label_a: str
    label_b: str
    accuracy: BootstrapComparison
    latency: tuple[LatencyDifference, ...]
    note: str = ""

    def table(self) -> str:
        """Rows for people: the mean over the classes first, then every class, in each range."""
        ordered = sorted(self.accuracy.differences, key=lambda item: item.range_name != TOTAL)
        accuracy = [
            (
                item.range_name,
                item.class_name or "mean",
                _number(item.a),
                _number(item.b),
                _number(item.difference, "+.4f"),
                "-" if math.isnan(item.low) else f"[{item.low:+.4f}, {item.high:+.4f}]",
                "-" if math.isnan(item.low) else item.verdict,
            )
            for item in ordered
        ]
        latency = [
            (f"{part.name} ms", f"{part.a:.2f}", f"{part.b:.2f}", f"{part.ratio - 1:+.1%}") for part in self.latency
        ]
        parts = [
            f"{self.label_b} (b) against {self.label_a} (a), {self.accuracy.num_frames} frames",
            text_table(("range", "class", "a", "b", "b - a", "interval", "verdict"), accuracy, right=(2, 3, 4)),
        ]
        if self.note:
            parts.append(f"no intervals: {self.note}")
        if latency:
            parts.append(text_table(("latency", "a", "b", "b - a"), latency, right=(1, 2, 3)))
        return "\n\n".join(parts)


def compare_runs(
    path_a: str | Path, path_b: str | Path, *, num_resamples: int = 1000, confidence: float = 0.95
) -> tuple[RunComparison, ...]:
    """Compares the backends that two runs have in common.

    A backend is paired with the one of the same name, precision and device; failing that, with the only one of the same
    name; failing that, the only one of each run.

    Args:
        path_a: `results.json` of the first run.
        path_b: Of the second; differences are its values minus those of the first.
        num_resamples: Of the bootstrap; 0 computes no intervals.
        confidence: Of the intervals.

    Raises:
        DataError: a file cannot be read, or the runs have no backend in common.
    """
    paths = Path(path_a), Path(path_b)
    runs = [read_results(path) for path in paths]
    pairs = _pairs(*runs)
    if not pairs:
        have = [", ".join(item.label for item in run.evaluations) or "none" for run in runs]
        raise DataError(f"'{path_a}' and '{path_b}' evaluated no backend in common: {have[0]} and {have[1]}")
    return tuple(_compare(runs, paths, a, b, num_resamples, confidence) for a, b in pairs)


def _pairs(a: RunResults, b: RunResults) -> list[tuple[EvaluationSummary, EvaluationSummary]]:
    pairs = []
    free = list(b.evaluations)
    for first in a.evaluations:
        same = [item for item in free if item.label == first.label]
        named = [item for item in free if item.backend == first.backend]
        others = [item for item in a.evaluations if item.backend == first.backend]
        if same:
            found = same[0]
        elif len(named) == 1 and len(others) == 1:
            found = named[0]
        else:
            continue
        free.remove(found)
        pairs.append((first, found))
    if not pairs and len(a.evaluations) == len(b.evaluations) == 1:
        pairs.append((a.evaluations[0], b.evaluations[0]))
    return pairs


def _compare(
    runs: Sequence[RunResults],
    paths: Sequence[Path],
    a: EvaluationSummary,
    b: EvaluationSummary,
    num_resamples: int,
    confidence: float,
) -> RunComparison:
    label_a, label_b = (f"{item.label}, {path}" for item, path in zip((a, b), paths, strict=True))
    latency = tuple(
        LatencyDifference(name, getattr(a.latency["total"], name), getattr(b.latency["total"], name))
        for name in ("mean", "p50", "p90", "p95", "p99")
        if "total" in a.latency and "total" in b.latency
    )
    note = ""
    if num_resamples:
        try:
            found = _with_intervals(runs, paths, a, b, num_resamples, confidence)
            return RunComparison(label_a, label_b, found, latency)
        except DataError as error:
            note = str(error)
    return RunComparison(label_a, label_b, _without_intervals(a, b, confidence), latency, note or "none were asked for")


def _with_intervals(
    runs: Sequence[RunResults],
    paths: Sequence[Path],
    a: EvaluationSummary,
    b: EvaluationSummary,
    num_resamples: int,
    confidence: float,
) -> BootstrapComparison:
    if a.metrics.class_names != b.metrics.class_names or a.metrics.thresholds != b.metrics.thresholds:
        raise DataError("the runs were scored with different classes or thresholds")
    if [part.name for part in a.metrics.ranges] != [part.name for part in b.metrics.ranges]:
        raise DataError("the runs were scored in different ranges")
    frames = []
    for run, path, item in zip(runs, paths, (a, b), strict=True):
        kept = run.detections.get(item.label)
        if kept is None:
            raise DataError(f"'{path}' kept no detections of {item.label}")
        frames.append(read_detections(path.parent / kept, item.metrics.class_names))
    return paired_bootstrap(
        frames[0],
        frames[1],
        a.metrics.class_names,
        thresholds_m=a.metrics.thresholds,
        ranges_m=[(part.min_m, part.max_m) for part in a.metrics.ranges if part.name != TOTAL],
        num_resamples=num_resamples,
        confidence=confidence,
        label_a=a.label,
        label_b=b.label,
    )


def _without_intervals(a: EvaluationSummary, b: EvaluationSummary, confidence: float) -> BootstrapComparison:
    """Differences of the classes and ranges that both have."""
    ranges = {part.name: part for part in b.metrics.ranges}
    differences = []
    for part in a.metrics.ranges:
        other = ranges.get(part.name)
        if other is None:
            continue
        values: list[tuple[str | None, float, float]] = [(None, part.mean_ap, other.mean_ap)]
        classes = {item.class_name: item for item in other.classes}
        values += [
            (item.class_name, item.mean_ap, classes[item.class_name].mean_ap)
            for item in part.classes
            if item.class_name in classes
        ]
        for name, first, second in values:
            ends = (math.nan, math.nan)
            differences.append(Difference(part.name, name, first, second, second - first, *ends, "undefined"))
    count = min(a.num_frames, b.num_frames)
    return BootstrapComparison(a.label, b.label, count, count, 0, confidence, 0, tuple(differences))


def _number(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="compare",
        description="Compare the results of two runs, backend by backend.",
        epilog="Exit code: 0 compared; 1 with --fail-on-worse, if an mAP is worse beyond its interval; 2 wrong input.",
    )
    parser.add_argument("a", metavar="A", help="results.json of the run that is compared with")
    parser.add_argument("b", metavar="B", help="results.json of the run that is judged")
    parser.add_argument(
        "--resamples",
        type=whole_number(0, 1_000_000),
        default=1000,
        metavar="N",
        help="draws of the bootstrap; 0 for none",
    )
    parser.add_argument("--confidence", type=number(0.5, 1.0), default=0.95, metavar="P", help="of the intervals")
    parser.add_argument("--out", metavar="JSON", help="also write the comparison there")
    parser.add_argument("--fail-on-worse", action="store_true", help="exit code 1 where an mAP is worse")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run_owning(args), args.log_level)


def _run_owning(args: argparse.Namespace) -> int:
    with owned_file(user_path(args.out), "--out", args) if args.out else contextlib.nullcontext():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    found = compare_runs(user_path(args.a), user_path(args.b), num_resamples=args.resamples, confidence=args.confidence)
    if args.out:
        write_json(user_path(args.out), to_json(list(found)))
    print(plain_lines("\n\n".join(item.table() for item in found)))  # noqa: T201 - the command's result
    worse = any(item.accuracy.total.verdict == "worse" for item in found)
    return EXIT_FAILED if worse and args.fail_on_worse else EXIT_PASSED


if __name__ == "__main__":
    run_main(main)
