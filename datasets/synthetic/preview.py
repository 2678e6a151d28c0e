"""Pictures and statistics of a T4 dataset: `python -m datasets.synthetic.preview --data DIR --out DIR`.

Also draws any float32 point file (`--scan FILE --features N`), to hold a real scan beside generated ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import atomic_path, user_path, write_json
from base.lazy import require
from base.messages import shown_file
from base.ownership import owned_folder
from datasets.infos import parse_sample, read_info_file
from datasets.points import inside, read_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {
    "car": "#4cc9f0",
    "truck": "#ff9f1c",
    "bus": "#f72585",
    "bicycle": "#80ed99",
    "pedestrian": "#ffe66d",
}
_MAX_RINGS = 4096
# What a folder of earlier previews is known by (`base.keeping.require_ours`).
_MARKS: dict[str, bytes | str] = {"statistics.json": b'"points_per_frame"', "statistics.png": "statistics.json"}
RANGE_EDGES_M = (0, 10, 20, 30, 40, 50, 60, 80, 100, 120)

Points = NDArray[np.float32]


def corners_bev(box: Sequence[float]) -> NDArray[np.float64]:
    """(4, 2) corners of a box `[x, y, z, l, w, h, yaw, …]` seen from above, counter-clockwise from front left."""
    length, width, c, s = box[3] / 2, box[4] / 2, np.cos(box[6]), np.sin(box[6])
    local = np.array([[length, width], [-length, width], [-length, -width], [length, -width]])
    return np.asarray(local @ np.array([[c, s], [-s, c]]) + np.asarray(box[:2]))


def draw_bev(axes: Axes, points: Points, instances: list[dict[str, Any]], half_m: float, color: str) -> None:
    """Points coloured by height or intensity; boxes by class, dotted where no point fell into them."""
    values = points[:, 2] if color == "height" else np.sqrt(points[:, 3])
    limits = (-2.0, 4.0) if color == "height" else (0.0, 10.0)
    if color == "height" and len(points):
        ground = float(np.median(points[:, 2]))
        limits = (ground - 0.6, ground + 3.5)
    size = 0.35 if half_m > 40 else 1.2
    axes.scatter(points[:, 0], points[:, 1], c=values, s=size, cmap="viridis", vmin=limits[0], vmax=limits[1], lw=0)
    for instance in instances:
        box = instance["bbox_3d"]
        outline = corners_bev(box)
        shade = "#888888" if instance["bbox_label_3d"] < 0 else COLORS.get(instance["gt_nusc_name"], "white")
        style = "-" if instance["num_lidar_pts"] > 0 else ":"
        axes.plot(*np.vstack([outline, outline[:1]]).T, style, color=shade, lw=0.9)
        nose = (outline[0] + outline[3]) / 2
        axes.plot([box[0], nose[0]], [box[1], nose[1]], style, color=shade, lw=0.9)
    axes.set(xlim=(-half_m, half_m), ylim=(-half_m, half_m), aspect="equal", facecolor="black")
    axes.tick_params(labelsize=6)


def statistics(clouds: Sequence[Points], instances: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Points per beam, per range and per object; histogram of intensity; means over the frames."""
    frames = max(len(clouds), 1)
    rings = int(max((c[:, 4].max() for c in clouds if len(c)), default=0)) + 1
    per_ring = sum(np.bincount(c[:, 4].astype(np.int64), minlength=rings) for c in clouds)
    ranges = np.concatenate([np.hypot(c[:, 0], c[:, 1]) for c in clouds])
    intensity = np.concatenate([c[:, 3] for c in clouds])
    out: dict[str, Any] = {
        "frames": len(clouds),
        "points_per_frame": len(ranges) / frames,
        "points_per_beam": (np.asarray(per_ring) / frames).round(1).tolist(),
        "range_edges_m": list(RANGE_EDGES_M),
        "share_of_points_by_range": (np.histogram(ranges, RANGE_EDGES_M)[0] / max(len(ranges), 1)).round(4).tolist(),
        "intensity_percentiles_5_25_50_75_95_99": np.percentile(intensity, [5, 25, 50, 75, 95, 99]).tolist(),
        "objects": {},
    }
    flat = [i for frame in instances for i in frame if i["bbox_label_3d"] >= 0]
    for name in COLORS:
        mine = [i for i in flat if i["gt_nusc_name"] == name]
        distance = np.array([np.hypot(*i["bbox_3d"][:2]) for i in mine])
        count = np.array([i["num_lidar_pts"] for i in mine])
        rows = []
        for low, high in pairwise(RANGE_EDGES_M):
            here = count[(distance >= low) & (distance < high)] if len(mine) else np.zeros(0)
            seen = here[here > 0]
            rows.append(
                {
                    "per_frame": round(len(here) / frames, 2),
                    "seen_share": round(float((here > 0).mean()), 3) if len(here) else None,
                    "under_5_points_share_of_seen": round(float((seen < 5).mean()), 3) if len(seen) else None,
                    "median_points_of_seen": float(np.median(seen)) if len(seen) else None,
                }
            )
        out["objects"][name] = rows
    return out


