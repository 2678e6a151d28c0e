"""Training on the device: each part against mmdet3d's or the project's own of one frame, and the command once."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from base.boxes import Boxes3D
from datasets.frames import Frame
from models.build import build_model, load_checkpoint
from models.config import load_model_config
from models.spec import ModelSpec
from runtime.preprocess import voxelize
from training.on_device.augmentation import Augmentation, Moves, draw_moves, move_boxes, move_points
from training.on_device.batches import Batch, make_batch
from training.on_device.dense import Dense
from training.on_device.encoder import PointRows, encode, pillar_rows
from training.on_device.frames import FrameStore, PackedFrame, pack, unpack
from training.on_device.loop import canvas_of
from training.on_device.losses import batch_losses, batch_targets
from training.on_device.pillars import batch_canvas, batch_pillars

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "model" / "centerpoint_t4_demo.py"
CPU = torch.device("cpu")
TARGETS = {"gaussian_overlap": 0.1, "min_radius": 2}


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    torch.set_num_threads(1)
    return ModelSpec.from_config(load_model_config(CONFIG))


def _boxes(rng: np.random.Generator, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    parts = [rng.uniform(-54, 54, (count, 2)), rng.uniform(-2, 2, (count, 1)), rng.uniform(0.3, 12, (count, 3))]
    parts += [rng.uniform(-3.1, 3.1, (count, 1)), rng.normal(0, 5, (count, 2))]
    return np.concatenate(parts, axis=1).astype(np.float32), rng.integers(0, 5, count)


def test_losses_equal_mmdet3ds(spec: ModelSpec) -> None:
    from mmdet3d.structures import LiDARInstance3DBoxes

    head: Any = build_model(load_model_config(CONFIG)).pts_bbox_head
    rng = np.random.default_rng(3)
    boxes, labels = zip(*(_boxes(rng, count) for count in (30, 0, 7)), strict=True)
    generator = torch.Generator().manual_seed(0)
    width, height = spec.head_size
    heads = {h.name: torch.randn(3, h.channels, height, width, generator=generator) for h in spec.heads}
    found = batch_losses(
        heads,
        batch_targets(boxes, labels, spec, head.train_cfg, CPU),
        torch.tensor(head.train_cfg["code_weights"]),
        head.loss_bbox.loss_weight,
    )
    instances = [
        SimpleNamespace(
            bboxes_3d=LiDARInstance3DBoxes(torch.from_numpy(box), box_dim=9, origin=(0.5, 0.5, 0.5)),
            labels_3d=torch.from_numpy(label),
        )
        for box, label in zip(boxes, labels, strict=True)
    ]
    wanted = head.loss_by_feat(([{k: v.clone() for k, v in heads.items()}],), instances)
    assert found[0].item() == pytest.approx(wanted["task0.loss_heatmap"].item(), rel=1e-5)
    assert found[1].item() == pytest.approx(wanted["task0.loss_bbox"].item(), rel=1e-5)


def test_unknown_velocities_are_not_learned(spec: ModelSpec) -> None:
    width, height = spec.head_size
    heads = {h.name: torch.randn(1, h.channels, height, width) for h in spec.heads}
    known, labels = _boxes(np.random.default_rng(0), 40)
    unknown = known.copy()
    unknown[:, 7:9] = np.nan
    ones, without = torch.ones(10), torch.tensor([1.0] * 8 + [0.0] * 2)
    first = batch_losses(heads, batch_targets([unknown], [labels], spec, TARGETS, CPU), ones, 1.0)
    second = batch_losses(heads, batch_targets([known], [labels], spec, TARGETS, CPU), without, 1.0)
    assert first[1].item() == pytest.approx(second[1].item(), rel=1e-6)


def test_pillars_of_a_batch_are_those_of_its_frames(spec: ModelSpec) -> None:
    rng = np.random.default_rng(5)
    clouds = [np.column_stack([rng.normal(0, 15, (n, 2)), rng.normal(0, 1, (n, 3))]) for n in (4000, 0, 900)]
    clouds = [cloud.astype(np.float32) for cloud in clouds]
    which = np.repeat(np.arange(3), [len(cloud) for cloud in clouds])
    pillars = batch_pillars(torch.from_numpy(np.concatenate(clouds)), torch.from_numpy(which), spec)
    canvas = batch_canvas(pillars.points[:, 0], pillars.coords, 3, spec)
    for index, cloud in enumerate(clouds):
        alone = voxelize(cloud, spec)
        order = np.lexsort(alone.coords.T[::-1])
        mine = pillars.coords[:, 0] == index
        np.testing.assert_array_equal(pillars.coords[mine, 1:], alone.coords[order])
        np.testing.assert_array_equal(pillars.points[mine], alone.points[order])
        np.testing.assert_array_equal(pillars.num_points[mine], alone.num_points[order])
        for (_, y, x), first in zip(alone.coords[:50], alone.points[:50, 0], strict=True):
            np.testing.assert_array_equal(canvas[index, :, y, x], first)


def test_rows_of_points_encode_as_padded_pillars(spec: ModelSpec) -> None:
    """mmdet3d's encoder, in training: features, gradients and running statistics."""
    rng = np.random.default_rng(8)
    cloud = np.column_stack([rng.normal(0, 2, (600, 2)), rng.normal(0, 1, (600, 3))]).astype(np.float32)
    cloud[:50] = cloud[0]  # a pillar that overflows, of equal points
    which = torch.from_numpy(np.repeat([0, 1], 300))
    pillars = batch_pillars(torch.from_numpy(cloud), which, spec)
    assert int(pillars.num_points.max()) == spec.max_points_per_voxel
    model: Any = build_model(load_model_config(CONFIG)).train()
    peer = model.pts_voxel_encoder
    mine = copy.deepcopy(peer)
    rows = pillar_rows(pillars, mine)
    assert rows is not None
    assert len(rows.features) == int(pillars.num_points.sum()) + len(pillars.coords)
    wanted = peer(pillars.points.clone(), pillars.num_points, pillars.coords)
    found = encode(mine, rows)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    pull = torch.from_numpy(rng.normal(size=tuple(wanted.shape)).astype(np.float32))
    for features in (wanted, found):
        (features * pull).sum().backward()
    for (name, theirs), own in zip(peer.named_parameters(), mine.parameters(), strict=True):
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(own.grad / scale, theirs.grad / scale, rtol=0, atol=2e-4, msg=name)
    for (name, theirs), own in zip(peer.named_buffers(), mine.buffers(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("change", [{"legacy": True}, {"with_distance": True}, {"mode": "avg"}])
def test_other_encoders_keep_their_padded_pillars(spec: ModelSpec, change: dict[str, Any]) -> None:
    cfg = load_model_config(CONFIG)
    cfg.model.pts_voxel_encoder.update(change)
    model: Any = build_model(cfg).train()
    pillars = batch_pillars(torch.randn(40, 5), torch.zeros(40, dtype=torch.int64), spec)
    assert pillar_rows(pillars, model.pts_voxel_encoder) is None
    targets = batch_targets([np.zeros((0, 9), np.float32)], [np.zeros(0, np.int64)], spec, TARGETS, CPU)
    assert canvas_of(model, Batch(pillars, targets, 1), spec).shape == (1, 32, *spec.grid_size)


def test_the_dense_part_is_the_networks_own() -> None:
    model: Any = build_model(load_model_config(CONFIG)).train()
    canvas = torch.randn(1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    found, half = Dense(model)(canvas), Dense(model)(canvas.bfloat16())
    ((wanted,),) = model.pts_bbox_head(model.pts_neck(model.pts_backbone(canvas)))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values)
        assert half[name].dtype == torch.float32
        assert 0 < float((half[name] - values).detach().abs().mean()) < 0.15 * float(values.detach().std())


def test_augmentation_fades_over_the_last_share() -> None:
    whole = Augmentation(scale=0.1, shift_m=(0.4, 0.4, 0.2), intensity=0.2)
    assert whole.faded(79, 100, 0.2) == whole
    assert whole.faded(99, None, 0.2) == whole
    half = whole.faded(90, 100, 0.2)
    assert [half.scale, half.intensity] == pytest.approx([0.05, 0.1])
    assert half.shift_m == pytest.approx((0.2, 0.2, 0.1))
    assert (half.turn_rad, half.single_sweep) == (whole.turn_rad, whole.single_sweep)


def test_points_stay_in_their_moved_boxes() -> None:
    rng = np.random.default_rng(1)
    moves = draw_moves(rng, 6, Augmentation(single_sweep=0.5))
    assert moves.mirrored.any()
    assert not moves.mirrored.all()
    for index in range(6):
        boxes, _ = _boxes(rng, 1)
        local = rng.uniform(-0.5, 0.5, (50, 3)).astype(np.float32)
        ahead = _in_world(boxes[0], local)
        # A wheel's worth ahead of the centre tells front from back.
        nose = _in_world(boxes[0], np.array([[0.5, 0.0, 0.0]]))
        points = np.column_stack([np.vstack([ahead, nose]), np.ones(51), np.zeros(51)]).astype(np.float32)
        clouds = [torch.zeros((0, 5))] * 6
        clouds[index] = torch.from_numpy(points)
        moved, kept = move_points(clouds, moves)
        box = move_boxes(boxes, moves, index)[0]
        back = _in_box(box, moved.numpy()[:, :3])
        assert kept.tolist() == [index] * 51
        assert np.abs(back).max() < 0.5 + 1e-4
        np.testing.assert_allclose(back[-1], [0.5, 0.0, 0.0], atol=1e-4)
        if not moves.single[index]:
            speed = np.hypot(*boxes[0, 7:9]) * moves.scale[index]
            assert np.hypot(*box[7:9]) == pytest.approx(speed, rel=1e-4)


def _in_world(box: np.ndarray[Any, Any], local: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    cos, sin = np.cos(box[6]), np.sin(box[6])
    size = local * box[3:6]
    return np.asarray(
        np.column_stack([size[:, 0] * cos - size[:, 1] * sin, size[:, 0] * sin + size[:, 1] * cos, size[:, 2]])
        + box[:3]
    )


def _in_box(box: np.ndarray[Any, Any], points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    cos, sin = np.cos(box[6]), np.sin(box[6])
    apart = points - box[:3]
    turned = [apart[:, 0] * cos + apart[:, 1] * sin, -apart[:, 0] * sin + apart[:, 1] * cos, apart[:, 2]]
    return np.asarray(np.column_stack(turned) / box[3:6])


def test_single_sweeps_lose_points_with_a_time_lag_and_velocities(spec: ModelSpec) -> None:
    near, far = np.array([[1.0, 2.0, 0.0, 9.0, 0.1], [1.0, 2.0, 0.0, 9.0, 0.0]]), np.zeros((0, 5))
    box = np.array([[1.0, 2.0, 0.0, 4.0, 2.0, 1.5, 0.0, 3.0, 0.0]], np.float32)
    frames = [
        pack(
            Frame("a", "b", 0.0, points.astype(np.float32), Boxes3D(box, np.ones(1, np.float32), np.zeros(1, np.int64)))
        )
        for points in (near, far)
    ]
    encoder: Any = build_model(load_model_config(CONFIG)).pts_voxel_encoder
    rows = {}
    for share in (0.0, 1.0):
        settings = Augmentation(scale=0.0, shift_m=(0.0, 0.0, 0.0), single_sweep=share)
        store = FrameStore([frames], [1.0], CPU, 0)
        batch = make_batch(store, 2, np.random.default_rng(0), settings, spec, TARGETS, encoder)
        assert isinstance(batch.pillars, PointRows)
        rows[share] = batch.pillars.features[batch.pillars.weight[:, 0] == 1][:, 4].tolist()
        assert torch.isnan(batch.targets.values[:, 8:]).all() == (share == 1.0)
    assert rows[0.0] == pytest.approx([0.0, 0.1])
    assert rows[1.0] == [0.0]
    moves = draw_moves(np.random.default_rng(0), 1, Augmentation(single_sweep=1.0))
    assert np.isnan(move_boxes(np.ones((1, 9), np.float32), moves, 0)[0, 7:]).all()


def test_no_augmentation_changes_nothing() -> None:
    still = Moves(
        np.tile(np.eye(2, dtype=np.float32), (1, 1, 1)), np.zeros(1, bool), np.ones(1, np.float32),
        np.zeros((1, 3), np.float32), np.ones(1, np.float32), np.zeros(1, bool),
    )  # fmt: skip
    points = torch.randn(20, 5)
    moved, _ = move_points([points], still)
    torch.testing.assert_close(moved, points)


def test_packed_points_are_close(tmp_path: Path) -> None:
    codes = np.array([[400, -800, 12, 128, 200]], np.int16)
    frame = PackedFrame(codes, np.zeros((0, 9), np.float32), np.zeros(0, np.int64))
    np.testing.assert_allclose(unpack(torch.from_numpy(frame.points))[0], [1.0, -2.0, 0.03, 2.0, 0.1], rtol=1e-6)


@pytest.fixture
def street(tmp_path: Path) -> Path:
    from datasets.synthetic import DatasetConfig, generate

    generate(DatasetConfig({"train": 1}, 1, beams=64), tmp_path / "street", workers=1)
    return tmp_path / "street"


def test_the_command_trains(street: Path, tmp_path: Path) -> None:
    from training.on_device.__main__ import main

    output = tmp_path / "trained.pth"
    arguments = [str(CONFIG), "--data-root", str(street), "--output", str(output), "--device", "cpu"]
    assert main([*arguments, "--iterations", "3", "--batch-size", "1", "--log-interval", "1", "--workers", "1"]) == 0
    rows = [json.loads(line) for line in output.with_suffix(".log.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert rows[-1]["heatmap_loss"] < rows[0]["heatmap_loss"]
    load_checkpoint(build_model(load_model_config(CONFIG)), output)
    assert output.stat().st_size < 12e6


def test_the_command_puts_objects_into_frames(street: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from training.on_device.__main__ import main

    options = [str(CONFIG), "--data-root", str(street), "--iterations", "1", "--batch-size", "2", "--device", "cpu"]
    options += ["--workers", "1", "--log-interval", "1"]
    losses = {}
    for name, more in (("plain", []), ("pasted", ["--paste", "car=5", "pedestrian=5"])):
        assert main([*options, *more, "--output", str(tmp_path / f"{name}.pth")]) == 0
        losses[name] = json.loads((tmp_path / f"{name}.log.jsonl").read_text())["heatmap_loss"]
    assert losses["pasted"] != losses["plain"]
    assert "objects to put into frames" in caplog.text


def test_shares_are_one_for_each_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.on_device.__main__ import main

    arguments = [str(CONFIG), "--data-root", "a", "b", "--share", "1", "--output", str(tmp_path / "x.pth")]
    assert main(arguments) == 2
    assert "--share has 1 values for 2 --data-root" in capsys.readouterr().err
