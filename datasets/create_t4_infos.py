"""Info files of raw T4 datasets: `python -m datasets.create_t4_infos --root DIR --out DIR [--splits FILE]`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from base.arguments import whole_number
from base.checks import add_accept, settle
from base.command import add_log_level, run_command, run_main
from base.documents import read_json, read_yaml
from base.errors import ConfigError, DataError
from base.files import user_path
from base.keeping import require_ours
from base.messages import shown, shown_file
from base.ownership import owned_folder
from base.parsing import Items, Record, Text, misfit
from base.progress import progress
from datasets.geometry import rotation_matrix
from datasets.info_file import INFO_MARK, write_info_file
from datasets.synthetic.sweeps import sweep_to_key
from datasets.t4_classes import ClassRules
from datasets.t4_consistency import compare_tables
from datasets.t4_merging import merge_instances
from datasets.t4_plausibility import judge_boxes, judge_categories, look_at_clouds, unused_attributes
from datasets.t4_rows import Annotation, Sample, SampleData
from datasets.t4_tables import T4Tables
from models.known_checks import KNOWN_CHECKS

__all__ = ["DatasetEntry", "create_infos", "find_datasets", "main", "read_splits"]

POINT_FEATURES = 5
_MAX_SPEED_MPS = 50.0
_MAX_SWEEPS = 1000
# Some fifty thousand datasets.
_MAX_LIST_BYTES = 1 << 22
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset of a split: `<id>/<version>`, with city and kind of vehicle where the list has them."""

    name: str
    city: str = ""
    vehicle_type: str = ""


def find_datasets(root: Path) -> dict[str, Path]:
    """Name -> folder of every dataset below `root`. Names are `<id>/<version>`: the last two parts of the path.

    Raises:
        DataError: there is none, or two have one name.
    """
    found: dict[str, Path] = {}
    for table in sorted(root.rglob("annotation/sample.json")):
        folder = table.parents[1]
        name = "/".join(folder.parts[-2:])
        if name in found:
            both = f"{shown_file(found[name])} and {shown_file(folder)}"
            raise DataError(f"Both {both} are dataset {shown(name)}; remove one of them.")
        found[name] = folder
    if not found:
        raise DataError(f"{shown_file(root)} holds no T4 dataset: no folder with annotation/sample.json.")
    return found


def read_splits(path: Path) -> dict[str, list[DatasetEntry]]:
    """Split -> its datasets, from JSON or YAML: lists named train, val, test of `<id>/<version>[/<city>/<vehicle>]`.

    Raises:
        DataError: the file is missing, holds no such list, or lists a dataset twice in a split.
    """
    if path.suffix in (".yaml", ".yml"):
        listed = read_yaml(path, _Splits, limit=_MAX_LIST_BYTES)
    else:
        listed = read_json(path, _Splits, limit=_MAX_LIST_BYTES)
    splits = {name: _entries(names) for name in _SPLITS if (names := getattr(listed, name))}
    if not splits:
        raise DataError(f"{shown_file(path)} lists no dataset under train, val or test.")
    for split, entries in splits.items():
        first: dict[str, int] = {}
        for index, entry in enumerate(entries):
            # Before any is read, which takes a second for each of a long list.
            if first.setdefault(entry.name, index) != index:
                must = f"must be another dataset than {split}[{first[entry.name]}]. List each dataset once"
                raise misfit(path, [split, index], entry.name, must)
    return splits


def _entry(name: str) -> str:
    parts = name.split("/")
    if len(parts) not in (2, 4) or not all(parts):
        raise ValueError("must be '<id>/<version>' or '<id>/<version>/<city>/<vehicle>'")
    return name


_Entry = Annotated[Text, AfterValidator(_entry)]


class _Splits(Record, extra="ignore"):
    """A file of splits; what else it says is for others."""

    train: Items[_Entry] | None = None
    val: Items[_Entry] | None = None
    test: Items[_Entry] | None = None


def _entries(names: Sequence[str]) -> list[DatasetEntry]:
    parts = [name.split("/") for name in names]
    return [DatasetEntry("/".join(part[:2]), *part[2:]) for part in parts]


