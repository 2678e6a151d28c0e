"""Recordings for Foxglove: MCAP files of its own messages, the same frames in the same bytes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from base.boxes import Boxes3D
from base.lazy import require
from deploy.recording.contract import RecordedFrame, RecordingFacts, box_label, names_of
from eval.palette import class_rgb

__all__ = ["GROUND_TRUTH_TOPIC", "POINTS_TOPIC", "McapRecorder", "detections_topic"]

POINTS_TOPIC = "/points"
GROUND_TRUTH_TOPIC = "/ground_truth"
_FRAME = "base_link"
_POINT_CLOUD, _SCENE = "PointCloud", "SceneUpdate"
_FLOAT32 = 7
_LINE_LIST = 2
_TRUTH_ALPHA, _FOUND_ALPHA = 0.35, 0.08
_NS = 1_000_000_000
# Ends of the twelve edges of a box, in halves of its size: four along each axis.
_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 1.0]


def detections_topic(name: str) -> str:
    """Topic of a backend's boxes; `name` as `names_of` says."""
    return f"/detections/{name}"


class McapRecorder:
    """Writes a `.mcap` file. Use it as a context manager.

    Topics: `/points` (`foxglove.PointCloud`, all columns of a point), `/ground_truth` and `/detections/<backend>`
    (`foxglove.SceneUpdate`, one entity a box, whose metadata are class, score and velocity).

    Args:
        path: The file; it must not exist.
        facts: What the frames share.

    Raises:
        MissingDependencyError: mcap or the messages are not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, facts: RecordingFacts) -> None:
        writer = require("mcap.writer", "to record a .mcap file")
        self._facts = facts
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._stream = path.open("xb")
        # A chunk a message: what was written is in the file, and of a killed run as much can be read.
        self._writer: Any = writer.Writer(self._stream, chunk_size=1)
        self._writer.start(profile="", library="centerpoint-deploy")
        self._writer.add_metadata(
            "centerpoint",
            {"model": facts.title, "classes": ", ".join(facts.class_names), "frame": "x forward, y left, z up, metres"},
        )

    def write(self, frame: RecordedFrame) -> None:
        """Adds a frame.

        Raises:
            DataError: its time cannot be written.
            OSError: the file cannot be written.
        """
        time_ns = frame.time_ns
        self._send(POINTS_TOPIC, _POINT_CLOUD, frame, self._cloud(frame, time_ns))
        if frame.ground_truth is not None:
            self._send(GROUND_TRUTH_TOPIC, _SCENE, frame, self._scene(frame.ground_truth, time_ns, is_truth=True))
        for label, name in names_of(list(frame.found)).items():
            scene = self._scene(frame.found[label], time_ns, is_truth=False)
            self._send(detections_topic(name), _SCENE, frame, scene)
        self._stream.flush()

    def _send(self, topic: str, kind: str, frame: RecordedFrame, message: Any) -> None:
        if topic not in self._channels:
            if kind not in self._schemas:
                schema = require("mcap_protobuf.schema", "to record a .mcap file")
                self._schemas[kind] = schema.register_schema(self._writer, type(message))
            self._channels[topic] = self._writer.register_channel(
                topic=topic, message_encoding="protobuf", schema_id=self._schemas[kind]
            )
        self._writer.add_message(
            channel_id=self._channels[topic],
            log_time=frame.time_ns,
            publish_time=frame.time_ns,
            sequence=frame.index,
            data=message.SerializeToString(deterministic=True),
        )

    def _cloud(self, frame: RecordedFrame, time_ns: int) -> Any:
        message = _message(_POINT_CLOUD)(frame_id=_FRAME, point_stride=4 * frame.points.shape[1])
        _stamp(message.timestamp, time_ns)
        message.pose.orientation.w = 1.0
        for column, name in enumerate(self._facts.point_columns):
            message.fields.add(name=name, offset=4 * column, type=_FLOAT32)
        message.data = np.ascontiguousarray(frame.points, "<f4").tobytes()
        return message

    def _scene(self, boxes: Boxes3D, time_ns: int, *, is_truth: bool) -> Any:
        update = _message(_SCENE)()
        deletion = update.deletions.add(type=1)  # all that stood there at the frame before
        _stamp(deletion.timestamp, time_ns)
        for number, (values, score, label) in enumerate(zip(boxes.boxes, boxes.scores, boxes.labels, strict=True)):
            self._box(update.entities.add(id=str(number)), values, float(score), int(label), time_ns, is_truth)
        return update

    def _box(self, entity: Any, values: Any, score: float, label: int, time_ns: int, is_truth: bool) -> None:
        name, color = self._facts.class_names[label], [channel / 255 for channel in class_rgb(label)]
        entity.frame_id = _FRAME
        _stamp(entity.timestamp, time_ns)
        center, size, yaw = values[:3].astype(float), values[3:6].astype(float), float(values[6])
        facts = {"class": name, "velocity": f"{values[7]:.6g} {values[8]:.6g}"} | (
            {} if is_truth else {"score": f"{score:.9g}"}
        )
        for key, value in facts.items():
            entity.metadata.add(key=key, value=value)
        cube = entity.cubes.add()
        _place(cube.pose, center, yaw)
        cube.size.x, cube.size.y, cube.size.z = size
        _paint(cube.color, color, _TRUTH_ALPHA if is_truth else _FOUND_ALPHA)
        if not is_truth:
            edges = entity.lines.add(type=_LINE_LIST, thickness=2.0, scale_invariant=True)
            _place(edges.pose, center, yaw)
            _paint(edges.color, color, 1.0)
            for corner in (_CORNERS[[end for edge in _EDGES for end in edge]] * size).tolist():
                edges.points.add(x=corner[0], y=corner[1], z=corner[2])
            text = entity.texts.add(text=box_label(name, score), billboard=True, font_size=12.0, scale_invariant=True)
            _place(text.pose, (center[0], center[1], center[2] + size[2] / 2 + 0.4), 0.0)
            _paint(text.color, color, 1.0)
        arrow = entity.arrows.add(
            shaft_length=size[0] * 0.55, shaft_diameter=0.08, head_length=size[0] * 0.15, head_diameter=0.25
        )
        _place(arrow.pose, center, yaw)
        _paint(arrow.color, color, 1.0)

    def close(self) -> None:
        """Ends the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.finish()
            finally:
                self._stream.close()

    def __enter__(self) -> McapRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _message(kind: str) -> Any:
    """A message's class."""
    return getattr(require(f"foxglove_schemas_protobuf.{kind}_pb2", "to record a .mcap file"), kind)


def _stamp(stamp: Any, time_ns: int) -> None:
    stamp.seconds, stamp.nanos = divmod(time_ns, _NS)


def _place(pose: Any, center: Any, yaw: float) -> None:
    pose.position.x, pose.position.y, pose.position.z = (float(value) for value in center)
    pose.orientation.z, pose.orientation.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))


def _paint(color: Any, rgb: list[float], alpha: float) -> None:
    color.r, color.g, color.b, color.a = *rgb, alpha
