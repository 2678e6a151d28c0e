"""Which recipe each part of a drive is scored with, chosen without that part.

    python -m benchmarks.real_drive_choose --data data/kitti_drive --pairs plain=work_dirs/plain_pairs \
        pasted=work_dirs/pasted_pairs --folds plain=work_dirs/plain pasted=work_dirs/pasted --output work_dirs/chosen

`--pairs` and `--folds` are output folders of `benchmarks.real_drive_cross`, with its `--pairs` and without. For each
part those models count that had seen neither it nor the part that they are scored on. A recipe's worth is the mean AP
(points, FP32) of the classes with at least 20 objects, less the share of headings beyond 90° in per cent. The pooled
score then is that of parts by models of the recipe chosen for them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import read_json, user_path
from base.ownership import owned_folder
from base.tables import markdown_table
from benchmarks.int8_accuracy_results import StoredRun
from benchmarks.int8_accuracy_variants import FP16
from benchmarks.real_drive import summary
from benchmarks.real_drive_data import read_labels
from benchmarks.real_drive_folds import fold_name, pair_name, parts
from benchmarks.real_drive_pool import PooledRun
from benchmarks.real_drive_scores import tables
from benchmarks.run_options import add_drive, add_model, add_output, add_resamples, add_view, named_folders, publish
from eval.metrics import FrameResult
from models.config import load_model_config
from models.spec import ModelSpec

__all__ = ["main", "worth"]

_FEWEST = 20


@dataclass(frozen=True)
class _Stretch:
    """Some frames of a run, one behind the other."""

    run: StoredRun
    part: slice

    def frames(self, method: str) -> list[FrameResult]:
        """A variant's detections beside the ground truth."""
        return self.run.frames(method)[self.part]


def worth(results: Mapping[str, Any]) -> float:
    """What a recipe is chosen by: points of AP less per cent of headings beyond 90° (FP32).

    Args:
        results: Of `benchmarks.real_drive.summary`.

    Raises:
        ConfigError: no class has objects enough.
    """
    row = results["variants"]["fp32"]
    counted = [name for name, count in results["objects"].items() if count >= _FEWEST and name in row["ap"]]
    if not counted:
        raise ConfigError(f"No class has {_FEWEST} objects to choose by.")
    heading = row["headings"].get("all", {"beyond_90_deg": 1.0})
    return float(sum(row["ap"][name]["value"] for name in counted) / len(counted) - 100.0 * heading["beyond_90_deg"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="real_drive_choose", description=__doc__.split("\n\n")[0])
    add_drive(parser)
    for name in ("pairs", "folds"):
        parser.add_argument(
            f"--{name}", nargs="+", required=True, metavar="NAME=DIR", help="of benchmarks.real_drive_cross"
        )
    add_model(parser, weights=None)
    add_view(parser)
    add_resamples(parser)
    add_output(parser)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes results.json and results.md; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    pairs, folds = named_folders(args.pairs, "--pairs"), named_folders(args.folds, "--folds")
    if list(pairs) != list(folds):
        raise ConfigError(f"--pairs has {', '.join(pairs)}, --folds {', '.join(folds)}; give both for each recipe.")
    claim = read_json(next(iter(pairs.values())) / "cross.json")
    split = parts(len(read_labels(user_path(args.data) / "labels.json")), int(claim["folds"]), int(claim["gap"]))
    lengths = [len(test) for _, test in split]
    class_names = ModelSpec.from_config(load_model_config(user_path(args.config))).class_names

    def told(runs: Any, resamples: int) -> dict[str, Any]:
        return summary({"the labelled frames": runs}, ["fp32", FP16], class_names, args.view, args.block, resamples)

    rows: list[dict[str, Any]] = []
    for fold in range(len(split)):
        found = {name: told(PooledRun(_without(folder, fold, lengths)), 0) for name, folder in pairs.items()}
        values = {name: round(worth(results), 2) for name, results in found.items()}
        rows.append({"fold": fold, "worth": values, "chosen": max(values, key=lambda name: values[name])})
    scored = [StoredRun(folds[row["chosen"]] / fold_name(row["fold"]) / "score" / "labelled") for row in rows]
    pooled = told(PooledRun(scored), args.resamples)
    out = user_path(args.output)
    with owned_folder(out, "--output"):
        head = ["part", *pairs, "chosen"]
        body = [[str(row["fold"]), *(f"{v:.1f}" for v in row["worth"].values()), row["chosen"]] for row in rows]
        text = "\n".join([*markdown_table(head, body), "", tables(pooled)])
        publish(out, {"choices": rows, "pooled": pooled}, text)


def _without(folder: Path, fold: int, lengths: Sequence[int]) -> list[_Stretch]:
    """The other parts' frames, of the pairs with `fold`."""
    chosen = []
    for i, j in combinations(range(len(lengths)), 2):
        if fold in (i, j):
            part = slice(lengths[i], None) if fold == i else slice(lengths[i])
            chosen.append(_Stretch(StoredRun(folder / pair_name(i, j) / "score" / "labelled"), part))
    return chosen


if __name__ == "__main__":
    run_main(main)
