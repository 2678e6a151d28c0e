"""What a frame is turned into before it is learned from: mirrored, turned, scaled, shifted, with fewer sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Augmentation", "Moves", "draw_moves", "move_boxes", "move_points"]


@dataclass(frozen=True)
class Augmentation:
    """How much frames change.

    Attributes:
        turn_rad: frames are turned by up to this, either way.
        scale: ... scaled by up to this share, either way.
        shift_m: standard deviations of the shift along x, y and z.
        intensity: standard deviation of the logarithm of a factor on a frame's intensities.
        single_sweep: share of the frames that keep the points without time lag alone.
    """

    turn_rad: float = np.pi
    scale: float = 0.1
    shift_m: tuple[float, float, float] = (0.5, 0.5, 0.2)
    intensity: float = 0.2
    single_sweep: float = 0.2

    def faded(self, iteration: int, total: int | None, fade: float) -> Augmentation:
        """What is left of it where it goes down linearly over the last share `fade` of `total` iterations.

        Turns and mirrors stay: a street has no preferred direction. Scale, shift and intensity end at nothing, so that
        the last steps are taken at the sizes and heights that deployment sees; single sweeps keep their share.
        """
        if total is None or fade <= 0.0 or iteration < (1.0 - fade) * total:
            return self
        left = (total - iteration) / (fade * total)
        x, y, z = self.shift_m
        shift = (x * left, y * left, z * left)
        return replace(self, scale=self.scale * left, shift_m=shift, intensity=self.intensity * left)


@dataclass(frozen=True)
class Moves:
    """What happens to each of B frames: `p @ linear + shift`, intensities times `gain`.

    Attributes:
        linear: (B, 2, 2) of x and y: mirrors, rotation and scale.
        mirrored: (B,) whether the orientation is turned over.
        scale: (B,) of all three axes.
        shift: (B, 3) metres.
        gain: (B,) of intensities.
        single: (B,) whether earlier sweeps are left out.
    """

    linear: NDArray[np.float32]
    mirrored: NDArray[np.bool_]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    gain: NDArray[np.float32]
    single: NDArray[np.bool_]


def draw_moves(rng: np.random.Generator, count: int, settings: Augmentation) -> Moves:
    """Draws the moves of `count` frames."""
    mirrors = rng.random((count, 2)) < 0.5
    angle = rng.uniform(-settings.turn_rad, settings.turn_rad, count)
    scale = rng.uniform(1.0 - settings.scale, 1.0 + settings.scale, count)
    signs = np.where(mirrors, -1.0, 1.0)
    cos, sin = np.cos(angle), np.sin(angle)
    # Rows of `p @ linear`: mirrored first, then turned counter-clockwise.
    turn = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
    linear = signs[:, :, None] * turn * scale[:, None, None]
    return Moves(
        linear.astype(np.float32),
        mirrors[:, 0] != mirrors[:, 1],
        scale.astype(np.float32),
        rng.normal(0.0, settings.shift_m, (count, 3)).astype(np.float32),
        np.exp(rng.normal(0.0, settings.intensity, count)).astype(np.float32),
        rng.random(count) < settings.single_sweep,
    )


def move_points(clouds: Sequence[torch.Tensor], moves: Moves) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves the clouds (N, 5) of the frames, those of single sweeps without the points of earlier ones.

    Args:
        clouds: Of each frame, on one device; points without time lag come first.
        moves: Of each frame.

    Returns:
        All points (N, 5), and (N,) int64 which frame each belongs to.
    """
    device = clouds[0].device
    matrices = np.zeros((len(clouds), 6, 5), np.float32)
    matrices[:, :2, :2] = moves.linear
    matrices[:, 2, 2], matrices[:, 3, 3], matrices[:, 4, 4] = moves.scale, moves.gain, 1.0
    matrices[:, 5, :3] = moves.shift
    on_device = torch.from_numpy(matrices).to(device)
    # One product a frame: looking a matrix up for each of millions of points takes longer than the points themselves.
    moved = torch.cat([torch.addmm(own[5], cloud, own[:5]) for cloud, own in zip(clouds, on_device, strict=True)])
    ends = torch.from_numpy(np.cumsum([len(cloud) for cloud in clouds])).to(device)
    return moved, torch.bucketize(torch.arange(len(moved), device=device), ends, right=True)


def move_boxes(boxes: NDArray[np.float32], moves: Moves, index: int) -> NDArray[np.float32]:
    """Moves the boxes (M, 9) of frame `index`; velocities that one sweep cannot show become NaN."""
    linear, moved = moves.linear[index], boxes.copy()
    moved[:, :2] = boxes[:, :2] @ linear + moves.shift[index, :2]
    moved[:, 2] = boxes[:, 2] * moves.scale[index] + moves.shift[index, 2]
    moved[:, 3:6] = boxes[:, 3:6] * moves.scale[index]
    ahead = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1) @ linear
    moved[:, 6] = np.arctan2(ahead[:, 1], ahead[:, 0])
    moved[:, 7:9] = np.nan if moves.single[index] else boxes[:, 7:9] @ linear
    return moved
