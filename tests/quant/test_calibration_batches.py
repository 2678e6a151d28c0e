"""Calibration frames: which ones, and that their canvases are mmdet3d's own."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from base.checks import checking
from base.errors import ConfigError, DataError
from datasets.frames import open_frames
from datasets.synthetic.dataset_writer import DatasetConfig, generate
from quant.calibration.batches import (
    CalibrationFrame,
    calibration_batches,
    dataloader_batches,
    evenly_spaced,
    frames_of,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("t4") / "data"
    generate(DatasetConfig({"train": 2, "val": 1}, frames_per_scene=3, seed=4, sweeps=2), root, workers=1)
    return str(root)


@pytest.mark.parametrize(
    ("total", "wanted", "expected"),
    [(6, 2, (1, 4)), (10, 5, (1, 3, 5, 7, 9)), (3, 3, (0, 1, 2)), (2, 9, (0, 1)), (7, 1, (3,)), (0, 4, ())],
)
def test_evenly_spaced(total: int, wanted: int, expected: tuple[int, ...]) -> None:
    assert evenly_spaced(total, wanted) == expected


def test_frames_of_the_training_split(demo_cfg: Any, trained_demo_model: nn.Module, dataset: str) -> None:
    batches = calibration_batches(demo_cfg, data_root=dataset, max_frames=2, model=trained_demo_model)
    source = open_frames(demo_cfg, "train", dataset)
    frames = list(batches)
    assert [frame.token for frame in frames] == [source[1].token, source[4].token]
    assert len(calibration_batches(demo_cfg, data_root=dataset, model=trained_demo_model)) == 6
    assert [frame.token for frame in batches[1:]] == [frames[1].token]
    assert torch.equal(batches[-1].canvas, frames[1].canvas)
    for frame in frames:
        assert frame.canvas.shape == (1, 32, 320, 320)
        assert frame.canvas.dtype == torch.float32
        assert bool((frame.canvas != 0).any())


def test_canvases_are_mmdet3ds(demo_cfg: Any, trained_demo_model: nn.Module, dataset: str) -> None:
    """The same frames through mmdet3d's own data preprocessor, voxel encoder and scatter, in one batch of two."""
    batches = list(calibration_batches(demo_cfg, data_root=dataset, max_frames=2, model=trained_demo_model))
    source = open_frames(demo_cfg, "train", dataset)
    points = [torch.from_numpy(source[index].points) for index in (1, 4)]

    class Sample:
        def __init__(self, token: str) -> None:
            self.metainfo = {"token": token}

    loader = [{"inputs": {"points": points}, "data_samples": [Sample(frame.token) for frame in batches]}]
    stock = list(dataloader_batches(trained_demo_model, loader))
    assert [frame.token for frame in stock] == [frame.token for frame in batches]
    for ours, theirs in zip(batches, stock, strict=True):
        torch.testing.assert_close(ours.canvas, theirs.canvas, rtol=1e-5, atol=1e-5)


def test_batches_of_mmdet3d_are_counted_as_batches(demo_cfg: Any, trained_demo_model: nn.Module, dataset: str) -> None:
    """A data loader's, and a list's; of an iterator the frames are counted. None is read before it is asked for."""
    from torch.utils.data import DataLoader

    source = open_frames(demo_cfg, "train", dataset)
    points = [torch.from_numpy(source[index].points) for index in range(3)]
    read: list[int] = []

    class Clouds(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return points[index]

    def batch(clouds: list[Any]) -> dict[str, Any]:
        return {"inputs": {"points": clouds}, "data_samples": [None] * len(clouds)}

    single = [frame.canvas for frame in dataloader_batches(trained_demo_model, [batch(points[:2])])]
    loader: Any = DataLoader(Clouds(), batch_size=2, collate_fn=batch)
    for batches, count in (
        (loader, 2),
        ([batch(points[:2]), batch(points[2:])], 2),
        (iter([batch(points[:2])]), 1),
    ):
        frames, number = frames_of(trained_demo_model, batches, 1)
        assert number == count
        assert read == []
        found = list(frames)
        read.clear()
        assert len(found) == 2
        assert all(torch.equal(frame.canvas, canvas) for frame, canvas in zip(found, single, strict=True))
    own = [CalibrationFrame("a", single[0])]
    assert frames_of(trained_demo_model, own, 5) == (own, 5)


def test_the_evaluation_split_is_warned_about(
    demo_cfg: Any, trained_demo_model: nn.Module, dataset: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="quant.calibration.batches"):
        assert len(calibration_batches(demo_cfg, data_root=dataset, model=trained_demo_model)) == 6
        assert not caplog.records
        assert len(calibration_batches(demo_cfg, "val", dataset, model=trained_demo_model)) == 3
    assert "Calibrating on split 'val', not on 'train'" in caplog.text


def test_an_empty_frame_has_an_empty_canvas(
    demo_cfg: Any, trained_demo_model: nn.Module, dataset: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = copy.deepcopy(demo_cfg)
    # A range without points, of the same number of cells.
    far = [5000.0, 5000.0, -3.0, 5102.4, 5102.4, 5.0]
    for part in (
        cfg.model.data_preprocessor.voxel_layer,
        cfg.model.pts_voxel_encoder,
    ):
        part.point_cloud_range = far
    cfg.model.pts_bbox_head.bbox_coder.pc_range = far[:2]
    # The pipeline still filters by the demo's own range.
    with checking(accepted=["range-filter"]):
        frame = calibration_batches(cfg, data_root=dataset, max_frames=1, model=trained_demo_model)[0]
    assert not bool(frame.canvas.any())
    assert frame.canvas.shape == (1, 32, 320, 320)
    assert "has no point in the model's range" in caplog.text


def test_bad_input(demo_cfg: Any, trained_demo_model: nn.Module, dataset: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Zero calibration frames: max_frames is 0"):
        calibration_batches(demo_cfg, data_root=dataset, max_frames=0, model=trained_demo_model)
    with pytest.raises(DataError):
        calibration_batches(demo_cfg, data_root=str(tmp_path), model=trained_demo_model)
    with pytest.raises(ConfigError, match="no split 'tset'"):
        calibration_batches(demo_cfg, "tset", dataset, model=trained_demo_model)
    with pytest.raises(
        DataError, match=r"Batch 0 of the calibration data loader is a Tensor without .*CalibrationFrame"
    ):
        next(dataloader_batches(trained_demo_model, [torch.zeros(1)]))
    with pytest.raises(ConfigError, match="Identity has no 'data_preprocessor'"):
        next(dataloader_batches(nn.Identity(), []))
    assert CalibrationFrame("a", torch.zeros(1)).token == "a"
