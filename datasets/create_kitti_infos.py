"""Info files of KITTI data: `python -m datasets.create_kitti_infos --root DIR --split val [--fov-crop]`.

They are those of mmdet3d's second format, which mmdet3d itself reads as well.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.arguments import whole_number
from base.checks import add_accept, settle
from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import user_path
from base.messages import printable, shown, shown_file
from base.ownership import owned_folder
from base.progress import progress
from base.reading import read_bounded
from datasets.box_plausibility import BoxPoints, BoxWatch
from datasets.box_points import count_in_boxes
from datasets.info_file import INFO_MARK, write_info_file
from datasets.info_options import add_class_options, add_point_options, point_facts, renaming
from datasets.kitti_geometry import camera_to_lidar, in_view
from datasets.kitti_layouts import KittiFrame, find_frames
from datasets.plausibility import CloudWatch, PointsExpected
from datasets.points import read_points
from models.known_checks import KNOWN_CHECKS
from models.point_columns import XYZ_INTENSITY

__all__ = ["KITTI_CLASSES", "main"]

KITTI_CLASSES = ("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc")
"""In the order of mmdet3d's labels. Tracking labels say Person where the object benchmark says Person_sitting."""

_ALIASES = {"Person": "Person_sitting"}
_UNKNOWN = "DontCare"
# What most of KITTI's images measure.
_USUAL_SIZE = (1242, 375)
_MAX_LIST_BYTES = 1 << 24
_SPLITS = ("train", "val", "test")
# Of the object benchmark: height of the 2D box in pixels, occlusion and truncation of easy, moderate and hard objects.
_LEVELS = ((40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5))


@dataclass(frozen=True)
class _Looks:
    """What judges clouds and boxes on the way."""

    watch: CloudWatch
    boxes: BoxWatch
    in_boxes: BoxPoints


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="create_kitti_infos",
        description="Make an info file of KITTI data: the object or tracking benchmark, a sequence, or raw drives.",
        epilog="Exit code: 0 written; 2 wrong input, and nothing written.",
    )
    parser.add_argument("--root", required=True, metavar="DIR", help="folder of the data; the data root")
    parser.add_argument("--out", metavar="DIR", help="folder of the info file (default: --root)")
    parser.add_argument("--split", default="val", help="name of the split, in the file's name (default %(default)s)")
    parser.add_argument(
        "--list", metavar="FILE", help="names of the frames, one a line, as ImageSets/val.txt; default: all frames"
    )
    parser.add_argument(
        "--fov-crop", action="store_true", help="leave out points that the camera does not see; only those are labelled"
    )
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=whole_number(1, 100_000),
        metavar=("W", "H"),
        help=f"where neither images nor calibration say it (default {_USUAL_SIZE[0]} {_USUAL_SIZE[1]})",
    )
    add_class_options(parser, "KITTI's eight")
    add_point_options(parser)
    parser.add_argument("--prefix", default="kitti_infos", help="of the file's name (default %(default)s)")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the file is written, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level, args.accept)


def _run(args: argparse.Namespace) -> None:
    root = user_path(args.root)
    out = user_path(args.out) if args.out else root
    if not root.is_dir():
        raise DataError(f"{shown_file(root)} is no folder. Give the folder of the data with --root.")
    classes, names = renaming(args, KITTI_CLASSES, _ALIASES)
    path = out / f"{args.prefix}_{args.split}.pkl"
    with owned_folder(out, "--out", marks={path.name: INFO_MARK}):
        base, frames = find_frames(root)
        frames = _listed(frames, user_path(args.list)) if args.list else frames
        looks = _Looks(CloudWatch(PointsExpected(1.0, None), XYZ_INTENSITY), BoxWatch(), BoxPoints())
        infos: list[dict[str, Any]] = []
        for frame in progress(frames, label="reading KITTI frames", unit="frame"):
            infos.append(_info(frame, len(infos), base, args, classes, names, looks))
        place = f"KITTI data in {shown_file(root)}"
        settle([*looks.boxes.findings(place), *looks.in_boxes.findings(place)])
        unlabelled = sum(frame.objects is None for frame in frames)
        content = {
            "metainfo": {
                "categories": {**{name: label for label, name in enumerate(classes)}, _UNKNOWN: -1},
                "dataset": "kitti",
                "info_version": "1.1",
                "point_folder": base.relative_to(root).as_posix() if base != root else "",
                "point_columns": list(XYZ_INTENSITY),
                "fov_crop": args.fov_crop,
                **point_facts(args),
            },
            "data_list": infos,
        }
        write_info_file(path, content)
    for line in _told(path, frames, infos, classes, unlabelled):
        print(line)  # noqa: T201 - what it did


