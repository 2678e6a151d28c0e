"""Time of the engine's pillar kernels, from points to the canvas, beside their roofline.

    python -m benchmarks.gpu_pillars [--json FILE] [--models NAME …] [--device N]

Encoders of two layers as released and of one layer as MMDetection3D's and KITTI's models have it, weights drawn from
seed 0 (no time depends on them), with clouds of a generated LiDAR: one frame of real size, ten sweeps of nuScenes'
(271,156 points), 2,000,000 points, and as many in one pillar. Each is a captured graph, replayed back to back: a replay
clears the canvas of the one before and is a whole frame. Each result is held against numpy after it was timed.

The roofline is the longer of moving what must be moved once and of the layers' products in float32 on CUDA cores:

    bytes = 4 N C + 2 M K e + 4 M K     N points read, canvas cleared and written, pillar features for inspection
    FLOP  = 2 n F H                     n kept points of F features, one layer; with a second one + 2 n H K + 2 M H K

for M pillars of K channels of e bytes. Lists between the four kernels are not in it. Needs a GPU and cuda-python with
NVRTC; exits with 2 without.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.arguments import DEFAULT_POINTS, whole_number
from base.command import EXIT_PASSED, add_log_level, run_command, run_main
from base.files import user_path, write_json
from base.tables import text_table
from benchmarks.gpu_cloud import lidar_cloud
from benchmarks.gpu_layers import device_of
from eval.codec import to_json
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.checks.cases import engine_spec, random_weights, stock_spec
from runtime.cuda_engine.checks.pillar_checks import PillarBench
from runtime.cuda_engine.checks.timing import replay_time_us
from runtime.cuda_engine.pillar_parameters import PillarSizes
from runtime.preprocess import pack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from quant.roofline import Device
    from runtime.pillar_weights import PillarWeights

__all__ = ["MODELS", "PillarModelCase", "PillarRow", "PillarWork", "main", "measure", "pillar_work"]

# Float32 on the CUDA cores of an H100 SXM or H200 SXM, by their data sheet.
_FP32_FLOPS = 66.9e12
# Most points that are drawn; larger clouds are these again with noise, as sweeps that follow each other are.
_DRAWN = 300_000
_NUSCENES_SWEEPS = 271_156
_GROUPS = (4, 2, 8)


@dataclass(frozen=True)
class PillarModelCase:
    """A model whose pillar kernels are timed.

    Attributes:
        spec: Of the model.
        hidden: Channels of the first of two layers; 0 for one layer.
        scale: Step of the canvas' INT8 codes, or None for float16.
        clouds: Name -> points, in one pillar where the name says so.
    """

    spec: ModelSpec
    hidden: int
    scale: float | None
    clouds: dict[str, int]


def _kitti(points: int) -> ModelSpec:
    return engine_spec(
        432,
        name=f"kitti 0.16 [64] {points}",
        point_cloud_range=(0.0, -39.68, -3.0, 69.12, 39.68, 1.0),
        voxel_size=(0.16, 0.16, 4.0),
        max_points_per_voxel=points,
        max_voxels=40_000,
        point_columns=("x", "y", "z", "intensity"),
        encoder_channels=64,
    )


MODELS: dict[str, PillarModelCase] = {
    "released": PillarModelCase(engine_spec(760), 16, 0.05, {"one frame": 200_000, "large": DEFAULT_POINTS}),
    "pillar02": PillarModelCase(
        stock_spec(),
        0,
        0.05,
        {"ten sweeps": _NUSCENES_SWEEPS, "large": DEFAULT_POINTS, "in one pillar": DEFAULT_POINTS},
    ),
    "pillar02-fp16": PillarModelCase(stock_spec(), 0, None, {"ten sweeps": _NUSCENES_SWEEPS}),
    "kitti-32": PillarModelCase(_kitti(32), 0, 0.05, {"one frame": 120_000}),
    "kitti-100": PillarModelCase(_kitti(100), 0, 0.05, {"one frame": 120_000}),
}


@dataclass(frozen=True)
class PillarWork:
    """What a frame's kernels have to do, however they do it.

    Attributes:
        points: That enter.
        kept: That the encoder sees.
        pillars: On the canvas.
        flop: Of the layers' products; a multiplication with its addition counts as two.
        bytes: Moved once each.
    """

    points: int
    kept: int
    pillars: int
    flop: int
    bytes: int

    def bounds_us(self, device: Device) -> tuple[float, float]:
        """Microseconds that computing and memory traffic take at the least."""
        return self.flop / _FP32_FLOPS * 1e6, self.bytes / device.bandwidth * 1e6


@dataclass(frozen=True)
class PillarRow:
    """One model and cloud.

    Attributes:
        model, cloud: Names.
        work: Of the frame.
        stage_us: All four kernels.
        encode_us: The last of them alone, after itself.
        by_group: Pillars that a warp takes at a time -> the two times; the first is how the engine runs.
        roofline_us: The least time of all four on this GPU; None where its peaks are not known.
        bound: "compute" or "memory", likewise.
    """

    model: str
    cloud: str
    work: PillarWork
    stage_us: float
    encode_us: float
    by_group: dict[str, tuple[float, float]]
    roofline_us: float | None
    bound: str | None


def pillar_work(cloud: NDArray[np.float32], spec: ModelSpec, weights: PillarWeights, element: int) -> PillarWork:
    """The work of a cloud.

    Args:
        cloud: (N, C) float32.
        spec: Of the model.
        weights: Of its encoder.
        element: Bytes of a canvas element.
    """
    packed = pack(cloud, spec)
    kept, pillars = len(packed.points), len(packed)
    first, last = weights.layers[0].weight.shape, weights.layers[-1].weight.shape
    flop = 2 * kept * first[0] * first[1]
    if len(weights.layers) == 2:
        flop += 2 * (kept + pillars) * first[1] * last[1]
    channels = weights.channels
    moved = 4 * cloud.size + 2 * pillars * channels * element + 4 * pillars * channels
    return PillarWork(len(cloud), kept, pillars, int(flop), int(moved))


def measure(
    device: CudaDevice, name: str, case: PillarModelCase, replays: int = 200, groups: Sequence[int] = _GROUPS
) -> list[PillarRow]:
    """Times one model on each of its clouds.

    Raises:
        AssertionError: a result is not numpy's.
        CudaError: of the device.
    """
    spec, most = case.spec, max(case.clouds.values())
    weights = random_weights(spec, case.hidden)
    clouds = {cloud: _cloud(spec, count, "one pillar" in cloud) for cloud, count in case.clouds.items()}
    times: dict[str, dict[str, tuple[float, float]]] = {cloud: {} for cloud in clouds}
    for group in groups:
        bench = PillarBench(device, spec, weights, case.scale, most, PillarSizes(encode_group=group))
        for label, cloud in clouds.items():
            bench.upload(cloud)
            stage = replay_time_us(device, bench.stream, bench.enqueue, replays)
            encode = replay_time_us(device, bench.stream, bench.enqueue_encoding, replays)
            bench.compare(cloud, f"{name}, {label}")
            times[label][str(group)] = (stage, encode)
    peaks = device_of(device.name)
    rows = []
    for label, cloud in clouds.items():
        work = pillar_work(cloud, spec, weights, 2 if case.scale is None else 1)
        roofline = bound = None
        if peaks is not None:
            computing, traffic = work.bounds_us(peaks)
            roofline, bound = max(computing, traffic), "compute" if computing >= traffic else "memory"
        stage, encode = times[label][str(groups[0])]
        rows.append(PillarRow(name, label, work, stage, encode, times[label], roofline, bound))
    return rows


def _cloud(spec: ModelSpec, count: int, in_one_pillar: bool) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    if in_one_pillar:
        corner = np.asarray([*spec.point_cloud_range[:2], -1.0, *[0.0] * (spec.point_features - 3)])
        side = np.asarray([*spec.voxel_size[:2], *[1.0] * (spec.point_features - 2)])
        return (corner + side * rng.uniform(0.1, 0.9, (count, spec.point_features))).astype(np.float32)
    drawn = lidar_cloud(min(count, _DRAWN), spec.point_columns)
    cloud = np.tile(drawn, (-(-count // len(drawn)), 1))[:count]
    cloud[len(drawn) :, :3] += rng.normal(0, 0.1, (count - len(drawn[:count]), 3)).astype(np.float32)
    return np.ascontiguousarray(cloud)


def table(rows: Sequence[PillarRow]) -> str:
    """The rows as text."""
    header = (
        "model",
        "cloud",
        "points",
        "kept",
        "pillars",
        "all us",
        "encode us",
        "GFLOP",
        "MB",
        "roofline us",
        "share",
    )
    cells = []
    for row in rows:
        work = row.work
        best = min(row.by_group, key=lambda group: row.by_group[group][0])
        note = "" if best == next(iter(row.by_group)) else f" ({row.by_group[best][0]:.1f} by groups of {best})"
        bound = "" if row.roofline_us is None else f"{row.roofline_us:.1f} {row.bound}"
        share = "" if row.roofline_us is None else f"{row.roofline_us / row.stage_us:.0%}"
        sizes = [f"{value:,}" for value in (work.points, work.kept, work.pillars)]
        amounts = [f"{work.flop / 1e9:.2f}", f"{work.bytes / 1e6:.1f}"]
        times = [f"{row.stage_us:.1f}{note}", f"{row.encode_us:.1f}"]
        cells.append([row.model, row.cloud, *sizes, *times, *amounts, bound, share])
    return text_table(header, cells, right=range(2, len(header)))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 for wrong input or a machine without a GPU."""
    parser = argparse.ArgumentParser(prog="gpu_pillars", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", metavar="FILE", help="where the results are written")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: all")
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> int:
    rows: list[PillarRow] = []
    gpu = ""
    for name in args.models:
        # A device of its own for each: what a model allocates is freed after it.
        device = CudaDevice.open(args.device)
        gpu = device.name
        rows += measure(device, name, MODELS[name])
        device.close()
    sys.stdout.write(f"{gpu}\n{table(rows)}\n")
    if args.json:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        write_json(user_path(args.json), {"gpu": gpu, "date": date, "rows": to_json(rows)})
    return EXIT_PASSED


if __name__ == "__main__":
    run_main(main)
