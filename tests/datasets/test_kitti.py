"""KITTI data through our frames: boxes, points and crops against mmdet3d's own classes and functions."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from base.errors import ConfigError, DataError
from datasets.create_kitti_infos import KITTI_CLASSES, main
from datasets.frames import open_frames
from datasets.kitti_files import read_calibration, read_labels, read_raw_calibration
from datasets.kitti_geometry import camera_to_lidar, in_view
from tests.datasets.kitti_shaped import (
    OBJECTS,
    P2,
    SIZE,
    lidar_to_camera,
    scan,
    write_object,
    write_raw,
    write_raw_calibration,
    write_sequence,
    write_tracking,
)
from third_party import mmcv_ext

mmcv_ext.install()

import torch  # noqa: E402
from mmdet3d.datasets import KittiDataset  # noqa: E402
from mmdet3d.structures import Box3DMode, CameraInstance3DBoxes  # noqa: E402

CLASSES = ["Pedestrian", "Cyclist", "Car"]


def config(root: Path, info: str = "kitti_infos_val.pkl", classes: list[str] | None = None, **dataset: Any) -> Config:
    pipeline = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 4, "use_dim": 4},
        {"type": "PointsRangeFilter", "point_cloud_range": [-70, -40, -5, 70.4, 40, 8]},
        {"type": "Pack3DDetInputs", "keys": ["points"]},
    ]
    values = {
        "type": "KittiDataset",
        "data_root": str(root),
        "ann_file": info,
        "pipeline": pipeline,
        "metainfo": {"classes": classes or CLASSES},
        "modality": {"use_lidar": True, "use_camera": False},
        "data_prefix": {"pts": "training/velodyne"},
        "test_mode": True,
        "box_type_3d": "LiDAR",
        **dataset,
    }
    return Config({"val_dataloader": {"dataset": values}})


def theirs(cfg: Config) -> Any:
    values = copy.deepcopy(cfg.val_dataloader.dataset.to_dict())
    values.pop("type")
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        return KittiDataset(**values, load_eval_anns=True)


def own_file(root: Path) -> None:
    """An info file as mmdet3d's `create_data.py` writes it, by hand."""
    data_list = []
    for index, lines in enumerate(OBJECTS):
        instances = []
        for line in lines:
            kind, *rest = line.split()
            values = [float(word) for word in rest]
            label = KITTI_CLASSES.index(kind) if kind in KITTI_CLASSES else -1
            height, width, length = values[7:10]
            instances.append(
                {
                    "bbox": values[3:7],
                    "bbox_label": label,
                    "bbox_3d": [*values[10:13], length, height, width, values[13]],
                    "bbox_label_3d": label,
                    "num_lidar_pts": -1 if kind == "DontCare" else 20 * index,
                    "difficulty": 0,
                    "index": 0,
                    "group_id": 0,
                    "score": 0.0,
                }
            )
        camera = {"cam2img": P2.tolist(), "height": SIZE[1], "width": SIZE[0], "lidar2cam": lidar_to_camera().tolist()}
        camera["cam2img"] = [*P2.tolist(), [0.0, 0.0, 0.0, 1.0]]
        data_list.append(
            {
                "sample_idx": index + 7,
                "images": {"CAM2": camera, "R0_rect": np.eye(4).tolist()},
                "lidar_points": {"num_pts_feats": 4, "lidar_path": f"{index + 7:06d}.bin"},
                "instances": instances,
            }
        )
    categories = {**{name: label for label, name in enumerate(KITTI_CLASSES)}, "DontCare": -1}
    content = {"metainfo": {"categories": categories, "dataset": "kitti", "info_version": "1.1"}}
    (root / "kitti_infos_val.pkl").write_bytes(pickle.dumps({**content, "data_list": data_list}))


def written(root: Path, *options: str) -> Path:
    assert main(["--root", str(root), "--log-level=WARNING", *options]) == 0
    return root


