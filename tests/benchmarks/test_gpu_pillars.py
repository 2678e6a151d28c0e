"""The pillar kernels' roofline, by hand, and the command on a machine without a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from base.errors import BackendUnavailable
from benchmarks import gpu_pillars
from benchmarks.gpu_pillars import MODELS, PillarRow, PillarWork, pillar_work, table
from quant.roofline import DEVICES
from runtime.cuda_engine.checks.cases import engine_spec, random_weights
from runtime.cuda_engine.pillar_parameters import check_encoder


def test_work_by_hand() -> None:
    """Three points in one pillar that keeps two, one in another, one outside."""
    spec = engine_spec(32, max_points_per_voxel=2, encoder_channels=64)
    cloud = np.zeros((5, 5), np.float32)
    cloud[:3, :2], cloud[3, :2], cloud[4, :2] = 0.1, 1.0, 1e6
    one = pillar_work(cloud, spec, random_weights(spec, 0), 1)
    assert one == PillarWork(5, 3, 2, flop=2 * 3 * 11 * 64, bytes=5 * 5 * 4 + 2 * 2 * 64 + 2 * 64 * 4)
    two = pillar_work(cloud, spec, random_weights(spec, 16), 2)
    assert two.flop == 2 * 3 * 11 * 16 + 2 * (3 + 2) * 16 * 64
    assert two.bytes == 5 * 5 * 4 + 2 * 2 * 64 * 2 + 2 * 64 * 4
    computing, traffic = one.bounds_us(DEVICES["h200"])
    assert computing == pytest.approx(4224 / 66.9e6)
    assert traffic == pytest.approx(868 / 4.8e6)


def test_table_says_what_is_faster() -> None:
    work = PillarWork(271_156, 190_000, 36_000, 270_000_000, 24_000_000)
    groups = {"4": (80.0, 30.0), "2": (75.5, 28.0), "8": (90.0, 35.0)}
    text = table([PillarRow("pillar02", "ten sweeps", work, 80.0, 30.0, groups, 5.0, "memory")])
    assert text.splitlines()[2].split("  ")[-1].strip() == "6%"
    assert "80.0 (75.5 by groups of 2)" in text
    assert "5.0 memory" in text
    unknown = table([PillarRow("pillar02", "ten sweeps", work, 80.0, 30.0, {"4": (80.0, 30.0)}, None, None)])
    assert "groups" not in unknown
    assert "%" not in unknown


@pytest.mark.parametrize("name", list(MODELS))
def test_models_are_those_that_the_kernels_take(name: str) -> None:
    case = MODELS[name]
    layers = (case.hidden, case.spec.encoder_channels) if case.hidden else (case.spec.encoder_channels,)
    check_encoder(case.spec, layers, max(case.clouds.values()))
    assert case.spec.grid_size == {"released": (760, 760), "pillar02": (512, 512)}.get(name.split("-")[0], (432, 496))


def test_a_machine_without_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: int) -> None:
        raise BackendUnavailable("No usable CUDA device")

    monkeypatch.setattr("benchmarks.gpu_pillars.CudaDevice.open", refuse)
    assert gpu_pillars.main([]) == 2
    assert "No usable CUDA device" in capsys.readouterr().err
