"""Recordings for the Rerun viewer.

Identities of chunks and rows, which the library draws by the clock, are counted here: the same frames give the same
chunks. What remains different between two files is the identity of the recording's first message and the order of
the index at the end of the file, both the library's own.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from base.boxes import Boxes3D
from base.lazy import require
from deploy.recording.contract import RecordedFrame, RecordingFacts, box_label, names_of
from eval.bev import height_rgb
from eval.palette import class_rgb

__all__ = ["GROUND_TRUTH", "POINTS", "RerunRecorder", "detections_path"]

POINTS = "world/points"
GROUND_TRUTH = "world/ground_truth"
_WORLD = "world"
_ROW_ID = "rerun.controls.RowId"
_BOX_VALUES = "centerpoint.Box"
_POINT_RADIUS = 1.5  # of the screen's points
# The library's writer is a thread. Where its file cannot grow it ends, and now and then the next request is never
# answered, be it a flush or what the library does of its own when a stream goes or the process ends.
_ANSWER_S = 20.0
_FAILED: list[Any] = []  # streams whose writer has ended


def detections_path(name: str) -> str:
    """Entity of a backend's boxes; `name` as `names_of` says."""
    return f"{_WORLD}/detections/{name}"


def _stream_type(rr: Any) -> Any:
    """Streams that do not wait for a writer that has ended when the process does."""

    class Stream(rr.RecordingStream):
        def __del__(self) -> None:
            if not any(stream is self for stream in _FAILED):
                super().__del__()

    return Stream


class RerunRecorder:
    """Writes a `.rrd` file. Use it as a context manager.

    Entities: `world/points`, `world/ground_truth`, and `world/detections/<backend>`, each with `/heading`. Time lines:
    `frame`, and `time` since the first frame. Beside what the viewer shows, boxes have `centerpoint.Box:score` and
    `centerpoint.Box:velocity`.

    Args:
        path: The file; it must not exist.
        facts: What the frames share.

    Raises:
        MissingDependencyError: rerun-sdk is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, facts: RecordingFacts) -> None:
        self._rr = require("rerun", "to record a .rrd file")
        self._pa = require("pyarrow", "to record a .rrd file")
        self._path = path
        self._facts = facts
        self._chunks = 0
        self._first_ns: int | None = None
        path.open("xb").close()  # the library says less of a file that cannot be made
        identity = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        self._rr.set_strict_mode(True)  # else it warns, and leaves out what it cannot take
        self._stream: Any = _stream_type(self._rr)(
            "centerpoint", recording_id=f"{facts.title}-{identity}", send_properties=False
        )
        self._stream.save(str(path))
        rr = self._rr
        self._send(_WORLD, [], rr.ViewCoordinates.columns(xyz=[rr.components.ViewCoordinates.RIGHT_HAND_Z_UP]))

    def write(self, frame: RecordedFrame) -> None:
        """Adds a frame.

        Raises:
            DataError: its time cannot be written.
            OSError: the file cannot be written.
        """
        rr = self._rr
        time_ns = frame.time_ns
        self._first_ns = time_ns if self._first_ns is None else self._first_ns
        since_first = np.asarray([time_ns - self._first_ns], "timedelta64[ns]")
        at = [rr.TimeColumn("frame", sequence=[frame.index]), rr.TimeColumn("time", duration=since_first)]
        points = rr.Points3D.columns(positions=frame.points[:, :3], colors=height_rgb(frame.points[:, 2]))
        radius = rr.Points3D.columns(radii=[-_POINT_RADIUS])  # negative: of the screen, not of the scene
        name = rr.DynamicArchetype.columns("centerpoint.Frame", components={"name": [frame.name]})
        self._send(POINTS, at, [*points.partition([len(frame.points)]), *radius, *name])
        if frame.ground_truth is not None:
            self._boxes(GROUND_TRUTH, at, frame.ground_truth, is_truth=True)
        for label, name in names_of(list(frame.found)).items():
            self._boxes(detections_path(name), at, frame.found[label], is_truth=False)
        with self._writing():
            self._stream.flush(timeout_sec=_ANSWER_S)

    def _boxes(self, entity: str, at: list[Any], boxes: Boxes3D, *, is_truth: bool) -> None:
        rr, names, count = self._rr, self._facts.class_names, len(boxes)
        values = boxes.boxes
        yaw = values[:, 6].astype(np.float64) / 2
        turn = np.stack([np.zeros(count), np.zeros(count), np.sin(yaw), np.cos(yaw)], axis=1)
        colors = np.asarray([class_rgb(int(label)) for label in boxes.labels], np.uint8).reshape(count, 3)
        known = zip(boxes.labels, boxes.scores, strict=True)
        mode = (
            rr.components.FillMode.TransparentFillMajorWireframe if is_truth else rr.components.FillMode.MajorWireframe
        )
        shown = rr.Boxes3D.columns(
            centers=values[:, :3],
            half_sizes=values[:, 3:6] / 2,
            quaternions=turn,
            colors=colors,
            labels=[box_label(names[int(label)], None if is_truth else float(score)) for label, score in known],
        )
        more = rr.DynamicArchetype.columns(
            _BOX_VALUES,
            components={
                "score": self._pa.array(boxes.scores.astype(np.float32)),
                "velocity": self._vectors(values[:, 7:9]),
            },
        )
        lengths = [count]
        fill = rr.Boxes3D.columns(fill_mode=[mode])
        self._send(entity, at, [*shown.partition(lengths), *fill, *more.partition(lengths)])
        front = np.zeros((count, 3), np.float32)
        front[:, 0], front[:, 1] = np.cos(values[:, 6]), np.sin(values[:, 6])
        front *= values[:, 3:4] * 0.7
        arrows = rr.Arrows3D.columns(vectors=front, origins=values[:, :3], colors=colors)
        self._send(f"{entity}/heading", at, arrows.partition(lengths))

    def _vectors(self, values: np.ndarray[Any, Any]) -> Any:
        flat = self._pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        return self._pa.FixedSizeListArray.from_arrays(flat, 2)

    def _send(self, entity: str, at: list[Any], columns: Iterable[Any]) -> None:
        """Sends one row, under identities that are counted."""
        from rerun.chunk import Chunk

        made = Chunk.from_columns(entity, at, columns).to_record_batch()
        self._chunks += 1
        row = self._pa.array([self._chunks.to_bytes(16, "big")], self._pa.binary(16))
        place = made.schema.get_field_index(_ROW_ID)
        metadata = {**made.schema.metadata, b"rerun:id": b"chunk_%032X" % self._chunks}
        counted = made.set_column(place, made.schema.field(place), row).replace_schema_metadata(metadata)
        self._stream.send_chunks(Chunk.from_record_batch(counted))

    def close(self) -> None:
        """Ends the file.

        Raises:
            OSError: what was left could not be written.
        """
        if self._stream is not None:
            with self._writing():
                self._stream.flush(timeout_sec=_ANSWER_S)
                self._stream.disconnect()
            self._stream = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The library's writer is a thread of its own; what it met comes with the next flush."""
        try:
            yield
        except RuntimeError as error:
            _FAILED.append(self._stream)
            atexit.unregister(self._rr.rerun_shutdown)
            self._stream = None
            raise OSError(errno.EIO, f"Rerun could not write it: {error}", str(self._path)) from error

    def __enter__(self) -> RerunRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
