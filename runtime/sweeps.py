"""Clouds joined with those before them, moved by the vehicle's motion: for models trained on several sweeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.detector import Inference

__all__ = ["JoinedSweeps", "SweepMotion", "SweepSettings", "SweepStream", "lag_column"]

_MOST_PAST = 64


@dataclass(frozen=True)
class SweepSettings:
    """How sweeps are joined, as the model was trained: `LoadPointsFromMultiSweeps` of its test pipeline.

    Attributes:
        num_past: Clouds before the present one, latest first, 0 to 64; fewer where the stream began later. mmdet3d's
            `sweeps_num`; Autoware's `densification_num_past_frames`.
        close_m: Points of past clouds with |x| and |y| below that, in their own frame, are left out: the vehicle's own.
            1.0 where mmdet3d's `remove_close` is set; 0 leaves none out.
        pad_empty: The first cloud of a stream is joined with `num_past` copies of itself (`pad_empty_sweeps`).
    """

    num_past: int
    close_m: float = 0.0
    pad_empty: bool = False

    @classmethod
    def from_config(cls, cfg: Any, file: str = "the model config") -> SweepSettings:
        """As a model config's test pipeline joins sweeps.

        Args:
            cfg: From `models.config.load_model_config`.
            file: What messages call it.

        Raises:
            ConfigError: its pipeline joins none, or leaves close points out in a circle as autoware-ml's does.
        """
        from models.point_loading import config_loading

        loading = config_loading(cfg, file)
        if loading is None or loading.sweeps_num is None:
            raise ConfigError(
                f"{file}: no step of its test pipeline joins sweeps (LoadPointsFromMultiSweeps): the model takes "
                "clouds one by one."
            )
        if loading.close_is_circle and (loading.remove_close or loading.pad_empty_sweeps):
            raise ConfigError(
                f"{file}: sweeps lose what lies in a circle around the sensor, as autoware-ml has it; a stream leaves "
                "out mmdet3d's square. Join the clouds yourself, or give settings without a limit."
            )
        return cls(loading.sweeps_num, 1.0 if loading.remove_close else 0.0, loading.pad_empty_sweeps)

    def __post_init__(self) -> None:
        if not 0 <= self.num_past <= _MOST_PAST:
            raise ConfigError(f"num_past is {self.num_past}; clouds are joined with 0 to {_MOST_PAST} earlier ones.")
        if not 0 <= self.close_m < float("inf"):
            raise ConfigError(f"close_m is {self.close_m}; give metres, or 0 for no limit.")


@dataclass(frozen=True, eq=False)
class Sweep:
    """One of the clouds that a frame is joined of.

    Attributes:
        age: 0 for the present cloud, 1 for the one before it.
        lag_s: Seconds before the present one.
        move: (3, 4) float64 [A | b]: p becomes A p + b in the present frame. None where points stay as they are.
        is_copy: One of `pad_empty`.
    """

    age: int
    lag_s: float
    move: NDArray[np.float64] | None
    is_copy: bool = False


class SweepMotion:
    """Times and poses of the last clouds: which of them a frame is joined of, and how each is moved."""

    def __init__(self, settings: SweepSettings) -> None:
        self.settings = settings
        self._past: deque[tuple[float, NDArray[np.float64]]] = deque(maxlen=settings.num_past)
        self._last_s: float | None = None  # with no past cloud kept, times rise all the same

    def add(self, timestamp_s: float, pose: NDArray[np.float64]) -> list[Sweep]:
        """Takes the present cloud in; the sweeps in the order in which their points are joined.

        Args:
            timestamp_s: Seconds, later than the one before.
            pose: (4, 4) from the points' frame to one that stands still (`ego2global`).

        Raises:
            DataError: the time did not pass, or the pose is no rigid motion.
        """
        place = np.asarray(pose, np.float64)
        turn = place[:3, :3] if place.shape == (4, 4) else np.full((3, 3), np.nan)
        is_rigid = np.isfinite(place).all() and np.allclose(turn @ turn.T, np.eye(3), atol=1e-4)
        # A mirrored one keeps lengths as well; a transposed one has its translation below.
        if not is_rigid or np.linalg.det(turn) < 0.0 or not np.allclose(place[3], (0.0, 0.0, 0.0, 1.0), atol=1e-6):
            raise DataError(
                "The pose of a cloud is a rigid motion, (4, 4) and finite, with the translation in its last column and "
                f"the last row 0, 0, 0, 1; got {np.array2string(place)}."
            )
        before = self._last_s
        if not np.isfinite(timestamp_s) or (before is not None and timestamp_s <= before):
            earlier = "nothing" if before is None else before
            raise DataError(
                f"A cloud of time {timestamp_s} s follows one of {earlier}: times rise within a stream. Call reset() "
                "where a new stream begins."
            )
        found = [Sweep(0, 0.0, None)]
        if not self._past and self.settings.pad_empty:
            found += [Sweep(0, 0.0, None, is_copy=True)] * self.settings.num_past
        back = np.linalg.inv(place)
        for age, (then_s, there) in enumerate(self._past, 1):
            found.append(Sweep(age, timestamp_s - then_s, (back @ there)[:3]))
        self._past.appendleft((timestamp_s, place))
        self._last_s = timestamp_s
        return found

    def reset(self) -> None:
        """Forgets all clouds: a new stream begins."""
        self._past.clear()
        self._last_s = None


class JoinedSweeps:
    """The joined cloud in numpy: what runs on a CPU, and what the kernels are held against, bit by bit."""

    def __init__(self, spec: ModelSpec, settings: SweepSettings) -> None:
        """Raises:
        ConfigError: the model has no time lag, so that it was trained on single clouds.
        """
        self._lag = lag_column(spec)
        self._spec, self._motion = spec, SweepMotion(settings)
        self._clouds: deque[NDArray[np.float32]] = deque(maxlen=settings.num_past)

    def add(self, points: NDArray[np.float32], timestamp_s: float, pose: NDArray[np.float64]) -> NDArray[np.float32]:
        """The present cloud and those before it, in its frame: (M, C) float32.

        Args:
            points: (N, C) float32 with the model's columns; whatever the time lag's holds is overwritten.
            timestamp_s, pose: As for `SweepMotion.add`.

        Raises:
            DataError: the points have another shape or type, or as there.
        """
        if points.ndim != 2 or points.shape[1] != self._spec.point_features or points.dtype != np.float32:
            raise DataError(
                f"Point cloud is {points.dtype} of shape {points.shape}; model '{self._spec.name}' needs float32 "
                f"(N, {self._spec.point_features})."
            )
        sweeps = self._motion.add(timestamp_s, pose)
        cloud = points.copy()
        kept = cloud[~self._close(cloud)]
        parts = []
        for sweep in sweeps:
            part = (cloud if not sweep.is_copy else kept) if sweep.age == 0 else self._clouds[sweep.age - 1]
            part = part.copy()
            if sweep.move is not None:
                part[:, :3] = moved(part[:, :3], sweep.move)
            part[:, self._lag] = np.float32(sweep.lag_s)
            parts.append(part)
        self._clouds.appendleft(kept)
        return np.concatenate(parts)

    def reset(self) -> None:
        """Forgets all clouds: a new stream begins."""
        self._motion.reset()
        self._clouds.clear()

    def _close(self, cloud: NDArray[np.float32]) -> NDArray[np.bool_]:
        limit = np.float32(self._motion.settings.close_m)
        close: NDArray[np.bool_] = (np.abs(cloud[:, 0]) < limit) & (np.abs(cloud[:, 1]) < limit)
        return close


class SweepStream:
    """A detector that is given one cloud at a time, with its time and pose; `Detector.sweeps` makes it."""

    def __init__(
        self,
        detect: Callable[[NDArray[np.float32], float, NDArray[np.float64]], Inference],
        forget: Callable[[], None],
    ) -> None:
        self._detect, self._forget = detect, forget

    def __call__(self, points: NDArray[np.float32], timestamp_s: float, pose: NDArray[np.float64]) -> Inference:
        """One frame. Arguments as for `JoinedSweeps.add`.

        Raises:
            DataError: as there, or the joined cloud has more points than the detector has room for.
        """
        return self._detect(points, timestamp_s, pose)

    def reset(self) -> None:
        """Forgets all clouds: a new stream begins."""
        self._forget()


def lag_column(spec: ModelSpec) -> int:
    """Index of the time lag among a model's columns.

    Raises:
        ConfigError: it has none.
    """
    if "time_lag" not in spec.point_columns:
        raise ConfigError(
            f"Model '{spec.name}' reads {', '.join(spec.point_columns)}: without a time lag it was trained on single "
            "clouds."
        )
    return spec.point_columns.index("time_lag")


def moved(xyz: NDArray[np.float32], move: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N, 3) points as the kernel moves them: in float64, products added from left to right, and rounded once."""
    x, y, z = (xyz[:, axis].astype(np.float64) for axis in range(3))
    with np.errstate(invalid="ignore", over="ignore"):
        rows = [((x * row[0] + y * row[1]) + z * row[2]) + row[3] for row in move]
        return np.stack(rows, axis=1).astype(np.float32)
