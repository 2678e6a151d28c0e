"""The info file of a folder of scans: `python -m datasets.create_infos --root DIR [--labels boxes.json]`."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from base.arguments import whole_number
from base.checks import add_accept, settle
from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError, DataError
from base.files import user_path
from base.messages import printable, shown_file
from base.ownership import owned_folder
from base.parsing import misfit
from base.progress import progress
from datasets.box_plausibility import BoxPoints, BoxWatch
from datasets.box_points import count_in_boxes
from datasets.info_file import INFO_MARK, write_info_file
from datasets.info_options import add_class_options, add_point_options, point_facts, renaming
from datasets.infos import OWN_FRAMES
from datasets.own_frames import OwnBox, OwnFrame, find_own_frames, read_own_frames
from datasets.plausibility import CloudWatch, PointsExpected
from datasets.points import StoredPoints, point_file, read_points
from datasets.scan import MAX_COLUMNS, check_names, columns_option
from datasets.sweep_times import FrameTimes, compare_times
from datasets.synthetic.sweeps import sweep_to_key
from models.known_checks import KNOWN_CHECKS
from models.point_columns import XYZ_INTENSITY, record_columns

__all__ = ["create_infos", "main"]

_MAX_SWEEPS = 1000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="create_infos",
        description="Make an info file of a folder of .bin and .pcd files, with boxes of a JSON file or without.",
        epilog="Exit code: 0 written; 2 wrong input, and nothing written.",
    )
    parser.add_argument("--root", required=True, metavar="DIR", help="folder of the scans; the data root")
    parser.add_argument(
        "--labels", metavar="JSON", help="frames and their boxes (docs/data.md); without it, all scans without boxes"
    )
    parser.add_argument(
        "--columns",
        type=columns_option,
        metavar="N|NAMES",
        help="numbers of a point in .bin files, the first four x, y, z, intensity; or names: x,y,z,intensity,ring",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the info file (default: --root)")
    parser.add_argument("--split", default="val", help="name of the split, in the file's name (default %(default)s)")
    parser.add_argument("--prefix", default="centerpoint_infos", help="of the file's name (default %(default)s)")
    parser.add_argument(
        "--max-sweeps",
        type=whole_number(0, _MAX_SWEEPS),
        default=0,
        metavar="N",
        help="earlier frames of the same scene that are joined to each; needs timestamp and ego2global (default 0)",
    )
    add_class_options(parser, "those of the JSON")
    add_point_options(parser)
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the file is written, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level, args.accept)


def create_infos(argv: Sequence[str]) -> None:
    """The command for another command: what it would say on standard error is raised.

    Raises:
        ConfigError: options that contradict each other or the files.
        DataError: files that are missing or broken.
    """
    _run(_parser().parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    root = user_path(args.root)
    if not root.is_dir():
        raise DataError(f"{shown_file(root)} is no folder. Give the folder of the scans with --root.")
    out = user_path(args.out) if args.out else root
    source = user_path(args.labels) if args.labels else root
    listed, frames = read_own_frames(source) if args.labels else ((), find_own_frames(root))
    in_labels = dict.fromkeys(box.label for frame in frames for box in frame.boxes or ())
    classes, names = renaming(args, listed or tuple(in_labels))
    _check_labels(source, frames, classes, names, listed or args.classes)
    columns = _columns(args.columns, frames)
    if args.max_sweeps and (frames[0].timestamp is None or frames[0].ego2global is None):
        raise ConfigError("--max-sweeps needs timestamp and ego2global of every frame in --labels.")
    path = out / f"{args.prefix}_{args.split}.pkl"
    with owned_folder(out, "--out", marks={path.name: INFO_MARK}):
        data_list = _infos(frames, root, source, columns, classes, names)
        if args.max_sweeps:
            _add_sweeps(data_list, args.max_sweeps, args.lidar_height)
        content = {
            "metainfo": {
                **({"classes": list(classes)} if classes else {}),
                "dataset": OWN_FRAMES,
                "version": "1.0",
                "point_folder": "",
                "point_columns": list(columns),
                "has_times": frames[0].timestamp is not None,
                **point_facts(args),
            },
            "data_list": data_list,
        }
        write_info_file(path, content)
    for line in _told(path, frames, data_list, classes):
        print(line)  # noqa: T201 - what it did


def _columns(given: int | tuple[str, ...] | None, frames: Sequence[OwnFrame]) -> tuple[str, ...]:
    """Names of the numbers of a point in `.bin` files; those of PCD files are in the files."""
    records = [frame.file for frame in frames if not frame.file.lower().endswith(".pcd")]
    if given is None:
        if records:
            raise ConfigError(
                f"Scans such as '{printable(records[0])}' hold numbers without names. Give them with --columns, as in "
                "--columns=x,y,z,intensity or --columns=5."
            )
        return XYZ_INTENSITY
    if isinstance(given, int):
        if not len(XYZ_INTENSITY) <= given <= MAX_COLUMNS:
            raise ConfigError(f"--columns is {given}; give {len(XYZ_INTENSITY)} to {MAX_COLUMNS}, or names: x,y,z.")
        return record_columns(given)
    check_names(given)
    return given


def _check_labels(
    source: Path, frames: Sequence[OwnFrame], classes: Sequence[str], names: dict[str, str], is_listed: object
) -> None:
    """Names of objects are classes, or mapped to one, where somebody listed the classes."""
    if not is_listed:
        return
    for index, frame in enumerate(frames):
        for number, box in enumerate(frame.boxes or ()):
            if names.get(box.label, box.label) not in classes:
                must = f"must be one of {', '.join(classes)}, or mapped to one (--map)"
                raise misfit(source, ["frames", index, "boxes", number, "label"], box.label, must)


def _infos(
    frames: Sequence[OwnFrame],
    root: Path,
    source: Path,
    columns: tuple[str, ...],
    classes: Sequence[str],
    names: dict[str, str],
) -> list[dict[str, Any]]:
    place = f"Boxes of {shown_file(source)}"
    watch = CloudWatch(PointsExpected(None, None), XYZ_INTENSITY[:3])
    boxes, in_boxes = BoxWatch(), BoxPoints()
    infos: list[dict[str, Any]] = []
    times = [
        FrameTimes(f"frames[{index}]", frame.name, frame.scene or "", frame.timestamp, ())
        for index, frame in enumerate(frames)
        if frame.timestamp is not None
    ]
    settle(compare_times(times, shown_file(source)))
    for index, frame in enumerate(progress(frames, label="reading scans", unit="scan")):
        path = point_file(root, frame.file, source, ["frames", index, "file"])
        points = read_points(path, 3, watch, stored=StoredPoints(columns))
        values = np.array([box.box for box in frame.boxes or ()], float).reshape(-1, 7)
        counted = count_in_boxes(points, values)
        stated = [box.num_points for box in frame.boxes or ()]
        if None in stated:
            in_boxes.add_near(points, values)
        else:
            in_boxes.add(points, values, [count or 0 for count in stated])
        instances = []
        for number, box in enumerate(frame.boxes or ()):
            points_in = int(counted[number]) if box.num_points is None else box.num_points
            boxes.add(box.label, box.box, points_in)
            instances.append(_instance(box, points_in, classes, names))
        pose = frame.pose
        infos.append(
            {
                "sample_idx": index,
                "token": frame.name,
                "timestamp": 0.0 if frame.timestamp is None else frame.timestamp,
                "scene_name": frame.scene or "",
                "ego2global": (np.eye(4) if pose is None else pose).tolist(),
                "lidar_points": {
                    "num_pts_feats": len(columns),
                    "lidar_path": frame.file,
                    "lidar2ego": np.eye(4).tolist(),
                },
                "lidar_sweeps": [],
                "instances": instances,
            }
        )
    settle([*boxes.findings(place), *in_boxes.findings(place)])
    return infos


def _instance(box: OwnBox, points: int, classes: Sequence[str], names: dict[str, str]) -> dict[str, Any]:
    label = classes.index(names.get(box.label, box.label))
    velocity = [math.nan if value is None else value for value in (box.vx, box.vy)]
    return {
        "bbox_3d": box.box,
        "bbox_label": label,
        "bbox_label_3d": label,
        "velocity": velocity,
        "num_lidar_pts": points,
        "gt_nusc_name": names.get(box.label, box.label),
    }


def _add_sweeps(infos: Sequence[dict[str, Any]], most: int, height_m: float) -> None:
    """Lists with each frame the ones before it in its scene, latest first.

    Args:
        infos: All frames.
        most: Earlier frames of each.
        height_m: What is added to z when points are read.
    """
    down = np.eye(4)
    down[2, 3] = -height_m
    scenes: dict[str, list[dict[str, Any]]] = {}
    for info in infos:
        scenes.setdefault(info["scene_name"], []).append(info)
    for scene in scenes.values():
        scene.sort(key=lambda info: float(info["timestamp"]))
        for number, info in enumerate(scene):
            key = np.asarray(info["ego2global"], float) @ down
            info["lidar_sweeps"] = [
                {
                    "timestamp": earlier["timestamp"],
                    "sample_data_token": earlier["token"],
                    "ego2global": earlier["ego2global"],
                    "lidar_points": {
                        "lidar_path": earlier["lidar_points"]["lidar_path"],
                        "num_pts_feats": earlier["lidar_points"]["num_pts_feats"],
                        "lidar2sensor": sweep_to_key(key, np.asarray(earlier["ego2global"], float) @ down).tolist(),
                    },
                }
                for earlier in scene[max(0, number - most) : number][::-1]
            ]


def _told(
    path: Path, frames: Sequence[OwnFrame], infos: Sequence[dict[str, Any]], classes: Sequence[str]
) -> Iterator[str]:
    labels = Counter(item["bbox_label_3d"] for info in infos for item in info["instances"])
    counts = ", ".join(f"{printable(name, 100)} {labels[label]}" for label, name in enumerate(classes))
    yield f"{path}: {len(infos)} frames, {labels.total()} objects{f' ({counts})' if labels else ''}"
    if frames[0].boxes is None:
        yield "no frame has boxes: the file serves prediction and calibration; leave evaluation out (--no-evaluation)"


if __name__ == "__main__":
    run_main(main)
