"""Random head outputs that autoware-ml's own decode has seen: `tests/data/autoware_ml/peaks.npz` has its boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RANGE = (-8.0, -6.0, -3.0, 8.0, 6.0, 5.0)
VOXEL = (0.25, 0.25, 8.0)
STRIDE = 2
WIDTH, HEIGHT = 32, 24


@dataclass(frozen=True)
class PeakCase:
    """What the head is told, and the seed of its outputs."""

    seed: int
    classes: int
    threshold: float
    most: int
    radius_m: float
    velocity: bool


CASES = tuple(
    PeakCase(
        seed=seed,
        classes=1 + seed % 4,
        threshold=(0.0, 0.3, 0.6)[seed % 3],
        most=(5, 20, 50, 150)[seed % 4],
        radius_m=(0.0, 0.5, 1.0, 2.5, 6.0)[seed % 5],
        velocity=seed % 6 != 0,
    )
    for seed in range(24)
)


def random_outputs(case: PeakCase) -> dict[str, NDArray[np.float32]]:
    """Head name -> (1, C, h, w) float32; smooth enough that peaks have slopes."""
    generator = np.random.default_rng(case.seed)
    sizes = {
        "heatmap": case.classes,
        "reg": 2,
        "height": 1,
        "dim": 3,
        "rot": 2,
        **({"vel": 2} if case.velocity else {}),
    }
    scales = {"heatmap": 2.0, "reg": 0.5, "dim": 0.7}
    return {
        name: (generator.normal(0, scales.get(name, 1.0), (1, size, HEIGHT, WIDTH))).astype(np.float32)
        for name, size in sizes.items()
    }
