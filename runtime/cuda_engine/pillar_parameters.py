"""What kernels/pillars.cu and pfn.cu are compiled with: sizes that both sides rely on, and the model's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ConfigError
from runtime.counts import VoxelCounts
from runtime.cuda_engine.macros import Words
from runtime.voxels import grid_float32, pillar_centers_float32

if TYPE_CHECKING:
    from models.spec import ModelSpec
    from runtime.pillar_weights import PillarWeights

__all__ = ["COUNTERS", "PILLAR_SIZES", "TOTALS", "PillarModel", "PillarSizes"]

# What the host reads of a frame, and what its kernels add up among themselves.
COUNTERS = Words("COUNTER", VoxelCounts.names())
TOTALS = Words("TOTAL", ("invalid", "outside", "dropped_points", "pillars", "ticket"))

# The most that the kernels take; kernels/pillars.cu and pfn.cu assert the same of what they see.
_MOST = {
    "layers of cells along z": 1,
    "max_points_per_voxel": 32,
    "features of a point": 16,
    "channels of the first encoder layer": 32,
    "encoder channels": 64,
    "points": 1 << 24,
    "cells along x": 8192,
    "cells along y": 8192,
}


@dataclass(frozen=True)
class PillarSizes:
    """Sizes of the kernels; the same for every model.

    Attributes:
        assign_threads, rank_threads, group_threads: Of a block of pillars_assign, pillars_rank and pillars_group.
        rank_items: Points of a thread of pillars_rank.
        encode_warps: Of a block of pillars_encode.
        encode_group: Pillars that one of its warps takes at a time.
    """

    assign_threads: int = 256
    rank_threads: int = 512
    group_threads: int = 256
    rank_items: int = 2
    encode_warps: int = 4
    encode_group: int = 4

    @property
    def rank_tile(self) -> int:
        """Points of a block of pillars_rank."""
        return self.rank_threads * self.rank_items

    @property
    def encode_threads(self) -> int:
        """Of a block of pillars_encode."""
        return self.encode_warps * 32


PILLAR_SIZES = PillarSizes()
"""The fastest, as measured."""


@dataclass(frozen=True)
class PillarModel:
    """A model's numbers; each attribute is the macro of its name, described in kernels/pillars.cu."""

    capacity: int
    columns: int
    features: int
    center_dims: int
    grid_x: int
    grid_y: int
    max_points: int
    max_voxels: int
    hidden: int
    channels: int
    round_half: bool
    out_dense: bool
    out_int8: bool
    out_scale: np.float32
    encode_blocks: int
    lower_x: np.float32
    lower_y: np.float32
    lower_z: np.float32
    size_x: np.float32
    size_y: np.float32
    size_z: np.float32
    center_scale_x: np.float32
    center_scale_y: np.float32
    center_scale_z: np.float32
    center_offset_x: np.float32
    center_offset_y: np.float32
    center_offset_z: np.float32

    @classmethod
    def from_spec(
        cls, spec: ModelSpec, weights: PillarWeights, capacity: int, *, scale: float | None, is_dense: bool
    ) -> PillarModel:
        """Of a model.

        Args:
            spec: Of the model.
            weights: Of its pillar encoder.
            capacity: Most points of a frame.
            scale: Step of the canvas' INT8 codes, or None.
            is_dense: Whether the canvas is float32, (C, H, W).

        Raises:
            ConfigError: the encoder is not the model's, or its sizes are beyond the kernels'.
        """
        lower, size, (nx, ny, nz) = grid_float32(spec)
        if not spec.has_usual_decoration:
            raise ConfigError(
                f"Model '{spec.name}': its pillar encoder takes {spec.decoration}; this engine's kernels make points "
                "with both offsets and take a maximum of them."
            )
        if len(weights.layers) != 2:
            raise ConfigError(
                f"Model '{spec.name}': its pillar encoder has {len(weights.layers)} layers; this engine's kernels run "
                "two (feat_channels of two entries)."
            )
        features, hidden = weights.layers[0].weight.shape
        channels = weights.channels
        found = (features, channels)
        if found != (spec.encoder_in_features, spec.encoder_channels):
            raise ConfigError(
                f"The pillar encoder takes {found[0]} features and gives {found[1]} channels; model '{spec.name}' has "
                f"{spec.encoder_in_features} and {spec.encoder_channels}."
            )
        values = (nz, spec.max_points_per_voxel, features, hidden, channels, capacity, nx, ny)
        for (what, most), value in zip(_MOST.items(), values, strict=True):
            if not 1 <= value <= most:
                raise ConfigError(f"Model '{spec.name}': {what}: {value}; this engine's kernels take 1 to {most}.")
        centers = [*pillar_centers_float32(spec), (np.float32(0), np.float32(0))][:3]
        return cls(
            capacity=capacity,
            columns=spec.point_features,
            features=features,
            center_dims=spec.voxel_center_dims,
            grid_x=nx,
            grid_y=ny,
            max_points=spec.max_points_per_voxel,
            max_voxels=spec.max_voxels,
            hidden=hidden,
            channels=channels,
            round_half=weights.float16,
            out_dense=is_dense,
            out_int8=scale is not None,
            out_scale=np.float32(1 if scale is None else scale),
            # Resident blocks for each multiprocessor: what a thread's weights leave of the registers.
            encode_blocks=5 if channels <= 32 else 3,
            lower_x=lower[0],
            lower_y=lower[1],
            lower_z=lower[2],
            size_x=size[0],
            size_y=size[1],
            size_z=size[2],
            center_scale_x=centers[0][0],
            center_scale_y=centers[1][0],
            center_scale_z=centers[2][0],
            center_offset_x=centers[0][1],
            center_offset_y=centers[1][1],
            center_offset_z=centers[2][1],
        )
