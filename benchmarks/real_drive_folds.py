"""Parts of a real drive to fine-tune on and to score, for cross-validation.

    python -m benchmarks.real_drive_folds --data data/kitti_drive --folds 4 --out data/folds

writes `fold_K/train`, a dataset of all frames but the K-th part and its neighbours, and `fold_K/test`, that part as
`benchmarks.real_drive` takes it. With `--pairs` it writes `pair_I_J`, where two parts are left out of training and
scored: what `benchmarks.real_drive_choose` chooses recipes by. docs/benchmarks/real_drive.md has the commands.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError, DataError
from base.files import atomic_dir, user_path
from base.messages import shown_file
from base.ownership import owned_folder
from benchmarks.real_drive_data import CLASS_OF_TYPE, convert_scans, drive_scans
from benchmarks.run_options import add_drive

__all__ = ["add_split", "fold_name", "fold_names", "main", "pair_name", "pairs_of", "parts"]

_CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")


def parts(frames: int, folds: int, gap: int) -> list[tuple[list[int], list[int]]]:
    """(to train on, to score) of each fold: consecutive frames are scored, `gap` on either side left out.

    Raises:
        ConfigError: a fold would have nothing to train on or to score.
    """
    ends = [round(frames * index / folds) for index in range(folds + 1)]
    split = []
    for first, last in pairwise(ends):
        train = [index for index in range(frames) if index < first - gap or index >= last + gap]
        if first == last or not train:
            raise ConfigError(f"{frames} frames cannot be {folds} folds with {gap} frames between; give fewer.")
        split.append((train, list(range(first, last))))
    return split


def pairs_of(split: Sequence[tuple[list[int], list[int]]]) -> dict[str, tuple[list[int], list[int]]]:
    """(to train on, to score) of each two folds: what neither leaves out, and their parts behind one another."""
    return {
        pair_name(i, j): ([index for index in split[i][0] if index in set(split[j][0])], split[i][1] + split[j][1])
        for i, j in combinations(range(len(split)), 2)
    }


def fold_name(number: int) -> str:
    """The folder of a part: trained on what it and its neighbours leave."""
    return f"fold_{number}"


def pair_name(i: int, j: int) -> str:
    """The folder of two parts, the first one first."""
    return f"pair_{i}_{j}"


def fold_names(folds: int, pairs: bool) -> list[str]:
    """What the folders are called."""
    if pairs:
        return [pair_name(i, j) for i, j in combinations(range(folds), 2)]
    return [fold_name(number) for number in range(folds)]


def add_split(parser: argparse.ArgumentParser) -> None:
    """--folds, --gap and --pairs: how a drive is cut into parts."""
    parser.add_argument("--folds", type=whole_number(2, 100), default=4, metavar="N", help="parts (%(default)s)")
    parser.add_argument(
        "--gap", type=whole_number(0, 1000), default=5, metavar="N", help="frames left out between (%(default)s)"
    )
    parser.add_argument("--pairs", action="store_true", help="leave two parts out at a time, to choose recipes by")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the folds; 0 when done, 2 on wrong input."""
    parser = argparse.ArgumentParser(prog="real_drive_folds", description=__doc__.split("\n\n")[0])
    add_drive(parser)
    add_split(parser)
    parser.add_argument(
        "--classes", nargs="+", default=_CLASSES, metavar="NAME", help="of the model (default: the demo's)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    data, out = user_path(args.data), user_path(args.out)
    scans, frames = drive_scans(data)
    if not frames:
        raise DataError(f"--data: {shown_file(data)} has no labels.json; parts are made of a drive with labels.")
    split = parts(len(frames), args.folds, args.gap)
    named = pairs_of(split) if args.pairs else dict(zip(fold_names(args.folds, False), split, strict=True))
    with owned_folder(out, "--out"):
        for name_of_fold, (train, test) in named.items():
            if not train:
                raise ConfigError(f"Nothing is left to train on beside two of {args.folds} parts; give more --folds.")
            fold = out / name_of_fold
            for name, chosen in (("parts", train), ("test", test)):
                with atomic_dir(fold / name) as folder:
                    for index in chosen:
                        target = folder / frames[index].lidar
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(scans[index], target)
                    rows = [frames[index].model_dump() for index in chosen]
                    (folder / "labels.json").write_text(json.dumps(rows), encoding="utf-8")
            convert_scans(fold / "parts", fold / "train", args.classes, name_of_fold.replace("_", ""))
            shutil.rmtree(fold / "parts")
            kinds = sum(item.type in CLASS_OF_TYPE for index in test for item in frames[index].objects)
            print(f"{fold}: {len(train)} frames to train on, {len(test)} with {kinds} objects to score")  # noqa: T201


if __name__ == "__main__":
    run_main(main)
