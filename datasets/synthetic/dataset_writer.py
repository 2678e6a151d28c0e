"""Renders scenes into a T4 dataset: point files, sweeps and info files."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.children import in_processes
from base.errors import ConfigError, DataError
from base.files import atomic_dir
from base.messages import shown
from base.progress import progress
from datasets.synthetic.lidar import measure, trace
from datasets.synthetic.raycast import count_points_in_boxes
from datasets.synthetic.riders import DEFAULT_RIDERS, RIDERS
from datasets.synthetic.scene import CLASSES, Scene, make_scene
from datasets.synthetic.sensors import DEFAULT_SENSOR, SENSORS, sensor_rig
from datasets.synthetic.sweeps import sweep_to_key
from datasets.synthetic.tables import write_splits, write_tables

SPLITS = ("train", "val")
PICKLE_PROTOCOL = 4
LABEL_RANGE_M = 121.0
_EPOCH_S = 1_700_000_000.0
_MAX_SCENES = 100_000
_MAX_REVOLUTIONS = 36_000
_MAX_WORKERS = 1024
_LIMITS = {
    "frames_per_scene": (1, _MAX_REVOLUTIONS),
    "seed": (0, 2**63 - 1),
    "key_every": (1, _MAX_REVOLUTIONS),
    "sweeps": (0, 1000),
}


@dataclass(frozen=True)
class DatasetConfig:
    """What to generate.

    Attributes:
        scenes: number of scenes of each split; 0 leaves its info file out.
        frames_per_scene: key frames of a scene.
        seed: everything follows from it; scene i of a split is the same however many there are.
        beams: 64 or 128; of the sensor "spinning".
        key_every: a key frame every so many revolutions of 0.1 s; the others serve as sweeps.
        sweeps: earlier revolutions listed with each key frame; the first key frame has them too.
        tables: also write each scene as a raw T4 dataset, under `t4/`.
        sensor: name of `datasets.synthetic.sensors`.
        riders: name of `datasets.synthetic.riders`.
    """

    scenes: dict[str, int]
    frames_per_scene: int
    seed: int = 0
    beams: int = 64
    key_every: int = 1
    sweeps: int = 1
    tables: bool = False
    sensor: str = DEFAULT_SENSOR
    riders: str = DEFAULT_RIDERS

    def __post_init__(self) -> None:
        """Raises: ConfigError: a value out of range."""
        for split, count in self.scenes.items():
            if split not in SPLITS or not 0 <= count <= _MAX_SCENES:
                raise ConfigError(
                    f"scenes must count {' and '.join(SPLITS)} from 0 to {_MAX_SCENES}, got {split}: {shown(count)}"
                )
        if not any(self.scenes.values()):
            options = " and ".join(f"--{split}-scenes" for split in self.scenes)
            raise ConfigError(f"nothing to generate: {options} {'is' if len(self.scenes) == 1 else 'are both'} 0")
        for name, (low, high) in _LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be {low} to {high}, got {shown(getattr(self, name))}")
        revolutions = (self.frames_per_scene - 1) * self.key_every + self.sweeps + 1
        if revolutions > _MAX_REVOLUTIONS:
            raise ConfigError(
                f"a scene of {self.frames_per_scene} key frames, one every {self.key_every} revolutions, has "
                f"{revolutions} revolutions; {_MAX_REVOLUTIONS} (an hour) is the most. Generate more scenes of fewer "
                "frames."
            )
        if self.beams not in (64, 128):
            raise ConfigError(f"beams must be 64 or 128, got {self.beams}")
        if self.sensor not in SENSORS:
            raise ConfigError(f"unknown sensor {shown(self.sensor)}; there are {', '.join(SENSORS)}")
        if self.riders not in RIDERS:
            raise ConfigError(f"unknown riders {shown(self.riders)}; there are {', '.join(RIDERS)}")


def _token(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


def _instances(scene: Scene, time_s: float, points: NDArray[np.float32]) -> tuple[list[dict[str, Any]], list[int]]:
    """The annotated objects, and which actor each of them is."""
    boxes = np.round(scene.boxes(time_s), 4)
    counts = count_points_in_boxes(points, boxes[:, :7])
    instances, actors = [], []
    for index, (actor, box, count) in enumerate(zip(scene.actors, boxes, counts, strict=True)):
        if np.abs(box[:2]).max() > LABEL_RANGE_M:
            continue
        label = CLASSES.index(actor.class_name)
        actors.append(index)
        instances.append(
            {
                "bbox_3d": box[:7].tolist(),
                "bbox_label": label,
                "bbox_label_3d": -1 if actor.ignored else label,
                "velocity": box[7:9].tolist(),
                "num_lidar_pts": int(count),
                "num_radar_pts": 0,
                "bbox_3d_isvalid": bool(count > 0),
                "gt_nusc_name": actor.class_name,
                "gt_attrs": list(actor.attributes),
            }
        )
    return instances, actors


def render_scene(config: DatasetConfig, split: str, index: int, root: Path) -> list[dict[str, Any]]:
    """Write a scene's point files under `root/lidar` and return the infos of its key frames."""
    name = f"{split}_{index:04d}"
    rig = sensor_rig(config.sensor, config.beams)
    period_s = rig.units[0].period_s
    seeds = np.random.SeedSequence(config.seed, spawn_key=(SPLITS.index(split), index))
    world_seed, noise_seed = seeds.spawn(2)
    last = (config.frames_per_scene - 1) * config.key_every
    lead_in = config.sweeps
    scene = make_scene(world_seed, last * period_s, lead_in * period_s, config.riders, rig.surroundings)
    epoch = _EPOCH_S + 1000.0 * index + (0.0 if split == "train" else 5.0e7)
    # Only the revolutions that something refers to are rendered.
    keys = set(range(0, last + 1, config.key_every))
    needed = sorted({k - back for k in keys for back in range(config.sweeps + 1)})
    clouds: dict[int, dict[str, Any]] = {}
    infos: list[dict[str, Any]] = []
    tracks: list[list[int]] = []
    for tick in needed:
        time_s = tick * period_s
        # Ticks of the lead-in are negative; a noise stream per tick keeps frames independent of each other.
        stream = np.random.SeedSequence(noise_seed.entropy, spawn_key=(*noise_seed.spawn_key, tick + lead_in))
        key, rng = int(stream.generate_state(1, np.uint64)[0]), np.random.default_rng(stream)
        # Each unit's beams pass leaves and windows by chances of their own.
        parts = [
            measure(unit, scene, trace(unit, scene, time_s, key + i, rig.carrier), rng)
            for i, unit in enumerate(rig.units)
        ]
        points = parts[0] if len(parts) == 1 else np.concatenate(parts)
        path = f"lidar/{name}_{tick + lead_in:05d}.bin"
        (root / path).write_bytes(points.tobytes())  # numpy's own `tofile` does not say why it fails
        pose = scene.ego_pose(time_s)
        if rig.flat_poses:
            pose[2, 3] = 0.0
        token = _token(config.seed, name, "cloud", tick)
        clouds[tick] = {"timestamp": round(epoch + time_s, 6), "path": path, "pose": pose, "token": token}
        if tick not in keys:
            continue
        sweeps = []
        for back in range(1, config.sweeps + 1):
            cloud = clouds[tick - back]
            sweeps.append(
                {
                    "timestamp": cloud["timestamp"],
                    # A string of its own: pickle would write a shared one as a reference, and the file would differ.
                    "sample_data_token": _token(config.seed, name, "cloud", tick - back),
                    "ego2global": cloud["pose"].tolist(),
                    "lidar_points": {
                        "lidar_path": cloud["path"],
                        "lidar2ego": np.eye(4).tolist(),
                        "num_pts_feats": 5,
                        "lidar2sensor": sweep_to_key(pose, cloud["pose"]).tolist(),
                    },
                }
            )
        instances, actors = _instances(scene, time_s, points)
        tracks.append(actors)
        infos.append(
            {
                "sample_idx": len(infos),
                "token": _token(config.seed, name, "sample", tick),
                "timestamp": clouds[tick]["timestamp"],
                "scene_token": _token(config.seed, name, "scene"),
                "scene_name": name,
                "location": "synthetic",
                "city": "synthetic",
                "vehicle_type": "synthetic",
                "ego2global": pose.tolist(),
                "lidar_points": {"num_pts_feats": 5, "lidar_path": path, "lidar2ego": np.eye(4).tolist()},
                "lidar_sources": {},
                "radar_points": {},
                "lidar_sweeps": sweeps,
                "image_sweeps": [],
                "images": {},
                "instances": instances,
                "instances_ignore": [],
                "pts_semantic_mask_path": None,
            }
        )
    if config.tables:
        write_tables(root, infos, tracks, [clouds[tick] for tick in needed])
    return infos


