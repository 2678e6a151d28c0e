"""What became of the points of a cloud on their way into the network, and of the candidates on their way out of it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from base.checks import Finding
from models.known_checks import KNOWN_CHECKS

__all__ = ["MAX_VOXELS_KEY", "BoxCounts", "VoxelCounts", "dropped_pillars"]

MAX_VOXELS_KEY = "model.data_preprocessor.voxel_layer.max_voxels"
"""Key of a model config that limits the pillars of a frame; of two numbers the second counts outside of training."""


@dataclass(frozen=True)
class VoxelCounts:
    """Of one cloud, or, added up, of many. Nothing is left out without being counted here.

    Attributes:
        voxels: Pillars that enter the network.
        dropped_voxels: Pillars beyond the model's `max_voxels`, those whose first point came last.
        dropped_points: Points inside the range that no pillar had room for, dropped pillars' points included.
        outside_points: Points outside the model's point cloud range.
        invalid_points: Points with a NaN or infinite value in any column.
    """

    voxels: int = 0
    dropped_voxels: int = 0
    dropped_points: int = 0
    outside_points: int = 0
    invalid_points: int = 0

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The counters in order."""
        return tuple(field.name for field in fields(cls))

    def __add__(self, other: VoxelCounts) -> VoxelCounts:
        return VoxelCounts(**{name: getattr(self, name) + getattr(other, name) for name in self.names()})


@dataclass(frozen=True)
class BoxCounts:
    """Candidates above the score threshold of which no box was made; of one cloud, or, added up, of many.

    Attributes:
        broken: With a NaN or infinite number, as a broken FP16 or INT8 engine makes them.
        without_size: With a length, width or height of 0 or less: a network with `norm_bbox=False` learns metres, and
            may say less than none of them where it is not sure.
    """

    broken: int = 0
    without_size: int = 0

    def __add__(self, other: BoxCounts) -> BoxCounts:
        return BoxCounts(self.broken + other.broken, self.without_size + other.without_size)


def dropped_pillars(place: str, dropped: int, kept: int) -> Finding:
    """That pillars were left out, and what to do.

    Args:
        place: What was run, for messages.
        dropped: Pillars beyond the model's maximum.
        kept: The others.
    """
    value = f"{dropped} of {dropped + kept} pillars ({dropped / (dropped + kept):.1%}) were left out, with their points"
    remedy = f"Raise {MAX_VOXELS_KEY} in the model config, and export again."
    return Finding(KNOWN_CHECKS["dropped-pillars"], place, value, remedy=remedy)
