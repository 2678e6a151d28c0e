"""The latency benchmark counts what it says it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from benchmarks import latency
from runtime.counts import VoxelCounts
from runtime.decoders import TRAINING_DECODER
from runtime.detector import Detector, Inference
from tests.eval.toy_detector import make_spec

CONFIG = Path(__file__).parents[1] / "data" / "deploy" / "tiny_deployment.py"


class Recorded(Detector):
    """A detector whose n-th frame takes n milliseconds by its own account."""

    def __init__(self) -> None:
        super().__init__(make_spec(), "onnx", "cpu", TRAINING_DECODER)
        self.seen: list[int] = []

    def detect(self, points: NDArray[Any]) -> Inference:
        self.seen.append(len(points))
        count = float(len(self.seen))
        return Inference(Boxes3D.empty(), {}, {"preprocess": count}, count, VoxelCounts())


def test_warm_up_is_left_out_and_frames_repeat() -> None:
    pipeline = Recorded()
    clouds = [np.zeros((size, 5), np.float32) for size in (1, 2, 3)]
    run = latency.measure(pipeline, clouds, frames=5, warmup=2)
    assert pipeline.seen == [1, 2, 3, 1, 2, 3, 1]
    assert run.first_frame_ms == 1.0
    assert run.stages["total"].count == 5
    assert (run.stages["total"].min, run.stages["total"].p50, run.stages["total"].max) == (3.0, 5.0, 7.0)
    assert run.frames_per_second > 0
    assert "5 frames after 2 of warm-up" in run.table()


def test_wrong_counts() -> None:
    with pytest.raises(ConfigError, match="frames is 0 and warmup 2; give at least 1 and 0"):
        latency.measure(Recorded(), [], frames=0, warmup=2)
    with pytest.raises(DataError, match="there are no frames to measure on"):
        latency.measure(Recorded(), [], frames=1, warmup=2)


def test_no_dataset_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CENTERPOINT_DEMO_DATA", raising=False)
    assert latency.main(["--model-config", str(CONFIG), "--checkpoint", "none.pth"]) == 2
    assert "none.pth" in capsys.readouterr().err


def test_a_backend_that_cannot_run_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    from models.build import build_model
    from models.config import load_model_config

    model = build_model(load_model_config(CONFIG), seed=1)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "c.pth")
    rng = np.random.default_rng(0)
    clouds = [rng.uniform(-4, 4, (200, 5)).astype(np.float32)]
    monkeypatch.setattr(latency, "_clouds", lambda args, cfg: clouds)
    out = tmp_path / "latency.json"
    files = ["--model-config", str(CONFIG), "--checkpoint", str(tmp_path / "c.pth"), "--out", str(out)]
    counts = ["--frames", "3", "--warmup", "1"]
    code = latency.main([*files, *counts, "--backends", "pytorch", "tensorrt", "--device", "cpu"])
    assert code == 0
    report = json.loads(out.read_text())
    assert [run["backend"] for run in report["runs"]] == ["pytorch"]
    assert report["runs"][0]["stages"]["backbone_neck_head"]["count"] == 3
    assert report["runs"][0]["machine"]["cpu_cores"] >= 1
    assert report["skipped"] == {"tensorrt": "no engines were given; use --engine-path"}
    assert "torch" in report["versions"]
    assert "tensorrt: SKIPPED, no engines were given" in capsys.readouterr().out
