"""`runtime.sweeps.JoinedSweeps` on the device: past clouds stay there, and a frame costs the upload of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import DataError
from runtime.cuda.device import pointers
from runtime.cuda_engine.cloud_memory import CloudMemory
from runtime.cuda_engine.macros import Words, kernel_source
from runtime.sweeps import SweepMotion, lag_column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.intake import CloudIntake
    from runtime.sweeps import Sweep, SweepSettings

__all__ = ["MOVE", "DeviceSweeps"]

# A sweep's doubles: its place in the ring, whether it is moved, seconds, and the first of twelve of A and b.
MOVE = Words("MOVE", ("slot", "is_moved", "lag", "a"))
_MOVE_SIZE = len(MOVE.names) + 11

_JOIN_THREADS, _COMPACT_THREADS = 256, 1024
_NO_MOVE = np.eye(3, 4)


class DeviceSweeps:
    """A ring of clouds with their times and poses, and the cloud that they make in the present frame.

    One graph for each place of the ring takes the present cloud into it and joins all into the frame's memory.
    """

    def __init__(
        self,
        device: CudaDevice,
        spec: ModelSpec,
        intake: CloudIntake,
        settings: SweepSettings,
        joined: CloudMemory,
        stream: int,
    ) -> None:
        """Compiles, allocates and captures.

        Args:
            intake: How clouds come to the device.
            settings: How they are joined.
            joined: Where they are joined; its capacity is shared out among the sweeps evenly.
            stream: Where frames run.

        Raises:
            ConfigError: the model has no time lag.
        """
        self._device, self._intake, self._joined, self._stream = device, intake, joined, stream
        self._motion, self._settings = SweepMotion(settings), settings
        # One place more than clouds are kept: what the first frame's copies are made of.
        places = settings.num_past + 2
        self.capacity = max(1, joined.capacity // (settings.num_past + 1))
        columns = spec.point_features
        # Numbers from one cloud to the next: each begins at a multiple of 16 bytes, as the intake wants it.
        stride = -(-self.capacity * columns // 4) * 4
        macros = {
            "CAPACITY": joined.capacity,
            "SWEEP_CAPACITY": self.capacity,
            "SWEEP_STRIDE": stride,
            "COLUMNS": columns,
            "LAG_COLUMN": lag_column(spec),
            "CLOSE": np.float32(settings.close_m),
            "JOIN_THREADS": _JOIN_THREADS,
            "COMPACT_THREADS": _COMPACT_THREADS,
            **MOVE.definitions,
        }
        names = ("sweeps_join", "sweeps_compact")
        kernels = device.compile_all(kernel_source(macros, "sweeps.cu"), names)
        self._join, self._compact = (kernels[name] for name in names)
        self._ring = device.allocate(places * stride * 4)
        self._counts = device.allocate(places * 4)
        self._places = [
            CloudMemory(
                device, spec, self.capacity,
                points=self._ring + place * stride * 4, num_points=self._counts + place * 4,
            )
            for place in range(places)
        ]  # fmt: skip
        words = 1 + (settings.num_past + 1) * _MOVE_SIZE
        self._host_moves: NDArray[np.float64] = device.allocate_pinned((words,), np.float64)
        self._moves = device.allocate(words * 8)
        self._events: tuple[Any, Any] = (device.create_event(), device.create_event())
        self._frames = 0
        self._graphs = [self._capture(place) for place in self._places]

    def add(self, points: NDArray[np.float32], timestamp_s: float, pose: NDArray[np.float64]) -> None:
        """Puts the present cloud's way into the ring, and all of them into the joined cloud, on the stream.

        The last frame must be done. Arguments and errors as for `JoinedSweeps.add`; also `DataError` where the cloud
        has more points than its share of the frame's.
        """
        place = self._frames % len(self._places)
        cloud = self._places[place]
        self._check(points, cloud)
        sweeps = self._motion.add(timestamp_s, pose)
        if any(sweep.is_copy for sweep in sweeps):
            # Its copies lack what is close, so that they are a cloud of their own.
            self._take(self._places[place - 1], points)
            self.compact(place - 1)
        self._intake.bring(cloud, points, self._stream, *self._events)
        self._say(sweeps, place)
        self._device.launch_graph(self._graphs[place], self._stream)
        self._joined.request[:] = 0, -1, 0

    def keep(self) -> None:
        """Behind the frame's own work: what later frames take of its cloud."""
        self.compact(self._frames % len(self._places))
        self._frames += 1

    def reset(self) -> None:
        """Forgets all clouds."""
        self._motion.reset()

    def compact(self, place: int) -> None:
        """Puts the kernel that leaves close points out on the stream, where there is a limit."""
        if self._settings.close_m:
            cloud = self._places[place]
            arguments = pointers(cloud.points, cloud.num_points)
            self._device.launch(self._compact, 1, _COMPACT_THREADS, arguments, self._stream)

    def _check(self, points: NDArray[np.float32], cloud: CloudMemory) -> None:
        try:
            cloud.check(points)
        except DataError as error:
            if len(points) <= self.capacity:
                raise
            sweeps = self._settings.num_past + 1
            raise DataError(
                f"Point cloud has {len(points)} points; of the {self._joined.capacity} of a joined cloud "
                f"(--max-points) each of {sweeps} sweeps has room for {self.capacity}."
            ) from error

    def _take(self, cloud: CloudMemory, points: NDArray[np.float32]) -> None:
        self._intake.bring(cloud, points, self._stream, *self._events)
        self._intake.enqueue(cloud, self._stream)

    def _say(self, sweeps: list[Sweep], place: int) -> None:
        self._host_moves[0] = len(sweeps)
        rows = self._host_moves[1 : 1 + len(sweeps) * _MOVE_SIZE].reshape(len(sweeps), _MOVE_SIZE)
        for row, sweep in zip(rows, sweeps, strict=True):
            slot = place - 1 if sweep.is_copy else place - sweep.age
            row[:3] = slot % len(self._places), sweep.move is not None, sweep.lag_s
            row[3:] = (_NO_MOVE if sweep.move is None else sweep.move).reshape(-1)

    def _capture(self, cloud: CloudMemory) -> Any:
        device, stream = self._device, self._stream
        device.begin_capture(stream)
        self._intake.enqueue(cloud, stream)
        device.upload(self._moves, self._host_moves, stream)
        addresses = (self._moves, self._ring, self._counts, self._joined.points, self._joined.num_points)
        blocks = min(-(-self.capacity // _JOIN_THREADS), 8 * device.num_multiprocessors)
        device.launch(self._join, blocks, _JOIN_THREADS, pointers(*addresses), stream)
        return device.end_capture(stream)
