"""What to do where a dataset or its info file is missing: commands that make what was looked for, by its own name."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from base.files import user_path
from base.messages import printable

__all__ = ["DataOptions", "how_to_get"]

_PREFIX = "centerpoint_infos"
_GENERATED = {
    "train": "--split train --train-scenes 25 --frames-per-scene 4",
    "val": "--train-scenes 1 --val-scenes 4 --frames-per-scene 10",
}
# What a folder of KITTI's benchmarks, or of one of their sequences, holds.
_OF_KITTI = ("training/velodyne", "testing/velodyne", "velodyne")
_SHOWN = 4
_NEW = ("data/t4dataset", "data/t4generated", *(f"data/t4generated{number}" for number in range(2, 1000)))
# Where raw T4 datasets lie below a data root: <id>/<version>/annotation, with folders above them or none.
_RAW = ("annotation/sample.json", *("*/" * depth + "annotation/sample.json" for depth in (1, 2, 3)))


@dataclass(frozen=True)
class _Maker:
    """A command of `datasets` that makes info files; `prefix` is of their names, where it is told no other."""

    what: str
    module: str
    prefix: str


_T4 = _Maker("T4 datasets", "create_t4_infos", _PREFIX)
_KITTI = _Maker("KITTI data", "create_kitti_infos", "kitti_infos")


@dataclass(frozen=True)
class DataOptions:
    """How a command is told where data are.

    Attributes:
        root: Option for the folder.
        info: Option for the name of the info file in it.
    """

    root: str = "--data-root"
    info: str = "--info-file"


def how_to_get(root: Path, info: str, split: str, options: DataOptions | None = None) -> str:
    """What to do, in sentences; each command in them can be typed as it stands.

    Args:
        root: The folder that was looked in.
        info: The info file that was looked for, relative to it.
        split: "train", "val" or "test".
        options: Of the command that looked.
    """
    options = options or DataOptions()
    parts: list[str] = []
    if root.is_dir():
        there = sorted(path.name for path in root.glob("*.pkl"))
        if there:
            more = ", …" if len(there) > _SHOWN else ""
            parts.append(
                f"It has {printable(', '.join(there[:_SHOWN]))}{more}: name the right one with {options.info}."
            )
        if any(chain.from_iterable(root.glob(pattern) for pattern in _RAW)):
            return " ".join([*parts, _from_folder(_T4, root, info, split, options)])
        if any((root / name).is_dir() for name in _OF_KITTI):
            return " ".join([*parts, _from_folder(_KITTI, root, info, split, options)])
    if split in _GENERATED:
        parts.append(_generated(root, info, split, options))
    return " ".join([*parts, f"Or give another folder with {options.root}."])


def _generated(root: Path, info: str, split: str, options: DataOptions) -> str:
    """The command that generates a dataset where there is none yet, and how to name it."""
    target = next(path for path in (root, *map(Path, _NEW)) if not user_path(path).exists())
    usual = f"{_PREFIX}_{split}.pkl"
    given = [] if target == root else [f"{options.root}={target}"]
    given += [] if info == usual else [f"{options.info}={usual}"]
    then = f", and give {' '.join(given)}" if given else ""
    bazel = "(under Bazel: ./bazelw run //datasets/synthetic:generate)"
    return f"Generate one with: python -m datasets.synthetic --out {target} {_GENERATED[split]} {bazel}{then}."


def _from_folder(maker: _Maker, root: Path, info: str, split: str, options: DataOptions) -> str:
    """The command that makes the info file of the data in the folder."""
    prefix = info.removesuffix(f"_{split}.pkl")
    is_named_so = prefix != info and "/" not in prefix and prefix
    command = f"python -m datasets.{maker.module} --root {root} --out {root} --split {split}"
    command += f" --prefix {prefix}" if is_named_so and prefix != maker.prefix else ""
    then = "" if is_named_so else f", and give {options.info}={maker.prefix}_{split}.pkl"
    return f"Make it of the {maker.what} there with: {command}{then}."
