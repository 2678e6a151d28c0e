"""The street of the GPU benchmarks is like a real scan to the engine, and the table says what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gpu_cloud import occupied_cells, street_cloud
from benchmarks.gpu_skipping import table
from benchmarks.gpu_tune import active_tiles
from runtime.cuda_engine.activity import TiledLayer
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.reach import layer_reach, map_reaches

# Of a public nuScenes sweep and of ten of them: share of active tiles of 8 x 16 pixels, 760 x 760 model.
_REAL = {
    "blocks.0.0": (0.124, 0.179), "blocks.0.3": (0.164, 0.221), "blocks.1.5": (0.295, 0.372),
    "blocks.2.5": (0.458, 0.545), "shared": (0.391, 0.483),
}  # fmt: skip


@pytest.mark.parametrize(("sweeps", "which"), [(1, 0), (10, 1)])
def test_a_street_activates_as_many_tiles_as_a_real_scan(sweeps: int, which: int) -> None:
    plan = random_plan(Architecture((760, 760)), "int8")
    reaches, cells = map_reaches(plan), occupied_cells(street_cloud(sweeps), (760, 760), 0.32)
    convs = {conv.node: conv for conv in plan.convs}
    for name, real in _REAL.items():
        layer = TiledLayer(name, (layer_reach(plan, convs[name], reaches),), 8, 16)
        share = len(active_tiles(layer, cells)) / (layer.down * layer.across)
        assert share == pytest.approx(real[which], abs=0.06), name


def test_sweeps_of_a_street_are_the_same_for_the_same_arguments() -> None:
    columns = ("x", "y", "z", "intensity", "time_lag")
    cloud = street_cloud(3, columns, seed=1)
    np.testing.assert_array_equal(cloud, street_cloud(3, columns, seed=1))
    np.testing.assert_allclose(np.unique(cloud[:, 4]), [0, 0.05, 0.1], rtol=1e-6)
    # What stands still is where it was, seen from now: the oldest sweep alone, moved.
    assert not np.array_equal(street_cloud(1, columns, seed=1, frame=1), street_cloud(1, columns, seed=1))


def test_the_table_says_what_was_measured() -> None:
    times = {"p50": 0.8, "p99": 0.9, "p999": 1.0}
    row = {
        "model": "760", "precision": "int8", "frame": "street, one sweep", "pillars": 6000, "equal": False,
        "ratio": [2.0, 1.9, 2.1], "shares": {"a": 0.1, "b": 0.456}, "dense": times,
        "skipping": {"p50": 0.4, "p99": 0.41, "p999": 0.42},
    }  # fmt: skip
    line = table({"rows": [row]}).splitlines()[-1].split()
    assert line == [
        "760", "int8", "street,", "one", "sweep", "6000", "0.10", "to", "0.46", "0.800", "0.400", "0.410", "0.420",
        "2.00", "[1.90,", "2.10]", "NO",
    ]  # fmt: skip