def _draw_statistics(
    path: Path, summary: dict[str, Any], clouds: Sequence[Points], instances: Any, real: Points | None
) -> None:
    plt = require("matplotlib.pyplot", "to draw previews")
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), constrained_layout=True)
    beams = np.array(summary["points_per_beam"])
    axes[0, 0].bar(np.arange(len(beams)) / len(beams), beams / beams.max(), width=1 / len(beams), label="generated")
    axes[0, 0].set(title="returns per beam, share of the fullest", xlabel="beam, lowest to highest")
    edges = np.arange(0, 122, 2.0)
    clouds_xy = np.concatenate([np.hypot(c[:, 0], c[:, 1]) for c in clouds])
    axes[0, 1].hist(clouds_xy, edges, density=True, histtype="step", label="generated")
    bins = np.concatenate([np.arange(0, 64, 2), np.arange(64, 257, 16)])
    axes[1, 0].hist(np.concatenate([c[:, 3] for c in clouds]), bins, density=True, histtype="step", label="generated")
    if real is not None:
        kept = real[np.hypot(real[:, 0], real[:, 1]) > 2.5]
        axes[0, 1].hist(np.hypot(kept[:, 0], kept[:, 1]), edges, density=True, histtype="step", label="scan")
        axes[1, 0].hist(kept[:, 3], bins, density=True, histtype="step", label="scan")
        if real.shape[1] > 4:
            counts = np.bincount(kept[:, 4].astype(int))
            axes[0, 0].step(
                np.arange(len(counts)) / len(counts), counts / counts.max(), where="post", color="C1", label="scan"
            )
    axes[0, 1].set(title="points by distance", xlabel="m")
    axes[1, 0].set(title="intensity")
    for name, shade in COLORS.items():
        mine = [
            i
            for f in instances
            for i in f
            if i["gt_nusc_name"] == name and i["bbox_label_3d"] >= 0 and i["num_lidar_pts"]
        ]
        axes[1, 1].scatter(
            [np.hypot(*i["bbox_3d"][:2]) for i in mine],
            [i["num_lidar_pts"] for i in mine],
            s=2,
            color=shade,
            label=name,
        )
    axes[1, 1].set(title="points per object", xlabel="m", xlim=(0, 120), facecolor="#222222")
    for axis in axes.flat:
        axis.legend(fontsize=7)
    for axis in axes.flat[1:]:
        if axis.dataLim.y1 > 0:  # a scale of logarithms needs something to show: no object, no point in range
            axis.set_yscale("log")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    plt.close(figure)


