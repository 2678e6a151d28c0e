"""Pipeline steps that load points with errors that name the file, in place of mmdet3d's own.

`T4Dataset` puts them where a config names mmdet3d's `LoadPointsFromFile` and `LoadPointsFromMultiSweeps`; results are
the same on sound files. mmdet3d alone fails on a truncated file with a reshape error that names no file, and lets NaN
through.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from datasets.kitti_geometry import in_view
from datasets.plausibility import CloudWatch
from datasets.points import StoredPoints, parse_points, read_points
from models.point_columns import SQUASHED
from models.point_loading import point_loading
from third_party import mmcv_ext

mmcv_ext.install()  # before mmdet3d, which imports mmcv's operators

from mmdet3d.datasets.transforms import LoadPointsFromFile, LoadPointsFromMultiSweeps  # noqa: E402
from mmdet3d.registry import TRANSFORMS  # noqa: E402

__all__ = ["CheckedLoadPoints", "CheckedLoadSweeps", "checked_pipeline"]

_CONFIG = "the model config's dataset"


def _load(
    path: str,
    load_dim: int,
    backend_args: Any,
    unused: Collection[str],
    stored: StoredPoints | None,
    watch: CloudWatch | None = None,
) -> NDArray[np.float32]:
    if backend_args is None or dict(backend_args).get("backend", "local") == "local":
        return read_points(path, load_dim, watch, unused, stored).reshape(-1)
    # A config may read from object storage; mmengine knows how.
    from mmengine.fileio import get

    try:
        data = get(path, backend_args=backend_args)
    except OSError as error:
        raise DataError(f"Cannot read point file '{path}': {error}.") from error
    return parse_points(data, load_dim, path, watch, unused, stored).reshape(-1)


@TRANSFORMS.register_module(name="LoadPoints")
class CheckedLoadPoints(LoadPointsFromFile):
    """mmdet3d's `LoadPointsFromFile` on `datasets.points.read_points`.

    Attributes:
        watch: Judges the clouds of key frames; training frames are not judged.
    """

    watch: CloudWatch | None = None

    def __init__(
        self, *args: Any, unused: Sequence[str] = (), stored: StoredPoints | None = None, **kwargs: Any
    ) -> None:
        """As mmdet3d's; `unused` are names of columns that no later step and no network takes, `stored` is how
        files hold points, where the step takes them otherwise."""
        super().__init__(*args, **kwargs)
        self.unused, self.stored = frozenset(unused), stored

    def _load_points(self, pts_filename: str) -> NDArray[np.float32]:
        return _load(pts_filename, self.load_dim, self.backend_args, self.unused, self.stored, self.watch)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """As mmdet3d's; of a sample with a camera's view, the points in it."""
        results = super().transform(results)
        view = results.get("camera_view")
        if view is not None:
            points = results["points"]
            inside = in_view(points.tensor.numpy(), view.lidar2img, view.width, view.height)
            results["points"] = points[np.flatnonzero(inside)]
        return results


@TRANSFORMS.register_module(name="LoadSweeps")
class CheckedLoadSweeps(LoadPointsFromMultiSweeps):
    """mmdet3d's `LoadPointsFromMultiSweeps` on `datasets.points.read_points`."""

    remove_close: bool

    def __init__(
        self,
        *args: Any,
        unused: Sequence[str] = (),
        stored: StoredPoints | None = None,
        close_is_circle: bool = False,
        **kwargs: Any,
    ) -> None:
        """As mmdet3d's; `unused` are names of columns that no later step and no network takes, `stored` is how
        files hold points, where the step takes them otherwise.

        With `close_is_circle` the points that `remove_close` removes lie within a circle rather than a square, and none
        are removed of copies of the key frame: as autoware-ml has it.
        """
        super().__init__(*args, **kwargs)
        self.unused, self.stored = frozenset(unused), stored
        self.close_is_circle = close_is_circle

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """As mmdet3d's."""
        if not self.close_is_circle or "lidar_sweeps" in results:
            return dict(super().transform(results))
        removed, self.remove_close = self.remove_close, False
        try:
            return dict(super().transform(results))
        finally:
            self.remove_close = removed

    def _remove_close(self, points: Any, radius: float = 1.0) -> Any:
        if not self.close_is_circle:
            return super()._remove_close(points, radius)
        return points[np.linalg.norm(points[:, :2], axis=1) >= radius]

    def _load_points(self, pts_filename: str) -> NDArray[np.float32]:
        return _load(pts_filename, self.load_dim, self.backend_args, self.unused, self.stored)


_CHECKED = {"LoadPointsFromFile": "LoadPoints", "LoadPointsFromMultiSweeps": "LoadSweeps"}


def checked_pipeline(pipeline: list[Any], stored: StoredPoints | None = None) -> list[Any]:
    """A copy of a pipeline config whose loading steps are the checked ones.

    Args:
        pipeline: The steps.
        stored: How point files hold points, where the info file says that it is otherwise than the steps take them.

    Raises:
        ConfigError: such a step uses columns that it does not load or an absurd number of them, or joins sweeps to a
            key frame of other columns.
    """
    loading = point_loading(pipeline, _CONFIG)
    taken = {name.removeprefix(SQUASHED) for name in loading.columns} if loading else set()
    unused = [name for name in loading.record if name not in taken] if loading else []
    steps = []
    for step in pipeline:
        kind = str(step.get("type", "")).removeprefix("mmdet3d.") if isinstance(step, dict) else ""
        if kind in _CHECKED:
            step = {**step, "type": _CHECKED[kind], "unused": unused, "stored": stored}
            step.pop("time_dim", None)  # of mmdet3d before version 1; `point_loading` has seen that it changes nothing
        steps.append(step)
    return steps
