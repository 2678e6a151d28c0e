"""What `benchmarks.gpu_tune` times of a layer, and what it writes down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

import benchmarks.gpu_tune as gpu_tune
from models.spec import ModelSpec
from runtime.cuda_engine.checks.random_plans import Architecture
from runtime.cuda_engine.heads_tiling import HeadsTiling
from runtime.cuda_engine.network import Launch
from runtime.cuda_engine.tiling import ConvTiling
from tests.runtime.fake_engine import FakeDevice

SMALL = Architecture((16, 24), channels=(64,), depths=(1,), strides=(1,), upsamples=(1,), heads=(("heatmap", 2),))


def cost_us(tiling: ConvTiling | HeadsTiling) -> float:
    """Of a tiling: its cut counts first, then its way."""
    if not isinstance(tiling, ConvTiling):
        return 50.0 + 10 * tiling.blocks + tiling.groups
    cut = 100.0 + abs(tiling.tile_rows - 12) + abs(tiling.n_tile - 48) / 64 + tiling.groups / 8
    return cut - 2.0 * tiling.ordered + 3.0 * tiling.staged


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Tilings in the order in which they were timed, none of them on a device."""
    tilings: list[Any] = []

    class Device(FakeDevice):
        name = "Pretended GPU"

        @classmethod
        def open(cls, index: int) -> Device:
            return cls(cast(ModelSpec, None))

        def close(self) -> None:
            pass

    def time_us(device: Any, network: Any, launch: Launch, stream: int) -> float:
        tilings.append(launch.tiling)
        return cost_us(launch.tiling)

    monkeypatch.setattr(gpu_tune, "CudaDevice", Device)
    monkeypatch.setattr(gpu_tune, "_time_us", time_us)
    monkeypatch.setattr(gpu_tune, "_MODELS", {"small": (SMALL, 0.32)})
    monkeypatch.setattr("runtime.cuda_engine.tiling._CANDIDATES", 8)
    return tilings


def test_the_fastest_way_of_the_fastest_cut_is_written(timed: list[Any], tmp_path: Path) -> None:
    out, times = tmp_path / "tilings.json", tmp_path / "times.json"
    assert gpu_tune.main(["--models", "small", "--out", str(out), "--times", str(times)]) == 0
    table, rows = json.loads(out.read_text()), json.loads(times.read_text())
    assert table["gpu"] == "Pretended GPU"
    assert set(table["tilings"]) == set(rows)
    for name, choice in table["tilings"].items():
        fastest = min(rows[name], key=lambda row: row["all"])
        assert {key: fastest[key] for key in choice} == choice
        if not name.startswith("heads"):
            # Both differ from what is tried first, by the copy engine and by turns.
            assert "staged" not in choice
    assert any(choice.get("ordered") for choice in table["tilings"].values())


def test_cuts_are_timed_once_and_the_best_in_every_way(timed: list[Any], tmp_path: Path) -> None:
    assert gpu_tune.main(["--models", "small", "--out", str(tmp_path / "tilings.json")]) == 0
    convs = [tiling for tiling in timed if isinstance(tiling, ConvTiling)]
    once = dict.fromkeys(convs)
    # All tiles and the lists of two clouds; no tiling twice.
    assert len(convs) == 3 * len(once)
    layer = [
        tiling for tiling in once if tiling.in_int8 and (tiling.kernel, tiling.slabs * tiling.slab_chunks) == (3, 4)
    ]
    ways: dict[tuple[int, ...], list[ConvTiling]] = {}
    for tiling in layer:
        ways.setdefault(tiling.cut, []).append(tiling)
    refined = [cut for cut, tilings in ways.items() if len(tilings) > 1]
    assert len(refined) == 6
    assert {len(ways[cut]) for cut in refined} == {4}
    worst = max(cost_us(tiling) for cut in refined for tiling in ways[cut][:1])
    assert all(cost_us(ways[cut][0]) >= worst for cut in ways if cut not in refined)