@pytest.mark.parametrize("classes", [CLASSES, ["Tram", "Car", "Person_sitting"]])
@pytest.mark.parametrize("by_hand", [True, False], ids=["mmdet3d's file", "our file"])
def test_frames_are_those_of_mmdet3d(tmp_path: Path, classes: list[str], by_hand: bool) -> None:
    root = write_object(tmp_path)
    if by_hand:
        own_file(root)
    else:
        written(root)
    cfg = config(root, classes=classes)
    frames, peer = open_frames(cfg), theirs(cfg)
    assert len(frames) == len(peer) == 2
    assert frames.class_names == tuple(classes)
    found = 0
    for index, frame in enumerate(frames):
        packed = peer.prepare_data(index)
        truth = peer.get_data_info(index)["eval_ann_info"]
        np.testing.assert_array_equal(frame.points, packed["inputs"]["points"].numpy())
        boxes = truth["gt_bboxes_3d"]
        assert len(frame.ground_truth) == len(boxes)
        np.testing.assert_allclose(frame.ground_truth.boxes[:, :3], boxes.gravity_center.numpy(), atol=1e-5)
        np.testing.assert_allclose(frame.ground_truth.boxes[:, 3:7], boxes.tensor[:, 3:7].numpy(), atol=1e-6)
        assert np.isnan(frame.ground_truth.boxes[:, 7:]).all()
        assert frame.ground_truth.labels.tolist() == truth["gt_labels_3d"].tolist()
        assert frame.token == f"{index + 7:06d}"
        found += len(boxes)
    # mmdet3d knows no Person, which our command counts as Person_sitting.
    assert found == (2 if classes is CLASSES else (2 if by_hand else 3))


def test_boxes_turn_as_mmdet3d_turns_them() -> None:
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.uniform(-40, 70, (500, 3)), rng.uniform(0.5, 5, (500, 3)), rng.uniform(-9, 9, 500)])
    expected = CameraInstance3DBoxes(torch.tensor(boxes)).convert_to(Box3DMode.LIDAR, np.linalg.inv(lidar_to_camera()))
    ours = camera_to_lidar(boxes, lidar_to_camera())
    np.testing.assert_allclose(ours[:, :3], expected.gravity_center.numpy(), atol=3e-5)
    np.testing.assert_allclose(ours[:, 3:], expected.tensor[:, 3:].numpy(), atol=1e-5)