def _told(
    path: Path, frames: Sequence[KittiFrame], infos: Sequence[dict[str, Any]], classes: Sequence[str], unlabelled: int
) -> Iterator[str]:
    labels = Counter(item["bbox_label_3d"] for info in infos for item in info["instances"])
    counts = ", ".join(f"{name} {labels[label]}" for label, name in enumerate(classes) if labels[label])
    yield f"{path}: {len(infos)} frames, {labels.total() - labels[-1]} objects{f' ({counts})' if counts else ''}"
    kinds = Counter(item["kitti_type"] for info in infos for item in info["instances"] if item["bbox_label_3d"] < 0)
    if kinds:
        yield "of no class: " + ", ".join(f"{printable(name, 100)} {count}" for name, count in kinds.most_common(20))
    if unlabelled == len(frames):
        yield "no frame has labels: the file serves prediction and calibration; leave evaluation out (--no-evaluation)"
    elif unlabelled:
        yield f"{unlabelled} frames have no labels: what is detected in them counts as wrong. List the others (--list)"


def _listed(frames: Sequence[KittiFrame], path: Path) -> list[KittiFrame]:
    """The frames that a file names, in its order."""
    text = read_bounded(path, _MAX_LIST_BYTES, "List of frames").decode("utf-8", errors="replace")
    known = {frame.token: frame for frame in frames}
    found: dict[str, KittiFrame] = {}
    for number, name in enumerate(text.split(), start=1):
        if name not in known:
            some = ", ".join(list(known)[:3])
            raise DataError(
                f"{shown_file(path)}: {shown(name)} (name {number}) is no frame of the data, whose {len(known)} frames "
                f"are called {some}, …"
            )
        if name in found:
            raise DataError(f"{shown_file(path)}: {shown(name)} (name {number}) is listed twice.")
        found[name] = known[name]
    if not found:
        raise DataError(f"{shown_file(path)} lists no frame.")
    return list(found.values())


def _info(
    frame: KittiFrame,
    index: int,
    base: Path,
    args: argparse.Namespace,
    classes: Sequence[str],
    names: dict[str, str],
    looks: _Looks,
) -> dict[str, Any]:
    calibration = frame.calibration
    points = read_points(frame.points, len(XYZ_INTENSITY), looks.watch)
    width, height = frame.image_size or tuple(args.image_size or _USUAL_SIZE)
    lidar2img = calibration.cam2img @ calibration.lidar2cam
    if args.fov_crop:
        points = points[in_view(points, lidar2img, width, height)]
    rows = frame.objects or ()
    camera = np.array([[*row.bottom, *row.size, row.rotation_y] for row in rows], float).reshape(-1, 7)
    moved = camera_to_lidar(camera, calibration.lidar2cam)
    counted = count_in_boxes(points, moved)
    looks.in_boxes.add_near(points, moved[[row.kind != _UNKNOWN for row in rows]])
    instances = []
    for place, row in enumerate(rows):
        name = names.get(row.kind, row.kind)
        is_region = row.kind == _UNKNOWN
        label = classes.index(name) if name in classes else -1
        number = -1 if is_region else int(counted[place])
        if not is_region:
            looks.boxes.add(row.kind, moved[place].tolist(), number)
        instances.append(
            {
                "bbox": list(row.bbox),
                "bbox_label": label,
                "bbox_3d": camera[place].tolist(),
                "bbox_label_3d": label,
                "truncated": row.truncated,
                "occluded": row.occluded,
                "alpha": row.alpha,
                "score": row.score,
                "index": -1 if is_region else place,
                "group_id": place,
                "difficulty": _difficulty(row.bbox[3] - row.bbox[1], row.occluded, row.truncated),
                "num_lidar_pts": number,
                "kitti_type": row.kind,
            }
        )
    info: dict[str, Any] = {
        "sample_idx": int(frame.points.stem) if frame.points.stem.isdecimal() and not frame.scene else index,
        "token": frame.token,
        "images": {
            "CAM2": {
                "img_path": f"{frame.points.stem}.png",
                "height": height,
                "width": width,
                "cam2img": calibration.cam2img.tolist(),
                "lidar2cam": calibration.lidar2cam.tolist(),
                "lidar2img": lidar2img.tolist(),
            }
        },
        "lidar_points": {
            "num_pts_feats": len(XYZ_INTENSITY),
            "lidar_path": frame.points.relative_to(base).as_posix(),
        },
        "instances": instances,
    }
    if frame.scene:
        info["scene_name"] = frame.scene
    if frame.timestamp is not None:
        info["timestamp"] = frame.timestamp
    return info


def _difficulty(height_px: float, occluded: int, truncated: float) -> int:
    """0 easy, 1 moderate, 2 hard, -1 what the benchmark leaves out."""
    for level, (least_px, most_occluded, most_truncated) in enumerate(_LEVELS):
        if height_px > least_px and occluded <= most_occluded and truncated <= most_truncated:
            return level
    return -1


if __name__ == "__main__":
    run_main(main)
