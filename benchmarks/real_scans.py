"""Generated scans held against real ones: points, pillars, tiles, heights, intensities and objects, side by side.

    python -m datasets.synthetic --out data/like_kitti --train-scenes 0 --val-scenes 12 --frames-per-scene 2 \
        --key-every 8 --sweeps 0 --sensor kitti
    python -m benchmarks.real_scans --real data/kitti_drive --generated data/like_kitti --view 42

A real set is a folder of `benchmarks.real_drive` (`labels.json` or `.npz` files), or a `.bin` file of five float32 a
point; a generated one a T4 dataset, of which the key frames of the split val are taken.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from base.arguments import number, whole_number
from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import atomic_path, user_path, write_json
from base.lazy import require
from base.messages import shown_file
from base.ownership import owned_folder
from base.tables import markdown_table
from benchmarks.real_drive_data import CLASS_OF_TYPE, read_labels, read_scan_npz
from benchmarks.scan_facts import ELEVATION_EDGES_DEG, RANGE_EDGES_M, Scan, layers_of, scan_facts

__all__ = ["main"]

_RANGES = [f"{low}–{high} m" for low, high in pairwise(RANGE_EDGES_M)]
_PERCENTILES = ("5 %", "25 %", "50 %", "75 %", "95 %")
_HEIGHTS = ("below −0.3 m", "−0.3 to 0.3", "0.3 to 1", "1 to 2", "2 to 3", "above 3")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="real_scans", description=__doc__.split("\n\n")[0])
    parser.add_argument("--real", type=Path, required=True, metavar="DIR|BIN")
    parser.add_argument("--generated", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--config", default="configs/model/centerpoint_t4_demo.py", metavar="PY", help="for pillars and tiles"
    )
    parser.add_argument(
        "--view", type=number(1.0, 180.0), default=180.0, metavar="DEG", help="within ± this of ahead (%(default)s)"
    )
    height = number(0.0, 10.0)
    parser.add_argument("--real-height", type=height, default=1.73, metavar="M", help="of the real LiDAR (%(default)s)")
    parser.add_argument("--generated-height", type=height, metavar="M", help="of the generated one (default: the same)")
    parser.add_argument(
        "--turned", action="store_true", help="a real .bin has y ahead and x to the right, as nuScenes' LiDAR"
    )
    parser.add_argument(
        "--frames", type=whole_number(1, 100_000), default=60, metavar="N", help="of each at most (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("work_dirs/real_scans"), metavar="DIR")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    from models.config import load_model_config

    cfg = load_model_config(user_path(args.config))
    layers = layers_of(cfg.model.pts_backbone, cfg.model.pts_neck)
    generated_height = args.real_height if args.generated_height is None else args.generated_height
    sets = {
        "real": real_scans(user_path(args.real), args.real_height, args.frames, args.turned),
        "generated": generated_scans(user_path(args.generated), generated_height, args.frames),
    }
    facts = {
        name: scan_facts(scans, args.view, cfg.point_cloud_range, float(cfg.voxel_size[0]), layers)
        for name, scans in sets.items()
    }
    out = user_path(args.out)
    with owned_folder(out, "--out"):
        write_json(out / "scans.json", _without_nan(facts))
        text = table(facts["real"], facts["generated"])
        with atomic_path(out / "scans.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        draw(out / "scans.png", facts)
    print(text)  # noqa: T201


def _spread(count: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist()))


def real_scans(source: Path, height_m: float, most: int, turned: bool = False) -> Iterator[Scan]:
    """Scans of a folder or a file, z = 0 on the ground, intensities 0..255.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    nothing: tuple[Any, ...] = (np.zeros((0, 7)), (), np.zeros(0, np.int64))
    if source.is_file():
        from datasets.points import read_points

        points = read_points(source)[:, :4].copy()
        if turned:
            points[:, :2] = np.column_stack([points[:, 1], -points[:, 0]])
        # The vehicle itself is no part of the world.
        points = points[np.hypot(points[:, 0], points[:, 1]) > 2.5]
        points[:, 2] += height_m
        yield Scan(points, height_m, *nothing)
        return
    labels = read_labels(source / "labels.json") if (source / "labels.json").is_file() else None
    files = [frame.lidar for frame in labels] if labels else sorted(path.name for path in source.glob("*.npz"))
    if not files:
        raise DataError(f"{shown_file(source)} has neither labels.json nor .npz files.")
    for index in _spread(len(files), most):
        points = read_scan_npz(source / files[index])
        points[:, 2] += height_m
        points[:, 3] *= 255.0
        if labels is None:
            yield Scan(points, height_m, *nothing)
            continue
        known = [item for item in labels[index].objects if item.type in CLASS_OF_TYPE]
        boxes = np.array([item.box for item in known], float).reshape(-1, 7)
        boxes[:, 2] += height_m
        names = tuple(CLASS_OF_TYPE[item.type] for item in known)
        yield Scan(points, height_m, boxes, names, np.array([item.points for item in known], np.int64))