def test_the_crop_is_that_of_mmdet3d(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdet3d.structures.ops import box_np_ops

    for name in ("corner_to_surfaces_3d_jit", "_points_in_convex_polygon_3d_jit"):
        # As Python: compiling takes twenty seconds.
        monkeypatch.setattr(box_np_ops, name, getattr(box_np_ops, name).py_func)
    rng = np.random.default_rng(1)
    points = rng.uniform([-20, -90, -20, 0], [120, 90, 20, 1], (3_000, 4))
    projection = np.vstack([P2, [0, 0, 0, 1]])
    lidar2cam = lidar_to_camera()
    expected = box_np_ops.remove_outside_points(points, np.eye(4), lidar2cam, projection, (SIZE[1], SIZE[0]))
    kept = points[in_view(points, projection @ lidar2cam, *SIZE)]
    assert 300 < len(kept) < 1500
    np.testing.assert_array_equal(kept, expected)


def test_a_cropped_file_leaves_out_what_the_camera_does_not_see(tmp_path: Path) -> None:
    root = written(write_object(tmp_path), "--fov-crop")
    whole = written(root, "--split=whole")
    cut, full = open_frames(config(root)), open_frames(config(whole, "kitti_infos_whole.pkl"))
    projection = np.vstack([P2, [0, 0, 0, 1]]) @ lidar_to_camera()
    for a, b in zip(cut, full, strict=True):
        assert 0 < len(a.points) < 0.5 * len(b.points)
        np.testing.assert_array_equal(a.points, b.points[in_view(b.points, projection, *SIZE)])
        assert a.ground_truth.num_points is not None
        assert a.ground_truth.num_points.min() >= 20


def test_a_model_on_the_ground_sees_intensities_of_its_scale(tmp_path: Path) -> None:
    root = written(write_object(tmp_path), "--fov-crop")
    written(root, "--fov-crop", "--split=moved", "--lidar-height=1.73", "--intensity-scale=255")
    for moved, plain in zip(open_frames(config(root, "kitti_infos_moved.pkl")), open_frames(config(root)), strict=True):
        assert len(moved.points) == len(plain.points)
        np.testing.assert_array_equal(moved.points[:, :2], plain.points[:, :2])
        np.testing.assert_allclose(moved.points[:, 2], plain.points[:, 2] + 1.73, atol=1e-6)
        np.testing.assert_allclose(moved.points[:, 3], plain.points[:, 3] * 255, rtol=1e-6)
        np.testing.assert_allclose(moved.ground_truth.boxes[:, 2], plain.ground_truth.boxes[:, 2] + 1.73, atol=1e-6)
        np.testing.assert_array_equal(moved.ground_truth.num_points, plain.ground_truth.num_points)


@pytest.mark.parametrize("write", [write_tracking, write_sequence])
def test_other_layouts_hold_the_same(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    reference = open_frames(config(written(write_object(tmp_path / "object"))))
    frames = open_frames(config(written(write(tmp_path / "other"))))
    assert len(frames) == 2
    for index, (frame, other) in enumerate(zip(frames, reference, strict=True)):
        np.testing.assert_array_equal(frame.points, other.points)
        np.testing.assert_allclose(frame.ground_truth.boxes, other.ground_truth.boxes, atol=1e-6)
        np.testing.assert_array_equal(frame.ground_truth.labels, other.ground_truth.labels)
        np.testing.assert_array_equal(frame.ground_truth.num_points, other.ground_truth.num_points)
        assert frame.scene == "0003"
        assert frame.token == (f"0003/{index:06d}" if write is write_tracking else f"{index:06d}")


def test_a_raw_drive_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = written(write_raw(tmp_path))
    assert "leave evaluation out (--no-evaluation)" in capsys.readouterr().out
    frames = open_frames(config(root))
    assert [len(frame.ground_truth) for frame in frames] == [0, 0]
    assert frames[0].scene == "2011_09_26_drive_0001_sync"
    assert frames[1].timestamp_s - frames[0].timestamp_s == pytest.approx(0.103639, abs=1e-6)
    np.testing.assert_array_equal(frames[0].points[:, :3].max(axis=0) > [40, 7, 1], True)


def test_tracklets_of_a_raw_drive_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drive = write_raw(tmp_path) / "2011_09_26" / "2011_09_26_drive_0001_sync"
    (drive / "tracklet_labels.xml").write_text("<boost_serialization/>")
    written(tmp_path)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "drive_0001_sync/tracklet_labels.xml' is not read: the 2 frames of this drive get no boxes" in message


def test_names_can_be_those_of_another_model(tmp_path: Path) -> None:
    root = written(write_object(tmp_path), "--map", "Car=car", "Tram=bus", "Pedestrian=pedestrian", "Person=pedestrian")
    frames = open_frames(config(root, classes=["car", "bus", "pedestrian"]))
    assert [frame.ground_truth.labels.tolist() for frame in frames] == [[0], [2, 1, 2]]


def test_frames_are_those_of_a_list(tmp_path: Path) -> None:
    root = write_object(tmp_path)
    (root / "val.txt").write_text("000008\n")
    written(root, "--list", str(root / "val.txt"))
    assert [frame.token for frame in open_frames(config(root))] == ["000008"]


def _cut_label(root: Path) -> None:
    (root / "training/label_2/000008.txt").write_text(OBJECTS[1][0] + "\n" + OBJECTS[1][1].rsplit(" ", 1)[0] + "\n")


def _no_size(root: Path) -> None:
    (root / "training/label_2/000007.txt").write_text(OBJECTS[0][0].replace("1.53 1.63 3.88", "1.53 0 3.88"))


def _word(root: Path) -> None:
    (root / "training/label_2/000007.txt").write_text(OBJECTS[0][0].replace("3.88", "long"))


def _no_label(root: Path) -> None:
    (root / "training/label_2/000008.txt").unlink()


def _no_calibration(root: Path) -> None:
    (root / "training/calib/000008.txt").unlink()


def _scaled(root: Path) -> None:
    path = root / "training/calib/000007.txt"
    path.write_text(path.read_text().replace("R0_rect: ", "R0_rect: 2"))


def _short_matrix(root: Path) -> None:
    path = root / "training/calib/000007.txt"
    lines = [line.rsplit(" ", 1)[0] if line.startswith("Tr_velo") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))


def _no_image(root: Path) -> None:
    (root / "training/image_2/000007.png").write_bytes(b"\xff\xd8\xff\xe0 a photograph in another format")


def _no_points(root: Path) -> None:
    for path in (root / "training/velodyne").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            _cut_label,
            r"000008\.txt', line 2: it has 14 columns; 15 or 16 \(object\) or 17 or 18 \(tracking\) are known",
        ),
        (_no_size, r"000007\.txt', line 1: height, width and length of a 'Car' are 1\.53, 0, 3\.88"),
        (_word, r"000007\.txt', line 1: 'long' should be a number"),
        (_no_label, r"000008\.bin' has no labels: .*000008\.txt' is not there"),
        (_no_calibration, r"Frame '000008' .* has no calibration: calib/000008\.txt, calib\.txt"),
        (_scaled, r"000007\.txt': R0_rect is no rotation and translation"),
        (_short_matrix, r"000007\.txt', line 6: Tr_velo_to_cam has 11 numbers, but must have 12"),
        (_no_image, r"000007\.png' is no PNG file"),
        (_no_points, r"velodyne' holds no \.bin file"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(
    tmp_path: Path, damage: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_object(tmp_path)
    damage(root)
    assert main(["--root", str(root)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    with pytest.raises(DataError, match=said):
        raise DataError(error)
    assert not list(root.glob("*.pkl"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--map", "Car"), "--map has 'Car'; give NAME=CLASS"),
        (("--map", "Car=car", "Car=bus"), "--map names 'Car' twice"),
        (("--classes", "car", "car"), "--classes names 'car' twice"),
        (("--classes", "car", "--map", "Tram=bus"), "--map maps to 'bus', which --classes does not name"),
    ],
)
def test_options_that_contradict_themselves(
    tmp_path: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(write_object(tmp_path)), *options]) == 2
    assert said in capsys.readouterr().err


Damage = Callable[[dict[str, Any]], object]
DAMAGES: tuple[tuple[Damage, str], ...] = (
    (lambda info: info["images"]["CAM2"].pop("lidar2cam"), r"data_list\[1\]\.images\.CAM2 lacks 'lidar2cam'"),
    (lambda info: info["images"]["CAM2"]["lidar2cam"][0].__setitem__(0, 5.0), "must be a rotation and a transl"),
    (lambda info: info["instances"][0].update(bbox_label_3d=8), r"instances\[0\]\.bbox_label_3d is 8, but must be"),
    (lambda info: info["instances"][0]["bbox_3d"].__setitem__(4, -1.0), r"bbox_3d\[5\] is -1"),
)


def test_a_damaged_info_file_is_told(tmp_path: Path) -> None:
    root = write_object(tmp_path)
    own_file(root)
    path = root / "kitti_infos_val.pkl"
    good = pickle.loads(path.read_bytes())
    for change, said in DAMAGES:
        bad = copy.deepcopy(good)
        change(bad["data_list"][1])
        path.write_bytes(pickle.dumps(bad))
        with pytest.raises(DataError, match=said):
            open_frames(config(root))
    path.write_bytes(pickle.dumps(good))
    with pytest.raises(ConfigError, match="load_type 'mv_image_based', which is for detectors on images"):
        open_frames(config(root, load_type="mv_image_based"))


def test_calibrations_of_all_benchmarks_agree(tmp_path: Path) -> None:
    write_object(tmp_path / "object")
    write_tracking(tmp_path / "tracking")
    (tmp_path / "raw").mkdir()
    write_raw_calibration(tmp_path / "raw")
    found = [
        read_calibration(tmp_path / "object/training/calib/000007.txt"),
        read_calibration(tmp_path / "tracking/training/calib/0003.txt"),
        read_raw_calibration(tmp_path / "raw"),
    ]
    for item in found:
        np.testing.assert_allclose(item.lidar2cam, lidar_to_camera(), atol=1e-9)
        np.testing.assert_allclose(item.cam2img[:3], P2, atol=1e-9)
    assert [item.image_size for item in found] == [None, None, SIZE]
    assert len(read_labels(tmp_path / "tracking/training/label_02/0003.txt")) == 5
    assert scan(0).shape[1] == 4
