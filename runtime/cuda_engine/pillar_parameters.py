"""What the kernels of points and pillars are compiled with: sizes that both sides rely on, and the model's numbers."""

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

__all__ = ["COUNTERS", "PILLAR_SIZES", "TOTALS", "PillarModel", "PillarSizes", "check_encoder"]

# What the host reads of a frame, and what its kernels add up among themselves.
COUNTERS = Words("COUNTER", VoxelCounts.names())
TOTALS = Words("TOTAL", ("invalid", "outside", "dropped_points", "pillars", "ticket"))

# The most that the kernels take; kernels/pillars.cu, decoration.cu and pfn.cu assert the same of what they see.
_MOST = {
    "layers of cells along z": 1,
    "max_points_per_voxel": 128,
    "max_voxels": 1 << 22,
    "features of a point": 16,
    "points": 1 << 24,
    "cells along x": 8192,
    "cells along y": 8192,
}
# Number of encoder layers -> the most channels of each.
_MOST_CHANNELS = {1: (128,), 2: (32, 64)}
# Threads of a multiprocessor at a time.
_RESIDENT_THREADS = 2048


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
        """Points that a block of pillars_rank takes at a time."""
        return self.rank_threads * self.rank_items

    def rank_blocks(self, capacity: int, multiprocessors: int) -> int:
        """Of pillars_rank: one for each tile of `capacity` points, but no more than run at a time."""
        return min(-(-capacity // self.rank_tile), _RESIDENT_THREADS // self.rank_threads * multiprocessors)

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
    cluster: bool
    center_dims: int
    distance: bool
    legacy: bool
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
        check_encoder(spec, tuple(layer.weight.shape[1] for layer in weights.layers), capacity)
        found = (weights.features, weights.channels)
        if found != (spec.encoder_in_features, spec.encoder_channels):
            raise ConfigError(
                f"The pillar encoder takes {found[0]} features and gives {found[1]} channels; model '{spec.name}' has "
                f"{spec.encoder_in_features} and {spec.encoder_channels}."
            )
        lower, size, (nx, ny, _) = grid_float32(spec)
        channels = weights.channels
        centers = [*pillar_centers_float32(spec), *[(np.float32(0), np.float32(0))] * 3][:3]
        return cls(
            capacity=capacity,
            columns=spec.point_features,
            features=weights.features,
            cluster=spec.cluster_center,
            center_dims=spec.voxel_center_dims,
            distance=spec.point_distance,
            legacy=spec.legacy_encoder,
            grid_x=nx,
            grid_y=ny,
            max_points=spec.max_points_per_voxel,
            max_voxels=spec.max_voxels,
            hidden=weights.layers[0].weight.shape[1] if len(weights.layers) == 2 else 0,
            channels=channels,
            round_half=weights.float16,
            out_dense=is_dense,
            out_int8=scale is not None,
            out_scale=np.float32(1 if scale is None else scale),
            encode_blocks=_encode_blocks(len(weights.layers), channels, spec.max_points_per_voxel),
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


def check_encoder(spec: ModelSpec, layer_channels: tuple[int, ...], capacity: int) -> None:
    """Raises `ConfigError` unless the kernels take a model's points, pillars and encoder; needs no device.

    Args:
        spec: Of the model.
        layer_channels: Results of each layer of its pillar encoder for a point, without the maximum beside them.
        capacity: Most points of a frame.
    """
    if spec.dynamic_pillars:
        raise ConfigError(
            f"Model '{spec.name}' has dynamic pillars, of any number of points; this engine's kernels limit it."
        )
    if spec.encoder_mode != "max":
        raise ConfigError(
            f"Model '{spec.name}': its pillar encoder takes the mean of a pillar's slots (mode '{spec.encoder_mode}'); "
            "this engine's kernels take their maximum."
        )
    nx, ny, nz = grid_float32(spec)[2]
    most = _MOST_CHANNELS.get(len(layer_channels))
    if most is None:
        raise ConfigError(
            f"Model '{spec.name}': its pillar encoder has {len(layer_channels)} layers; this engine's kernels run one "
            "or two (feat_channels of as many entries)."
        )
    values = (nz, spec.max_points_per_voxel, spec.max_voxels, spec.layer_in_features, capacity, nx, ny)
    found = [*zip(_MOST, values, _MOST.values(), strict=True)]
    found += [
        (f"channels of encoder layer {index} of {len(most)}", value, limit)
        for index, (value, limit) in enumerate(zip(layer_channels, most, strict=True), 1)
    ]
    for what, value, limit in found:
        if not 1 <= value <= limit:
            raise ConfigError(f"Model '{spec.name}': {what}: {value}; this engine's kernels take 1 to {limit}.")


def _encode_blocks(layers: int, channels: int, max_points: int) -> int:
    """Resident blocks of pillars_encode for each multiprocessor: what a thread's weights leave of the registers."""
    if layers == 1:
        return 7 if channels <= 32 else 5 if channels <= 64 else 4
    if channels > 32:
        return 3
    return 5 if max_points <= 32 else 4