def create_infos(
    tables: T4Tables, root: Path, rules: ClassRules, entry: DatasetEntry, max_sweeps: int = 1
) -> list[dict[str, Any]]:
    """Infos of a dataset's key frames, in order of time.

    Boxes are in the frame of the points: of the LiDAR, which for LIDAR_CONCAT is `base_link`.

    Args:
        tables: The dataset.
        root: Folder to which point paths are relative.
        rules: Classes.
        entry: Its place in the split.
        max_sweeps: Earlier revolutions of each key frame, latest first; fewer where the recording starts.

    Raises:
        DataError: a record refers to nothing, a file is missing, or records contradict each other.
    """
    infos: list[dict[str, Any]] = []
    used: list[tuple[Sample, list[SampleData]]] = []
    for sample in tables.samples():
        scene = tables.scene[sample.scene_token]
        log = tables.log.get(scene.log_token or "")
        data = tables.lidar(sample)
        sweeps = [earlier for _, earlier in zip(range(max_sweeps), tables.earlier(data), strict=False)]
        used.append((sample, [data, *sweeps]))
        ego, lidar2ego = tables.ego_pose_of(data), tables.lidar_to_ego(data)
        lidar = ego @ lidar2ego
        infos.append(
            {
                "sample_idx": len(infos),
                "token": sample.token,
                "timestamp": sample.timestamp / 1e6,
                "scene_token": scene.token,
                "scene_name": scene.name,
                "location": (log.location or "") if log else "",
                "city": entry.city,
                "vehicle_type": entry.vehicle_type,
                "ego2global": ego.tolist(),
                "lidar_points": {
                    "num_pts_feats": POINT_FEATURES,
                    "lidar_path": _relative(tables.point_file(data), root),
                    "lidar2ego": lidar2ego.tolist(),
                },
                "lidar_sources": {},
                "radar_points": {},
                "lidar_sweeps": [_sweep(tables, earlier, lidar, root) for earlier in sweeps],
                "image_sweeps": [],
                "images": {},
                "instances": merge_instances(
                    [_instance(tables, item, lidar, rules) for item in tables.annotations(sample)], rules
                ),
                "instances_ignore": [],
                "pts_semantic_mask_path": None,
            }
        )
    settle(compare_tables(tables.folder, used))
    return infos


def _sweep(tables: T4Tables, data: SampleData, key_lidar: Any, root: Path) -> dict[str, Any]:
    ego, lidar2ego = tables.ego_pose_of(data), tables.lidar_to_ego(data)
    return {
        "timestamp": data.timestamp / 1e6,
        "sample_data_token": data.token,
        "ego2global": ego.tolist(),
        "lidar_points": {
            "lidar_path": _relative(tables.point_file(data), root),
            "lidar2ego": lidar2ego.tolist(),
            "num_pts_feats": POINT_FEATURES,
            "lidar2sensor": sweep_to_key(key_lidar, ego @ lidar2ego).tolist(),
        },
    }


def _instance(tables: T4Tables, annotation: Annotation, lidar: Any, rules: ClassRules) -> dict[str, Any]:
    category, attributes = tables.category_of(annotation), tables.attributes_of(annotation)
    label = rules.label(category)
    turn = lidar[:3, :3].T @ rotation_matrix(annotation.rotation)
    center = lidar[:3, :3].T @ (np.array(annotation.translation) - lidar[:3, 3])
    width, length, height = annotation.size
    velocity = (lidar[:3, :3].T @ tables.velocity(annotation))[:2]
    speed = float(np.linalg.norm(velocity))
    if speed > _MAX_SPEED_MPS:  # an annotation slip; NaN is kept, and read as standing still
        velocity *= _MAX_SPEED_MPS / speed
    return {
        "bbox_3d": [*center.tolist(), length, width, height, math.atan2(turn[1, 0], turn[0, 0])],
        "bbox_label": label,
        "bbox_label_3d": -1 if rules.filtered(category, attributes) else label,
        "velocity": velocity.tolist(),
        "num_lidar_pts": annotation.num_lidar_pts,
        "num_radar_pts": annotation.num_radar_pts,
        "bbox_3d_isvalid": annotation.num_lidar_pts > 0,
        "gt_nusc_name": category,
        "gt_attrs": attributes,
    }


