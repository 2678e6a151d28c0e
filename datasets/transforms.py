"""Pipeline steps that load points with errors that name the file, in place of mmdet3d's own.

`T4Dataset` puts them where a config names mmdet3d's `LoadPointsFromFile` and `LoadPointsFromMultiSweeps`; results are
the same on sound files. mmdet3d alone fails on a truncated file with a reshape error that names no file, and lets NaN
through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from base.errors import ConfigError, DataError
from base.parsing import Items, Record, misfit, parse
from datasets.points import parse_points, read_points
from third_party import mmcv_ext

mmcv_ext.install()  # before mmdet3d, which imports mmcv's operators

from mmdet3d.datasets.transforms import LoadPointsFromFile, LoadPointsFromMultiSweeps  # noqa: E402
from mmdet3d.registry import TRANSFORMS  # noqa: E402

__all__ = ["CheckedLoadPoints", "CheckedLoadSweeps", "checked_pipeline"]

_CONFIG = "the model config's dataset"


def _load(path: str, load_dim: int, backend_args: Any) -> NDArray[np.float32]:
    if backend_args is None or dict(backend_args).get("backend", "local") == "local":
        return read_points(path, load_dim).reshape(-1)
    # A config may read from object storage; mmengine knows how.
    from mmengine.fileio import get

    try:
        data = get(path, backend_args=backend_args)
    except OSError as error:
        raise DataError(f"Cannot read point file '{path}': {error}.") from error
    return parse_points(data, load_dim, path).reshape(-1)


@TRANSFORMS.register_module(name="LoadPoints")
class CheckedLoadPoints(LoadPointsFromFile):
    """mmdet3d's `LoadPointsFromFile` on `datasets.points.read_points`."""

    def _load_points(self, pts_filename: str) -> NDArray[np.float32]:
        return _load(pts_filename, self.load_dim, self.backend_args)


@TRANSFORMS.register_module(name="LoadSweeps")
class CheckedLoadSweeps(LoadPointsFromMultiSweeps):
    """mmdet3d's `LoadPointsFromMultiSweeps` on `datasets.points.read_points`."""

    def _load_points(self, pts_filename: str) -> NDArray[np.float32]:
        return _load(pts_filename, self.load_dim, self.backend_args)


@dataclass(frozen=True)
class _Checked:
    """The checked step in place of mmdet3d's own, and mmdet3d's defaults."""

    name: str
    load_dim: int
    use_dim: tuple[int, ...]


_CHECKED = {
    "LoadPointsFromFile": _Checked("LoadPoints", 6, (0, 1, 2)),
    "LoadPointsFromMultiSweeps": _Checked("LoadSweeps", 5, (0, 1, 2, 4)),
}
_Columns = Annotated[int, Field(ge=1, le=64)]
_Column = Annotated[int, Field(ge=0, le=63)]


class _Step(Record, extra="ignore"):
    """What a loading step says of columns."""

    load_dim: _Columns | None = None
    use_dim: _Columns | Annotated[Items[_Column], Field(min_length=1)] | None = None


def checked_pipeline(pipeline: list[Any]) -> list[Any]:
    """A copy of a pipeline config whose loading steps are the checked ones.

    Raises:
        ConfigError: such a step uses columns that it does not load, or an absurd number of them.
    """
    steps = []
    for index, step in enumerate(pipeline):
        kind = str(step.get("type", "")).removeprefix("mmdet3d.") if isinstance(step, dict) else ""
        if kind in _CHECKED:
            _check_columns(step, index, _CHECKED[kind])
            step = {**step, "type": _CHECKED[kind].name}
        steps.append(step)
    return steps


def _check_columns(step: Any, index: int, default: _Checked) -> None:
    at: list[str | int] = ["pipeline", index]
    given = parse(_Step, dict(step), file=_CONFIG, at=at, error=ConfigError)
    load_dim = given.load_dim or default.load_dim
    used = given.use_dim or default.use_dim
    if (used if isinstance(used, int) else max(used) + 1) > load_dim:
        must = f"must name columns 0 to {load_dim - 1}, those of load_dim"
        raise misfit(_CONFIG, [*at, "use_dim"], used, must, error=ConfigError)
