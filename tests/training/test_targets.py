"""The numpy targets against mmdet3d's own, box for box."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from models.build import build_model
from models.config import load_model_config
from training.targets import use_numpy_targets

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "model" / "centerpoint_t4_demo.py"


def _instances(boxes: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> SimpleNamespace:
    from mmdet3d.structures import LiDARInstance3DBoxes

    tensor = torch.from_numpy(boxes)
    return SimpleNamespace(
        bboxes_3d=LiDARInstance3DBoxes(tensor, box_dim=9, origin=(0.5, 0.5, 0.5)), labels_3d=torch.from_numpy(labels)
    )


@pytest.fixture(scope="module")
def heads() -> tuple[Any, Any]:
    torch.set_num_threads(1)
    stock, ours = (build_model(load_model_config(CONFIG)).pts_bbox_head for _ in range(2))
    use_numpy_targets(ours)
    return stock, ours


@pytest.mark.parametrize(("seed", "count"), [(0, 40), (1, 200), (2, 1), (3, 0)])
def test_targets_equal_the_stock_head(heads: tuple[Any, Any], seed: int, count: int) -> None:
    stock, ours = heads
    boxes, labels = _boxes(seed, count)
    expected = stock.get_targets_single(_instances(boxes, labels))
    found = ours.get_targets_single(_instances(boxes, labels))
    names = ("heatmap", "regression", "index", "mask")
    for name, (want,), (have,) in zip(names, expected, found, strict=True):
        assert have.dtype == want.dtype, name
        np.testing.assert_allclose(have.numpy(), want.numpy(), rtol=1e-5, atol=1e-5, err_msg=name)
    assert int(found[3][0].sum()) <= count


def _boxes(seed: int, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    boxes = np.concatenate(
        [
            rng.uniform(-54, 54, (count, 2)),  # some outside the grid of 51.2 m
            rng.uniform(-2, 2, (count, 1)),
            rng.uniform(0.3, 12, (count, 3)),
            rng.uniform(-4, 4, (count, 1)),
            rng.normal(0, 5, (count, 2)),
        ],
        axis=1,
    ).astype(np.float32)
    return boxes, rng.integers(0, 5, count)


def test_targets_of_several_tasks_equal_the_stock_heads() -> None:
    cfg = load_model_config(CONFIG)
    names = cfg.model.pts_bbox_head.tasks[0].class_names
    cfg.model.pts_bbox_head.tasks = [{"num_class": len(part), "class_names": part} for part in (names[:2], names[2:])]
    stock, ours = (cast(Any, build_model(cfg)).pts_bbox_head for _ in range(2))
    use_numpy_targets(ours)
    for seed in range(2):
        boxes, labels = _boxes(seed, 60)
        expected = stock.get_targets_single(_instances(boxes, labels))
        found = ours.get_targets_single(_instances(boxes, labels))
        for want, have in zip(expected, found, strict=True):
            assert len(want) == len(have) == 2
            for a, b in zip(want, have, strict=True):
                np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-5, atol=1e-5)
