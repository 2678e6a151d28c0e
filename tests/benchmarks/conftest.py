"""A drive in miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Two scans of a wall, a road and a van; the second frame has an object of no class of ours."""
    folder = tmp_path / "drive"
    (folder / "lidar").mkdir(parents=True)
    rng = np.random.default_rng(0)
    road = np.column_stack([rng.uniform(4, 40, 4000), rng.uniform(-12, 12, 4000), rng.normal(-1.73, 0.02, 4000)])
    van = np.column_stack([rng.uniform(10, 14, 400), np.full(400, 1.0), rng.uniform(-1.6, 0.2, 400)])
    rows = []
    for index in range(2):
        xyz = np.rint(1000 * np.vstack([road, van])).astype(np.int32)
        intensity = rng.integers(0, 100, len(xyz)).astype(np.uint8)
        np.savez(folder / "lidar" / f"{index}.npz", xyz_mm=xyz, intensity_percent=intensity)
        common: dict[str, Any] = {"truncated": 0.0, "occluded": 0}
        van_box = [12.0, 1.9, -0.73, 4.2, 1.9, 2.0, 0.0]
        objects = [{"track": 0, "type": "Van", "box": van_box, "points": 400, **common}]
        if index:
            objects.append({"track": 1, "type": "Tram", "box": van_box, "points": 400, **common})
        rows.append({"frame": 7 + index, "lidar": f"lidar/{index}.npz", "objects": objects})
    (folder / "labels.json").write_text(json.dumps(rows))
    return folder
