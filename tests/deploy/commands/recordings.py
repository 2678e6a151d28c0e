"""What stands in a recording, read by the formats' own readers into one form."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Boxes:
    """(N, 3) centers and sizes, (N,) yaws, scores and classes, (N, 2) velocities; scores are 1 in ground truth."""

    center: NDArray[np.float64]
    size: NDArray[np.float64]
    yaw: NDArray[np.float64]
    score: NDArray[np.float64]
    velocity: NDArray[np.float64]
    label: list[str]
    color: NDArray[np.float64]


@dataclass
class Seen:
    """One frame of a recording."""

    time_ns: int = -1
    name: str = ""
    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    boxes: dict[str, Boxes] = field(default_factory=dict)


def read_recording(path: Path) -> dict[int, Seen]:
    """Index of a frame -> what it shows; boxes by the last part of their path."""
    return _read_rrd(path) if path.suffix == ".rrd" else _read_mcap(path)


def _read_rrd(path: Path) -> dict[int, Seen]:
    from rerun.chunk import RrdReader

    frames: dict[int, Seen] = defaultdict(Seen)
    for chunk in RrdReader(path).stream():
        if "frame" not in chunk.timeline_names:
            continue
        for row in chunk.to_record_batch().to_pylist():
            seen, entity = frames[row["frame"]], chunk.entity_path
            seen.time_ns = np.timedelta64(row["time"], "ns").astype(np.int64).item()
            if entity == "/world/points":
                seen.points = np.asarray(row["Points3D:positions"], np.float32).reshape(-1, 3)
                (seen.name,) = row["centerpoint.Frame:name"]
            elif "Boxes3D:centers" in row:
                turn = _rows(row["Boxes3D:quaternions"], 4)
                colors = np.asarray(row["Boxes3D:colors"], np.uint32)[:, None] >> np.array([24, 16, 8]) & 255
                seen.boxes[entity.rsplit("/", 1)[1]] = Boxes(
                    center=_rows(row["Boxes3D:centers"], 3),
                    size=2 * _rows(row["Boxes3D:half_sizes"], 3),
                    yaw=2 * np.arctan2(turn[:, 2], turn[:, 3]),
                    score=np.asarray(row["centerpoint.Box:score"], float),
                    velocity=_rows(row["centerpoint.Box:velocity"], 2),
                    label=[text.split()[0] for text in row["Boxes3D:labels"]],
                    color=colors.astype(float),
                )
    return dict(frames)


def _read_mcap(path: Path) -> dict[int, Seen]:
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    frames: dict[int, Seen] = defaultdict(Seen)
    with path.open("rb") as file:
        for _, channel, message, content in make_reader(
            file, decoder_factories=[DecoderFactory()]
        ).iter_decoded_messages():
            seen = frames[message.sequence]
            seen.time_ns = message.log_time
            if channel.topic == "/points":
                assert [field.name for field in content.fields][:3] == ["x", "y", "z"]
                assert content.point_stride == 4 * len(content.fields)
                seen.points = np.frombuffer(content.data, "<f4").reshape(-1, len(content.fields))[:, :3]
            else:
                seen.boxes[channel.topic.rsplit("/", 1)[1]] = _scene(content)
    return dict(frames)


def _scene(update: Any) -> Boxes:
    facts = [{pair.key: pair.value for pair in entity.metadata} for entity in update.entities]
    cubes = [entity.cubes[0] for entity in update.entities]
    return Boxes(
        center=_rows([[c.pose.position.x, c.pose.position.y, c.pose.position.z] for c in cubes], 3),
        size=_rows([[c.size.x, c.size.y, c.size.z] for c in cubes], 3),
        yaw=np.asarray([2 * np.arctan2(c.pose.orientation.z, c.pose.orientation.w) for c in cubes]),
        score=np.asarray([float(fact.get("score", 1.0)) for fact in facts]),
        velocity=_rows([[float(part) for part in fact["velocity"].split()] for fact in facts], 2),
        label=[fact["class"] for fact in facts],
        color=_rows([[255 * c.color.r, 255 * c.color.g, 255 * c.color.b] for c in cubes], 3),
    )


def _rows(values: Any, columns: int) -> NDArray[np.float64]:
    return np.asarray(values, float).reshape(-1, columns)
