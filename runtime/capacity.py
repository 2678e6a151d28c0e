"""How many points a cloud may have: what detectors on a GPU make room for, once, before the first frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.arguments import MAX_POINTS
from base.errors import DataError

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = ["check_cloud", "cloud_bytes"]

# Frames in flight, each with a cloud of its own.
_CLOUDS = 2
# Cell, place in the cell and place in order of each point; a sum for each tile of points.
_BYTES_PER_POINT = 3 * 4
_TILE, _BYTES_PER_TILE = 1024, 8


def cloud_bytes(spec: ModelSpec, points: int) -> int:
    """Bytes of device memory that clouds of so many points take, from their copy to their pillars' order.

    `DEFAULT_POINTS` points of the most columns that a model can have take less than 1 GB.
    """
    tiles = -(-points // _TILE)
    return points * (_CLOUDS * 4 * spec.point_features + _BYTES_PER_POINT) + tiles * _BYTES_PER_TILE


def check_cloud(what: str, points: int, capacity: int, spec: ModelSpec) -> None:
    """Raises `DataError` for a cloud of more points than there is room for, with the option that makes more.

    Args:
        what: The cloud, as a message begins: "Point file 'a.bin' has 3000000 points".
        points: Its points, or the most that it can have.
        capacity: The room.
        spec: The model, whose columns say what a point takes.
    """
    if points <= capacity:
        return
    if points > MAX_POINTS:
        remedy = f"More than {MAX_POINTS} are never taken; thin it out."
    else:
        megabytes = cloud_bytes(spec, points) / 2**20
        remedy = f"Give --max-points={points}, for which a GPU takes {megabytes:.0f} MB of memory, or thin it out."
    raise DataError(f"{what}, but at most {capacity} are taken (--max-points). {remedy}")
