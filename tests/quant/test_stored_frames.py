"""Stored calibration frames: what was written comes back; anything else is no file of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from base.errors import CheckpointError, DataError
from quant.calibration import CalibrationFrame
from quant.stored_frames import StoredFrames


def _canvas() -> torch.Tensor:
    canvas = torch.zeros(1, 2, 3, 4)
    canvas[0, :, 1, 2] = torch.tensor([1.5, -2.0])
    return canvas


def test_frames_come_back(tmp_path: Path) -> None:
    StoredFrames([_canvas(), torch.zeros(1, 2, 3, 4)], 2).save(tmp_path / "frames.pt")
    loaded = StoredFrames.load(tmp_path / "frames.pt")
    assert [frame.token for frame in loaded] == ["batch 0", "batch 1"]
    assert torch.equal(loaded[0].canvas, _canvas())
    assert not loaded[1].canvas.any()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_processes_read_what_one_reads(tmp_path: Path, workers: int, count: int) -> None:
    rng = torch.Generator().manual_seed(0)
    canvases = [
        torch.randn(1, 2, 3, 4, generator=rng) * (torch.rand(1, 1, 3, 4, generator=rng) < 0.4) for _ in range(7)
    ]
    frames = [CalibrationFrame(f"frame {index}", canvas) for index, canvas in enumerate(canvases)]
    threads = torch.get_num_threads()
    StoredFrames.read(frames, count, workers).save(tmp_path / "read.pt")
    StoredFrames(frames, count).save(tmp_path / "stored.pt")
    assert (tmp_path / "read.pt").read_bytes() == (tmp_path / "stored.pt").read_bytes()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_tell_what_is_no_canvas(workers: int) -> None:
    with pytest.raises(DataError, match=r"'batch 1' is \(2, 3\); a canvas"):
        StoredFrames.read([_canvas(), torch.zeros(2, 3)], 2, workers)
    with pytest.raises(DataError, match="the batches are empty"):
        StoredFrames.read([], 2, workers)
    with pytest.raises(DataError, match="num_calibration_batches is 0"):
        StoredFrames.read([_canvas()], 0, workers)


GOOD = ("a", (1, 2, 3, 4), torch.tensor([6]), torch.ones(2, 1))


def test_a_row_as_it_should_be(tmp_path: Path) -> None:
    torch.save({"frames": [GOOD]}, tmp_path / "frames.pt")
    assert StoredFrames.load(tmp_path / "frames.pt")[0].canvas.sum() == 2.0


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"frames": 3},
        {"frames": [GOOD, None]},
        {"frames": [("a", (1, 2, 3, 4), torch.tensor([12]), torch.ones(2, 1))]},
        {"frames": [("a", (1, 2, 3, 4), torch.tensor([-1]), torch.ones(2, 1))]},
        {"frames": [("a", (1, 2, 3, 4), torch.tensor([6.0]), torch.ones(2, 1))]},
        {"frames": [("a", (1, 2, 3, 4), torch.tensor([6]), torch.ones(2, 2))]},
        {"frames": [("a", (1, 3, 3, 4), torch.tensor([6]), torch.ones(2, 1))]},
        {"frames": [("a", (1, 2, 1 << 20, 1 << 20), torch.tensor([6]), torch.ones(2, 1))]},
        {"frames": [("a", (1, 1 << 30, 3, 4), torch.tensor([], dtype=torch.int64), torch.ones(1 << 30, 0))]},
        {"frames": [("a", (1, -2, -3, 4), torch.tensor([6]), torch.ones(2, 1))]},
        {"frames": [(7, (1, 2, 3, 4), torch.tensor([6]), torch.ones(2, 1))]},
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "frames.pt")
    with pytest.raises(CheckpointError, match=r"frames\.pt' holds no calibration frames"):
        StoredFrames.load(tmp_path / "frames.pt")
