"""Results of `benchmarks.int8_accuracy` as judgements: which detections of which frame are right, best score first.

A tenth of the detections' size, and enough to make AP, differences and intervals of any two variants again:

    python -m benchmarks.int8_accuracy_judged judged.npz.xz --pair fp16 percentile
"""

from __future__ import annotations

import argparse
import io
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import atomic_path, user_path
from base.tables import markdown_table
from benchmarks.int8_accuracy_results import DEFAULT_RANGES_M, StoredRun
from eval.metrics import CENTER_DISTANCE_BEV, DEFAULT_THRESHOLDS_M, PERCEPTION_EVAL, ObjectLimits
from eval.statistics import resampled_precision
from eval.weighted_precision import ScoredDetections, WeightedPrecision

__all__ = ["Judged", "main", "write_judged"]

_NAMES = (*(f"{low:g}-{high:g} m" for low, high in DEFAULT_RANGES_M), "total")
_LIMITS = tuple(
    ObjectLimits(low, high) for low, high in (*DEFAULT_RANGES_M, (DEFAULT_RANGES_M[0][0], DEFAULT_RANGES_M[-1][1]))
)
_TOTAL = len(DEFAULT_RANGES_M)
_MOST_FRAMES = 65536


def write_judged(run: StoredRun, methods: Sequence[str], class_names: Sequence[str], path: Path) -> None:
    """Writes the judgements of variants: an `.npz` compressed as a whole.

    Args:
        run: Holds the detections.
        methods: The variants.
        class_names: Of the labels.
        path: Where to.

    Raises:
        DataError: there are more than 65,536 frames.
    """
    arrays: dict[str, Any] = {
        "methods": np.array(methods),
        "classes": np.array(class_names),
        "scenes": np.array(run.scenes()),
    }
    if len(arrays["scenes"]) > _MOST_FRAMES:
        raise DataError(f"'{run.folder}' has {len(arrays['scenes'])} frames; at most {_MOST_FRAMES} can be kept.")
    for method in methods:
        matched = WeightedPrecision(
            run.frames(method), len(class_names), DEFAULT_THRESHOLDS_M, _LIMITS, CENTER_DISTANCE_BEV
        )
        for label, name in enumerate(class_names):
            whole = matched.scored(_TOTAL, label, 0)
            place = np.full(len(whole.frame), _TOTAL, np.uint8)
            for index in range(_TOTAL):
                place[np.isin(whole.detection, matched.scored(index, label, 0).detection)] = index
            arrays[f"{method}/{name}/frame"] = whole.frame.astype(np.uint16)
            arrays[f"{method}/{name}/range"] = place
            for index, limit in enumerate(_NAMES):
                items = [matched.scored(index, label, k) for k in range(len(DEFAULT_THRESHOLDS_M))]
                bits = np.zeros((len(items), len(items[0].frame)), np.uint8)
                for row, item in zip(bits, items, strict=True):
                    row[item.hit_at] = 1
                arrays[f"{method}/{name}/{limit}/hits"] = np.packbits(bits, axis=1)
                arrays[f"truth/{name}/{limit}"] = items[0].num_ground_truth.astype(np.uint16)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with atomic_path(path) as temporary:
        temporary.write_bytes(lzma.compress(buffer.getvalue(), preset=6))


@dataclass(frozen=True, eq=False)
class Judged:
    """What `write_judged` wrote.

    Attributes:
        methods: The variants.
        class_names: Of the labels.
        scenes: Scene of each frame.
    """

    methods: tuple[str, ...]
    class_names: tuple[str, ...]
    scenes: tuple[str, ...]
    _arrays: dict[str, NDArray[Any]]

    @classmethod
    def read(cls, path: Path) -> Judged:
        """Reads a file.

        Raises:
            DataError: it is no such file.
        """
        try:
            with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as stored:
                arrays = dict(stored)
            methods, classes, scenes = (tuple(map(str, arrays.pop(key))) for key in ("methods", "classes", "scenes"))
            return cls(methods, classes, scenes, arrays)
        except (lzma.LZMAError, ValueError, KeyError) as error:
            raise DataError(f"'{path}' holds no judgements: {error}") from error

    def of(self, method: str) -> WeightedPrecision:
        """A variant, matched.

        Raises:
            DataError: there is none of that name.
        """
        if method not in self.methods:
            raise DataError(f"There is no variant '{method}'; there are {', '.join(self.methods)}.")
        scored = [
            self._scored(method, name, index, threshold)
            for index in range(len(_NAMES))
            for name in self.class_names
            for threshold in range(len(DEFAULT_THRESHOLDS_M))
        ]
        return WeightedPrecision.of_scored(scored, (len(_NAMES), len(self.class_names), len(DEFAULT_THRESHOLDS_M)))

    def _scored(self, method: str, name: str, index: int, threshold: int) -> ScoredDetections:
        arrays, limit = self._arrays, _NAMES[index]
        frame = arrays[f"{method}/{name}/frame"].astype(np.int64)
        inside: NDArray[np.int64] = np.arange(len(frame))
        if index != _TOTAL:
            inside = np.flatnonzero(arrays[f"{method}/{name}/range"] == index)
        hits = np.unpackbits(arrays[f"{method}/{name}/{limit}/hits"][threshold], count=len(inside))
        truth = arrays[f"truth/{name}/{limit}"].astype(np.int64)
        return ScoredDetections(frame[inside], np.flatnonzero(hits), truth, inside)


def _compared(judged: Judged, first: str, second: str, resamples: int) -> list[str]:
    """A table of the second's AP minus the first's, in points."""
    groups = {name: number for number, name in enumerate(dict.fromkeys(judged.scenes))}
    group_of = np.array([groups[scene] for scene in judged.scenes], np.int64)
    once = np.ones((len(group_of), 1), np.int32)
    sides = judged.of(first), judged.of(second)
    a, b = (side.average_precision(once, PERCEPTION_EVAL)[..., 0] for side in sides)
    drawn = [resampled_precision(side, group_of, len(groups), num_resamples=resamples) for side in sides]
    low, high = np.percentile(drawn[1] - drawn[0], (2.5, 97.5), axis=-1)
    rows = [
        [
            range_name,
            *(
                f"{100 * (b[row, column] - a[row, column]):+.3f} "
                f"[{100 * low[row, column]:+.3f}, {100 * high[row, column]:+.3f}]"
                for column in range(1 + len(judged.class_names))
            ),
        ]
        for row, range_name in enumerate(_NAMES)
    ]
    return [f"{second} against {first}, Δ AP in points", "", *markdown_table(["", "mean", *judged.class_names], rows)]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when done, 2 on wrong input."""
    parser = argparse.ArgumentParser(prog="int8_accuracy_judged", description="Differences of AP from judgements.")
    parser.add_argument("file", type=Path, metavar="FILE", help="of write_judged")
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument(
        "--resamples", type=whole_number(40, 100_000), default=1000, metavar="N", help="of the bootstrap (%(default)s)"
    )
    add_log_level(parser)
    args = parser.parse_args(argv)

    def run() -> None:
        judged = Judged.read(user_path(args.file))
        for first, second in args.pair or [(judged.methods[0], name) for name in judged.methods[1:]]:
            print("\n".join([*_compared(judged, first, second, args.resamples), ""]))  # noqa: T201

    return run_command(run, args.log_level)


if __name__ == "__main__":
    run_main(main)
