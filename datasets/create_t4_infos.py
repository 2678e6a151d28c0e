"""Info files of raw T4 datasets: `python -m datasets.create_t4_infos --root DIR --out DIR [--splits FILE]`."""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError, DataError
from base.files import atomic_path, read_json, user_path
from base.progress import progress
from datasets.synthetic.sweeps import sweep_to_key
from datasets.t4_classes import ClassRules
from datasets.t4_merging import merge_instances
from datasets.t4_tables import T4Tables, rotation_matrix

__all__ = ["DatasetEntry", "create_infos", "find_datasets", "main", "read_splits"]

POINT_FEATURES = 5
_PICKLE_PROTOCOL = 4
_MAX_SPEED_MPS = 50.0


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
            raise DataError(f"Both '{found[name]}' and '{folder}' are dataset '{name}'; remove one of them.")
        found[name] = folder
    if not found:
        raise DataError(f"'{root}' holds no T4 dataset: no folder with annotation/sample.json.")
    return found


def read_splits(path: Path) -> dict[str, list[DatasetEntry]]:
    """Split -> its datasets, from JSON or YAML: lists named train, val, test of `<id>/<version>[/<city>/<vehicle>]`.

    Raises:
        DataError: the file is missing, or holds no such list.
    """
    if path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"'{path}' does not exist") from error
        except yaml.YAMLError as error:
            raise DataError(f"'{path}' is not valid YAML: {error}") from error
    else:
        values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"'{path}' must hold lists named train, val or test.")
    splits = {split: _entries(values[split], split, path) for split in ("train", "val", "test") if values.get(split)}
    if not splits:
        raise DataError(f"'{path}' has none of train, val and test; it has {sorted(values)}.")
    return splits


def _entries(values: Any, split: str, path: Path) -> list[DatasetEntry]:
    entries = []
    for value in values if isinstance(values, list) else [None]:
        parts = value.split("/") if isinstance(value, str) else []
        if len(parts) not in (2, 4):
            raise DataError(
                f"'{path}', {split}: {value!r} is not '<id>/<version>' or '<id>/<version>/<city>/<vehicle>'."
            )
        entries.append(DatasetEntry("/".join(parts[:2]), *parts[2:]))
    return entries


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
        DataError: a record refers to nothing, or a file is missing.
    """
    infos: list[dict[str, Any]] = []
    for sample in tables.samples():
        scene = tables.get("scene", sample["scene_token"], sample)
        log = tables.tables["log"].get(scene.get("log_token", ""), {})
        data = tables.lidar(sample)
        ego, lidar2ego = tables.ego_pose(data), tables.lidar_to_ego(data)
        lidar = ego @ lidar2ego
        infos.append(
            {
                "sample_idx": len(infos),
                "token": sample["token"],
                "timestamp": int(sample["timestamp"]) / 1e6,
                "scene_token": scene["token"],
                "scene_name": scene["name"],
                "location": str(log.get("location", "")),
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
                "lidar_sweeps": [
                    _sweep(tables, earlier, lidar, root)
                    for _, earlier in zip(range(max_sweeps), tables.earlier(data), strict=False)
                ],
                "image_sweeps": [],
                "images": {},
                "instances": merge_instances(
                    [_instance(tables, item, lidar, rules) for item in tables.annotations(sample)], rules
                ),
                "instances_ignore": [],
                "pts_semantic_mask_path": None,
            }
        )
    return infos


def _sweep(tables: T4Tables, data: dict[str, Any], key_lidar: Any, root: Path) -> dict[str, Any]:
    ego, lidar2ego = tables.ego_pose(data), tables.lidar_to_ego(data)
    return {
        "timestamp": int(data["timestamp"]) / 1e6,
        "sample_data_token": data["token"],
        "ego2global": ego.tolist(),
        "lidar_points": {
            "lidar_path": _relative(tables.point_file(data), root),
            "lidar2ego": lidar2ego.tolist(),
            "num_pts_feats": POINT_FEATURES,
            "lidar2sensor": sweep_to_key(key_lidar, ego @ lidar2ego).tolist(),
        },
    }


def _instance(tables: T4Tables, annotation: dict[str, Any], lidar: Any, rules: ClassRules) -> dict[str, Any]:
    where = f"'{tables.folder}': annotation '{annotation['token']}'"
    category, attributes = tables.category(annotation), tables.attributes(annotation)
    label = rules.label(category)
    turn = lidar[:3, :3].T @ rotation_matrix(annotation["rotation"], where)
    center = lidar[:3, :3].T @ (np.array(annotation["translation"], dtype=float) - lidar[:3, 3])
    width, length, height = (float(value) for value in annotation["size"])
    velocity = (lidar[:3, :3].T @ tables.velocity(annotation))[:2]
    speed = float(np.linalg.norm(velocity))
    if speed > _MAX_SPEED_MPS:  # an annotation slip; NaN is kept, and read as standing still
        velocity *= _MAX_SPEED_MPS / speed
    points = int(annotation["num_lidar_pts"])
    return {
        "bbox_3d": [*center.tolist(), length, width, height, math.atan2(turn[1, 0], turn[0, 0])],
        "bbox_label": label,
        "bbox_label_3d": -1 if rules.filtered(category, attributes) else label,
        "velocity": velocity.tolist(),
        "num_lidar_pts": points,
        "num_radar_pts": int(annotation.get("num_radar_pts", 0)),
        "bbox_3d_isvalid": points > 0,
        "gt_nusc_name": category,
        "gt_attrs": attributes,
    }


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
    parser.add_argument("--max-sweeps", type=int, default=1, metavar="N", help="earlier revolutions (default 1)")
    parser.add_argument("--prefix", default="centerpoint_infos", help="of the file names (default %(default)s)")
    parser.add_argument("--version", default="t4", help="written into the info files (default %(default)s)")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when all is written, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _create(args), args.log_level)


def _create(args: argparse.Namespace) -> None:
    if args.max_sweeps < 0:
        raise ConfigError(f"--max-sweeps is {args.max_sweeps}; it must not be negative.")
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
    infos: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    jobs = [(split, entry) for split, entries in splits.items() for entry in entries]
    for split, entry in progress(jobs, label="reading T4 datasets", unit="dataset"):
        infos[split] += create_infos(T4Tables.read(found[entry.name]), root, rules, entry, args.max_sweeps)
    # Nothing is written before everything is read.
    for split, data_list in infos.items():
        content = {"data_list": data_list, "metainfo": {"classes": list(rules.classes), "version": args.version}}
        path = out / f"{args.prefix}_{split}.pkl"
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(pickle.dumps(content, protocol=_PICKLE_PROTOCOL))
        except OSError as error:
            raise DataError(f"Cannot write '{path}': {error.strerror or error}.") from error
        objects = sum(len(info["instances"]) for info in data_list)
        print(f"{path}: {len(data_list)} key frames, {objects} objects")  # noqa: T201 - what it did


if __name__ == "__main__":
    run_main(main)