def generated_scans(root: Path, height_m: float, most: int) -> Iterator[Scan]:
    """Key frames of a T4 dataset's split val, without earlier sweeps."""
    from datasets.infos import parse_sample, read_info_file
    from datasets.points import inside, read_points

    info = read_info_file(root / "centerpoint_infos_val.pkl")
    if not info.samples:
        raise DataError(f"{shown_file(info.path)} holds no sample.")
    for index in _spread(len(info.samples), most):
        sample = parse_sample(info.samples[index], info.path, index, len(info.classes()))
        points = read_points(inside(root, sample.lidar_points.lidar_path, info.path, ["data_list", index]))
        known = [item for item in sample.instances if item.bbox_label_3d >= 0]
        boxes = np.array([item.bbox_3d for item in known], float).reshape(-1, 7)
        names = tuple(info.classes()[item.bbox_label_3d] for item in known)
        yield Scan(points, height_m, boxes, names, np.array([item.num_lidar_pts for item in known], np.int64))


def table(real: dict[str, Any], generated: dict[str, Any]) -> str:
    """Both sets side by side, and generated by real."""
    rows: list[tuple[str, float, float]] = [("points a scan", real["points"], generated["points"])]
    for key, title in (("points_by_range", "points"), ("pillars_by_range", "occupied pillars")):
        rows += [(f"{title}, {name}", *pair) for name, *pair in zip(_RANGES, real[key], generated[key], strict=True)]
    rows += [(f"active tiles, {name}", real["tiles"][name], generated["tiles"][name]) for name in real["tiles"]]
    for key, title, names in (
        ("intensity", "intensity", _PERCENTILES),
        ("elevation_deg", "elevation of beams, °,", _PERCENTILES),
        ("height_shares", "share of points", _HEIGHTS),
        ("roughness_m", "roughness of the ground, m,", _RANGES),
    ):
        rows += [(f"{title} {name}", *pair) for name, *pair in zip(names, real[key], generated[key], strict=True)]
    for name in (key for key in real["objects"] if key in generated["objects"]):
        for where, one, two in zip(_RANGES, real["objects"][name], generated["objects"][name], strict=True):
            if one["median"] is not None and two["median"] is not None:
                rows.append((f"points of a {name}, {where}, median", one["median"], two["median"]))
                rows.append((f"{name}s mostly hidden, {where}", one["mostly_hidden"], two["mostly_hidden"]))
    body = [[name, _number(a), _number(b), "–" if not a or a != a or b != b else f"{b / a:.2f}"] for name, a, b in rows]
    head = ["", f"real ({real['scans']} scans)", f"generated ({generated['scans']})", "ratio"]
    return "\n".join(markdown_table(head, body)) + "\n"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def draw(path: Path, facts: dict[str, dict[str, Any]]) -> None:
    """Six panels: range, pillars, tiles, heights, elevation, points of objects."""
    matplotlib = require("matplotlib", "to draw scans")
    matplotlib.use("Agg")
    plt = require("matplotlib.pyplot", "to draw scans")
    figure, axes = plt.subplots(2, 3, figsize=(16, 8.5), constrained_layout=True)
    places = np.arange(len(_RANGES))
    kinds = list(dict.fromkeys(kind for fact in facts.values() for kind in fact["objects"]))
    for offset, (name, fact) in zip((-0.2, 0.2), facts.items(), strict=True):
        axes[0, 0].bar(places + offset, fact["points_by_range"], 0.38, label=name)
        axes[0, 1].bar(places + offset, fact["pillars_by_range"], 0.38, label=name)
        axes[0, 2].plot(list(fact["tiles"].values()), "o-", label=name)
        axes[1, 0].bar(np.arange(len(_HEIGHTS)) + offset, fact["height_shares"], 0.38, label=name)
        axes[1, 1].stairs(fact["elevation_histogram"], ELEVATION_EDGES_DEG, label=name)
        marker = "o" if name == "real" else "x"
        for kind, rows in fact["objects"].items():
            medians = [row["median"] if row["median"] is not None else np.nan for row in rows]
            axes[1, 2].plot(
                places,
                medians,
                marker,
                color=f"C{kinds.index(kind)}",
                ls="-" if name == "real" else ":",
                label=f"{kind}, {name}",
            )
    for axis, title in ((axes[0, 0], "points a scan"), (axes[0, 1], "occupied pillars")):
        axis.set(title=title)
        axis.set_xticks(places, _RANGES)
    axes[0, 2].set(title="share of 8 × 16 tiles that pillars reach", ylim=(0, 1))
    axes[0, 2].set_xticks(range(len(facts["real"]["tiles"])), list(facts["real"]["tiles"]), rotation=75, fontsize=7)
    axes[1, 0].set(title="share of points by height, m")
    axes[1, 0].set_xticks(range(len(_HEIGHTS)), _HEIGHTS, fontsize=7)
    axes[1, 1].set(title="points a scan by elevation, °")
    axes[1, 2].set(title="points of an object, median", yscale="log")
    axes[1, 2].set_xticks(places, _RANGES)
    for axis in axes.flat:
        axis.legend(fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")
    plt.close(figure)


if __name__ == "__main__":
    run_main(main)