def _render_job(job: tuple[DatasetConfig, str, int, str]) -> bytes:
    config, split, index, root = job
    # As bytes, so that the info file does not depend on whether a scene came from another process.
    return pickle.dumps(render_scene(config, split, index, Path(root)), protocol=PICKLE_PROTOCOL)


def _results(jobs: list[tuple[DatasetConfig, str, int, str]], workers: int) -> Iterator[bytes]:
    if workers <= 1 or len(jobs) <= 1:
        yield from map(_render_job, jobs)
        return
    # Forked workers inherit the compiled kernels: compile them once, here, before forking.
    yield _render_job(jobs[0])
    workers = min(workers, len(jobs) - 1)
    shares = [range(first, len(jobs), workers) for first in range(1, workers + 1)]

    def render(share: range) -> Iterator[tuple[int, bytes]]:
        for index in share:
            yield index, _render_job(jobs[index])

    early: dict[int, bytes] = {}
    following = 1
    for index, packed in in_processes(render, shares, "scenes"):
        early[index] = packed
        while following in early:
            yield early.pop(following)
            following += 1


def generate(config: DatasetConfig, out: Path, workers: int | None = None, overwrite: bool = False) -> dict[str, int]:
    """Generate a dataset at `out`, which appears only when it is whole.

    Args:
        workers: processes; None for one per CPU. The bytes written do not depend on it.
        overwrite: replace an `out` that exists; else that is an error.

    Returns:
        Key frames written per split.

    Raises:
        ConfigError: an absurd number of workers.
        DataError: `out` exists, or cannot be written.
    """
    if workers is not None and not 1 <= workers <= _MAX_WORKERS:
        raise ConfigError(f"workers must be 1 to {_MAX_WORKERS}, got {shown(workers)}")
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"'{out}' already exists. Choose another --out, or --overwrite to replace it.")
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    written: dict[str, int] = {}
    try:
        with atomic_dir(out) as root:
            (root / "lidar").mkdir()
            jobs = [(config, s, i, str(root)) for s in SPLITS for i in range(config.scenes.get(s, 0))]
            data: dict[str, list[dict[str, Any]]] = {s: [] for s in SPLITS if config.scenes.get(s, 0)}
            results = progress(_results(jobs, workers), label="generating scenes", total=len(jobs), unit="scene")
            for (_, split, _, _), packed in zip(jobs, results, strict=True):
                data[split].extend(pickle.loads(packed))
            for split, data_list in data.items():
                info = {
                    "data_list": data_list,
                    "metainfo": {"classes": list(CLASSES), "version": "synthetic_v1", "dataset": "t4"},
                }
                path = root / f"centerpoint_infos_{split}.pkl"
                path.write_bytes(pickle.dumps(info, protocol=PICKLE_PROTOCOL))
                written[split] = len(data_list)
            if config.tables:
                names = {s: list(dict.fromkeys(info["scene_name"] for info in infos)) for s, infos in data.items()}
                write_splits(root, names)
    except OSError as error:
        raise DataError(f"Cannot write the dataset to '{out}': {error.strerror or error}. Nothing was kept.") from error
    return written
