"""The CPU table: contenders in processes of their own that take turns, and one that cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cpu import Contender, CpuRow, main, measure
from export.onnx_export import export_components
from models.build import build_model
from models.config import load_model_config
from models.spec import ModelSpec

CONFIG = Path(__file__).parents[1] / "data" / "deploy" / "tiny_centerpoint.py"


@pytest.fixture(scope="module")
def onnx_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    cfg = load_model_config(CONFIG)
    export_components(build_model(cfg, seed=0), ModelSpec.from_config(cfg), folder)
    return folder


def test_contenders_take_turns_and_one_is_skipped(onnx_dir: Path, tmp_path: Path) -> None:
    contenders = (Contender("onnx", "fp32"), Contender("onnx", "int8"))
    cloud = np.zeros((5, 5), np.float32)
    folders = {"fp32": onnx_dir, "int8": tmp_path}
    ran, skipped = measure(CONFIG, None, folders, [cloud], threads=1, rounds=2, contenders=contenders)
    assert list(ran.stages_ms)[-1] == "total"
    assert sum(list(ran.stages_ms.values())[:-1]) <= ran.stages_ms["total"] * 1.01
    assert ran.ratio == 1.0
    assert isinstance(skipped, CpuRow)
    assert "pts_voxel_encoder.onnx" in skipped.skipped
    assert skipped.stages_ms == {}


def test_mixed_files_are_timed_where_they_are_named_and_left_out_elsewhere(onnx_dir: Path) -> None:
    contenders = (Contender("onnx", "fp32"), Contender("onnx", "mixed"))
    cloud = np.zeros((5, 5), np.float32)
    folders = {"fp32": onnx_dir, "mixed": onnx_dir}
    both = measure(CONFIG, None, folders, [cloud], threads=1, rounds=1, contenders=contenders)
    assert [row.contender for row in both] == list(contenders)
    assert all(row.stages_ms["total"] > 0 for row in both)
    (alone,) = measure(CONFIG, None, {"fp32": onnx_dir}, [cloud], threads=1, rounds=1, contenders=contenders)
    assert alone.contender == contenders[0]


@pytest.mark.parametrize("mixed", [False, True])
def test_the_command_hands_on_the_folders_that_it_is_given(
    onnx_dir: Path, monkeypatch: pytest.MonkeyPatch, mixed: bool
) -> None:
    seen: list[dict[str, Path]] = []

    def fake(_: Path, checkpoint: Path | None, folders: dict[str, Path], *__: object, **___: object) -> object:
        assert checkpoint is None
        seen.append(folders)
        return (CpuRow(Contender("onnx", "fp32"), {"total": 2.0}, 1.0),)

    monkeypatch.setattr("benchmarks.cpu.measure", fake)
    folder = str(onnx_dir)
    more = ["--mixed", folder] if mixed else []
    assert main(["--model-config", str(CONFIG), "--fp32", folder, "--int8", folder, "--points=50", *more]) == 0
    assert seen == [dict.fromkeys(["fp32", "int8", *(["mixed"] if mixed else [])], onnx_dir)]


def test_the_command_writes_what_it_prints(
    onnx_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "benchmarks.cpu.measure", lambda *_, **__: (CpuRow(Contender("onnx", "fp32"), {"total": 2.0}, 1.0),)
    )
    out = tmp_path / "cpu.json"
    folder = str(onnx_dir)
    assert main(["--model-config", str(CONFIG), "--fp32", folder, "--int8", folder, "--points=50", f"--out={out}"]) == 0
    document = json.loads(out.read_text())
    assert document["rows"][0]["stages_ms"] == {"total": 2.0}
    assert "onnx fp32" in capsys.readouterr().out