def _check_tokens(split: str, infos: Sequence[dict[str, Any]]) -> None:
    """Two datasets of a split have no key frame in common: one of them is a copy."""
    first: dict[str, dict[str, Any]] = {}
    for info in infos:
        other = first.setdefault(info["token"], info)
        if other is not info:
            files = " and ".join(shown_file(item["lidar_points"]["lidar_path"]) for item in (other, info))
            raise DataError(
                f"Two key frames of split {shown(split)} have the token {shown(info['token'])}: those of {files}. List "
                "each dataset once."
            )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="create_t4_infos",
        description="Make info files of raw T4 datasets (annotation/*.json and data/LIDAR_*).",
        epilog="Exit code: 0 all written; 2 wrong input, and nothing written.",
    )
    parser.add_argument("--root", required=True, metavar="DIR", help="folder with datasets below it; the data root")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the info files")
    parser.add_argument("--splits", metavar="FILE", help="JSON or YAML with lists train, val, test of <id>/<version>")
    parser.add_argument("--split", help="only this split; without --splits, the name for all datasets (default all)")
    parser.add_argument("--classes", metavar="FILE", help="JSON with classes, name_mapping, merge_objects, …")
    parser.add_argument(
        "--max-sweeps",
        type=whole_number(0, _MAX_SWEEPS),
        default=1,
        metavar="N",
        help=f"earlier revolutions, 0 to {_MAX_SWEEPS} (default 1)",
    )
    parser.add_argument("--prefix", default="centerpoint_infos", help="of the file names (default %(default)s)")
    parser.add_argument("--version", default="t4", help="written into the info files (default %(default)s)")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when all is written, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level, args.accept)


def _run(args: argparse.Namespace) -> None:
    with owned_folder(user_path(args.out), "--out"):
        _create(args)


def _create(args: argparse.Namespace) -> None:
    root, out = user_path(args.root), user_path(args.out)
    rules = ClassRules.read(user_path(args.classes)) if args.classes else ClassRules()
    found = find_datasets(root)
    splits = read_splits(user_path(args.splits)) if args.splits else {}
    if not splits:
        splits = {args.split or "all": [DatasetEntry(name) for name in found]}
    elif args.split:
        if args.split not in splits:
            raise ConfigError(f"'{args.splits}' has no split '{args.split}'; it has {sorted(splits)}.")
        splits = {args.split: splits[args.split]}
    absent = [entry.name for entries in splits.values() for entry in entries if entry.name not in found]
    if absent:
        raise DataError(f"{len(absent)} datasets are not below '{root}', such as '{absent[0]}'. Fetch them first.")
    require_ours(out, {f"{args.prefix}_{split}.pkl": INFO_MARK for split in splits}, "--out")
    infos: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    jobs = [(split, entry) for split, entries in splits.items() for entry in entries]
    for split, entry in progress(jobs, label="reading T4 datasets", unit="dataset"):
        made = create_infos(T4Tables.read(found[entry.name]), root, rules, entry, args.max_sweeps)
        look_at_clouds(made, root, f"T4 dataset {shown_file(found[entry.name])}")
        infos[split] += made
    for split, data_list in infos.items():
        if not data_list:
            names = ", ".join(shown(entry.name) for entry in splits[split][:3])
            raise DataError(
                f"Split {shown(split)} has no key frame: sample.json of its {len(splits[split])} datasets ({names}) is "
                "empty. Nothing could be trained or evaluated on it; fetch the datasets again, or list others."
            )
        _check_tokens(split, data_list)
    everything = [info for data_list in infos.values() for info in data_list]
    place = f"T4 datasets below {shown_file(root)}"
    settle([*judge_categories(everything, rules, place), *judge_boxes(everything, place)])
    if unused := unused_attributes(everything, rules):
        print(f"attributes that no rule uses: {unused}")  # noqa: T201 - what it did
    # Nothing is written before everything is read.
    for split, data_list in infos.items():
        content = {"data_list": data_list, "metainfo": {"classes": list(rules.classes), "version": args.version}}
        path = out / f"{args.prefix}_{split}.pkl"
        write_info_file(path, content)
        objects = sum(len(info["instances"]) for info in data_list)
        print(f"{path}: {len(data_list)} key frames, {objects} objects")  # noqa: T201 - what it did


if __name__ == "__main__":
    run_main(main)
