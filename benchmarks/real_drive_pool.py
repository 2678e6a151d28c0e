"""One score of a drive out of those of its parts, each by a model that had not seen it: cross-validation's last step.

    python -m benchmarks.real_drive_pool --parts work_dirs/fold_0 work_dirs/fold_1 work_dirs/fold_2 work_dirs/fold_3 \
        --output work_dirs/folds

`--parts` are output folders of `benchmarks.real_drive`, in its order; what all of them hold is told, INT8 and
unlabelled scans too. AP of a part with few objects says little; of all frames together it is that of the drive.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import user_path
from base.ownership import owned_folder
from benchmarks.int8_accuracy_results import StoredRun
from benchmarks.int8_accuracy_variants import FP16
from benchmarks.real_drive import Detections, summary
from benchmarks.real_drive_scores import tables
from benchmarks.run_options import add_model, add_output, add_resamples, add_view, publish
from eval.metrics import FrameResult
from models.config import load_model_config
from models.spec import ModelSpec

__all__ = ["PooledRun", "main"]

_VARIANTS = ("fp32", FP16)


class PooledRun:
    """Runs behind one another."""

    def __init__(self, parts: Sequence[Detections]) -> None:
        self._parts = parts

    def frames(self, method: str) -> list[FrameResult]:
        """A variant's detections beside the ground truth, of all parts."""
        return [frame for part in self._parts for frame in part.frames(method)]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes results.json and results.md; 0 when done, 2 on wrong input."""
    parser = argparse.ArgumentParser(prog="real_drive_pool", description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", type=Path, nargs="+", required=True, metavar="DIR", help="of benchmarks.real_drive")
    add_model(parser, weights=None)
    add_view(parser)
    add_resamples(parser)
    add_output(parser)
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    folders = [user_path(part) for part in args.parts]
    for index, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:index]]:
            raise ConfigError(f"--parts names '{args.parts[index]}' twice; its frames would count twice.")
    parts = [StoredRun(folder / "labelled") for folder in folders]
    for folder, part in zip(args.parts, parts, strict=True):
        for name in _VARIANTS:
            if not part.has(name):
                raise ConfigError(
                    f"'{folder}' holds no detections of '{name}'; give --output folders of benchmarks.real_drive."
                )
    others = [StoredRun(folder / "unlabelled") for folder in folders if (folder / "unlabelled").is_dir()]
    kept = [set(part.variants()) for part in (*parts, *(others if len(others) == len(parts) else ()))]
    variants = [*_VARIANTS, *sorted(set.intersection(*kept) - set(_VARIANTS))]
    runs = {"the labelled frames": PooledRun(parts)}
    if len(others) == len(parts) and all(set(_VARIANTS) <= names for names in kept):
        runs["the unlabelled scans, each by every part's model"] = PooledRun(others)
    out = user_path(args.output)
    with owned_folder(out, "--output"):
        spec = ModelSpec.from_config(load_model_config(user_path(args.config)))
        results = summary(runs, variants, spec.class_names, args.view, args.block, args.resamples)
        publish(out, results, tables(results))


if __name__ == "__main__":
    run_main(main)