def _draw_pair(
    path: Path, points: Points, instances: list[dict[str, Any]], title: str, halves: tuple[float, float]
) -> None:
    plt = require("matplotlib.pyplot", "to draw previews")
    figure, axes = plt.subplots(1, 2, figsize=(20, 10), constrained_layout=True)
    for axis, half in zip(axes, halves, strict=True):
        draw_bev(axis, points, instances, half, "height" if half > 30 else "intensity")
        axis.set_title(f"{title}, ±{half:g} m, {'height' if half > 30 else 'intensity'}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    plt.close(figure)


def _check_rings(clouds: Sequence[Points]) -> None:
    """Raises: DataError: a fifth column does not count beams."""
    for cloud in clouds:
        if cloud.shape[1] > 4 and len(cloud) and not 0 <= cloud[:, 4].min() <= cloud[:, 4].max() < _MAX_RINGS:
            raise DataError(
                f"The fifth number of a point is its beam, 0 to {_MAX_RINGS - 1}; a cloud has {cloud[:, 4].min():g} to "
                f"{cloud[:, 4].max():g}. Check --features, and how the point files were written."
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Write `bev_<n>.png`, `statistics.png` and `statistics.json`; with `--scan`, `scan.png` too."""
    parser = argparse.ArgumentParser(prog="python -m datasets.synthetic.preview", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="T4 dataset folder")
    parser.add_argument("--split", default="val", choices=("train", "val"))
    parser.add_argument("--out", required=True, help="folder for pictures")
    some = whole_number(1, 10_000)
    parser.add_argument("--pictures", type=some, default=4, help="frames to draw, spread evenly (default %(default)s)")
    parser.add_argument("--frames", type=some, default=40, help="frames for statistics (default %(default)s)")
    parser.add_argument("--scan", help="a real scan (float32 records) to draw beside them")
    parser.add_argument(
        "--features", type=whole_number(4, 64), default=5, help="floats a point in --scan (default %(default)s)"
    )
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    with owned_folder(user_path(args.out), "--out", marks=_MARKS):
        _preview(args)


def _preview(args: argparse.Namespace) -> None:
    matplotlib = require("matplotlib", "to draw previews")
    matplotlib.use("Agg")
    root, out = user_path(args.data), user_path(args.out)
    info = read_info_file(root / f"centerpoint_infos_{args.split}.pkl")
    if not info.samples:
        raise DataError(f"{shown_file(root)} has no {args.split} sample to draw.")
    chosen = np.unique(np.linspace(0, len(info.samples) - 1, min(args.frames, len(info.samples))).astype(int)).tolist()
    samples = [parse_sample(info.samples[i], info.path, i, len(info.classes())) for i in chosen]
    clouds = [
        read_points(inside(root, sample.lidar_points.lidar_path, info.path, ["data_list", i]))
        for i, sample in zip(chosen, samples, strict=True)
    ]
    instances = [[item.model_dump() for item in sample.instances] for sample in samples]
    real = read_points(user_path(args.scan), args.features) if args.scan else None
    if not sum(map(len, clouds)):
        raise DataError(f"The frames chosen of {shown_file(info.path)} hold no point to draw.")
    _check_rings(clouds if real is None else [*clouds, real])
    for n in np.unique(np.linspace(0, len(chosen) - 1, min(args.pictures, len(chosen))).astype(int)):
        title = f"{samples[n].scene_name} sample {samples[n].sample_idx}"
        _draw_pair(out / f"bev_{n:03d}.png", clouds[n], instances[n], title, (55.0, 22.0))
    if real is not None:
        _draw_pair(out / "scan.png", real, [], Path(args.scan).name, (55.0, 22.0))
    summary = statistics(clouds, instances)
    write_json(out / "statistics.json", summary)
    _draw_statistics(out / "statistics.png", summary, clouds, instances, real)
    print(f"{out}: {summary['points_per_frame']:.0f} points a frame over {summary['frames']} frames")  # noqa: T201


if __name__ == "__main__":
    run_main(main)
