"""How many points a frame can have, by the sizes of its files: known before the first of them is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from base.errors import DataError
from base.reading import open_regular
from datasets.pcd import points_of_header
from datasets.point_forms import begins_as_pcd

if TYPE_CHECKING:
    from datasets.t4 import T4Dataset

__all__ = ["largest_frame"]

_HEADER_BYTES = 1 << 16


def largest_frame(dataset: T4Dataset, number: int) -> tuple[int, str]:
    """The most points that one of the first frames can have, and that frame's token.

    Steps behind the loading leave points out (outside of the range, too close to the vehicle), which nobody counts
    here. A file that is missing or broken counts nothing: reading it will say so.

    Args:
        dataset: Of the frames.
        number: How many frames.
    """
    loading = [step for step in dataset.pipeline.transforms if _reads_files(step)]
    key = next((step for step in loading if not hasattr(step, "sweeps_num")), None)
    sweeps = next((step for step in loading if hasattr(step, "sweeps_num")), None)
    known: dict[str, int] = {}
    most, token = 0, ""
    for index in range(number):
        info = dataset.get_data_info(index)
        points = sum(_frame(info, key, sweeps, known))
        if points > most:
            most, token = points, str(info["token"])
    return most, token


def _reads_files(step: Any) -> bool:
    """Whether it loads points from this machine's disk."""
    backend = dict(getattr(step, "backend_args", None) or {}).get("backend", "local")
    return hasattr(step, "load_dim") and backend == "local"


def _frame(info: dict[str, Any], key: Any, sweeps: Any, known: dict[str, int]) -> Iterator[int]:
    """Points of the files that a frame is made of."""
    if key is None:
        return
    own = _points(info["lidar_points"]["lidar_path"], _columns(key), known)
    yield own
    if sweeps is None:
        return
    before = info.get("lidar_sweeps")
    if before is None:
        yield own * sweeps.sweeps_num if sweeps.pad_empty_sweeps else 0
        return
    for sweep in before[: sweeps.sweeps_num]:
        yield _points(sweep["lidar_points"]["lidar_path"], _columns(sweeps), known)


def _columns(step: Any) -> int:
    """Numbers of a point in the files that a step reads."""
    stored = getattr(step, "stored", None)
    columns = None if stored is None else stored.columns
    return int(step.load_dim) if columns is None else len(columns)


def _points(path: str, columns: int, known: dict[str, int]) -> int:
    if path not in known:
        try:
            with open_regular(path) as stream:
                head, size = stream.read(_HEADER_BYTES), os.fstat(stream.fileno()).st_size
        except DataError:
            size, head = 0, b""
        known[path] = points_of_header(head) if begins_as_pcd(head) else size // (4 * columns)
    return known[path]
