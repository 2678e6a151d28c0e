"""How often the bootstrap's intervals contain the truth, on simulated detectors of which the truth is known.

The population is a large set of frames, each scored by two detectors of different quality; the truth is the difference
of their AP over all of it. A trial draws a few frames from the population and asks whether the interval that
`eval.statistics.paired_bootstrap` makes of them contains that truth. Of 95 % intervals, about 95 % should.

    python -m benchmarks.bootstrap_coverage [--trials 1000] [--frames 100]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.command import add_log_level, run_command, run_main
from base.progress import progress
from eval.metrics import FrameResult, evaluate_detections
from eval.statistics import paired_bootstrap

__all__ = ["Coverage", "Population", "measure_coverage", "simulate_population"]

_CLASSES = ("car",)
_RANGES_M = ((0.0, 50.0),)
_THRESHOLDS_M = (1.0,)


@dataclass(frozen=True, eq=False)
class Population:
    """Frames with two results each.

    Attributes:
        first: Of the first detector.
        second: Of the second.
        difference: AP of the second minus AP of the first over all frames.
    """

    first: tuple[FrameResult, ...]
    second: tuple[FrameResult, ...]
    difference: float


@dataclass(frozen=True)
class Coverage:
    """Outcome of the trials.

    Attributes:
        trials: How many.
        frames: Frames in each.
        confidence: Asked for.
        truth: Difference of AP in the population.
        covered: Share of the intervals that contain it.
        below: Share that end below it.
        above: Share that begin above it.
        mean_width: Mean width of an interval.
    """

    trials: int
    frames: int
    confidence: float
    truth: float
    covered: float
    below: float
    above: float
    mean_width: float

    def __str__(self) -> str:
        return (
            f"{self.covered:.1%} of {self.trials} intervals of confidence {self.confidence:.0%} contain the truth "
            f"({self.truth:+.4f} AP); {self.below:.1%} end below it, {self.above:.1%} begin above it; "
            f"{self.frames} frames each, mean width {self.mean_width:.4f}"
        )


def simulate_population(num_frames: int, seed: int, recalls: tuple[float, float] = (0.80, 0.76)) -> Population:
    """Frames of different difficulty and two detectors whose errors on them are related, as two precisions' are.

    Args:
        num_frames: Frames.
        seed: Of everything random.
        recalls: Chance of each detector to find an object in an average frame.
    """
    rng = np.random.default_rng(seed)
    first: list[FrameResult] = []
    second: list[FrameResult] = []
    for index in range(num_frames):
        count = int(rng.poisson(6.0))
        truth = np.zeros((count, 9), np.float32)
        truth[:, :2] = rng.uniform(-35.0, 35.0, (count, 2))
        truth[:, 3:6] = (4.5, 1.9, 1.6)
        # The frame's difficulty and each object's luck are common to both detectors.
        difficulty, luck = float(rng.normal(0.0, 0.15)), rng.random(count)
        offset = rng.normal(0.0, 0.35, (count, 2))
        boxes = Boxes3D(truth, np.ones(count, np.float32), np.zeros(count, np.int64))
        for recall, results in zip(recalls, (first, second), strict=True):
            mixed = np.where(rng.random(count) < 0.8, luck, rng.random(count))
            found = mixed < recall - difficulty
            hits = truth[found].copy()
            hits[:, :2] += offset[found] + rng.normal(0.0, 0.1, (len(hits), 2))
            false = np.zeros((int(rng.poisson(3.0 * math.exp(difficulty))), 9), np.float32)
            false[:, :2] = rng.uniform(-35.0, 35.0, (len(false), 2))
            false[:, 3:6] = (4.5, 1.9, 1.6)
            scores = np.concatenate([rng.beta(5.0, 2.0, len(hits)), rng.beta(2.0, 4.0, len(false))])
            everything = np.concatenate([hits, false])
            labels = np.zeros(len(everything), np.int64)
            detections = Boxes3D(everything, scores.astype(np.float32), labels)
            results.append(FrameResult(f"frame-{index}", detections, boxes))
    return Population(tuple(first), tuple(second), _average_precision(second) - _average_precision(first))


def _average_precision(frames: Sequence[FrameResult]) -> float:
    return evaluate_detections(frames, _CLASSES, ranges_m=_RANGES_M, thresholds_m=_THRESHOLDS_M).mean_ap


def measure_coverage(
    population: Population,
    *,
    trials: int,
    frames: int,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Coverage:
    """Draws frames from the population again and again and counts the intervals that contain its difference.

    Args:
        population: Its difference is the truth.
        trials: Samples.
        frames: Frames in each, drawn with replacement.
        resamples: Of the bootstrap.
        confidence: Of its intervals.
        seed: Of the samples.
    """
    rng = np.random.default_rng(seed)
    truth, below, above, width = population.difference, 0, 0, 0.0
    for trial in progress(range(trials), "coverage", trials, unit="trial"):
        picked = rng.integers(0, len(population.first), frames)
        found = paired_bootstrap(
            _pick(population.first, picked),
            _pick(population.second, picked),
            _CLASSES,
            ranges_m=_RANGES_M,
            thresholds_m=_THRESHOLDS_M,
            num_resamples=resamples,
            confidence=confidence,
            seed=trial,
        ).total
        below += found.high < truth
        above += found.low > truth
        width += found.high - found.low
    covered = 1.0 - (below + above) / trials
    return Coverage(trials, frames, confidence, truth, covered, below / trials, above / trials, width / trials)


def _pick(frames: Sequence[FrameResult], picked: NDArray[np.int64]) -> list[FrameResult]:
    # A frame that was drawn twice is two frames of the sample.
    return [FrameResult(str(place), frames[at].detections, frames[at].ground_truth) for place, at in enumerate(picked)]


def main() -> int:
    """Measures and prints the coverage; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=1000, help="default %(default)s")
    parser.add_argument("--frames", type=int, default=100, help="frames of a trial, default %(default)s")
    parser.add_argument("--resamples", type=int, default=1000, help="default %(default)s")
    parser.add_argument("--population", type=int, default=5000, help="frames of the population, default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    add_log_level(parser)
    args = parser.parse_args()
    return run_command(lambda: _measure(args), args.log_level)


def _measure(args: argparse.Namespace) -> None:
    population = simulate_population(args.population, args.seed)
    coverage = measure_coverage(
        population, trials=args.trials, frames=args.frames, resamples=args.resamples, seed=args.seed
    )
    print(coverage)  # noqa: T201 - the command's result


if __name__ == "__main__":
    run_main(main)
