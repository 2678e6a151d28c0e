"""What a column of a point means, through the commands: models with intensity alone, with ring, in other orders."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autoware.bundle import require_runnable
from base.checks import checking
from deploy import autoware_bundle, export, predict
from models.spec import ModelSpec

TINY = Path(__file__).parents[1] / "data" / "deploy" / "tiny_centerpoint.py"
FILE = 'dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim={}, use_dim={})'
SWEEPS = 'dict(type="LoadPointsFromMultiSweeps", use_dim={})'
# Model -> steps that load points, and the columns of a T4 file (5: the time lag of the key frame, zeros).
MODELS = {
    "intensity": ([FILE.format(5, "[0, 1, 2, 3]")], [0, 1, 2, 3]),
    "ring": ([FILE.format(5, 5)], [0, 1, 2, 3, 4]),
    "ring-first": ([FILE.format(5, "[0, 1, 2, 4, 3]")], [0, 1, 2, 4, 3]),
    "time-first": ([FILE.format(5, 5), SWEEPS.format("[0, 1, 2, 4, 3]")], [0, 1, 2, 5, 3]),
    "xyz": ([FILE.format(5, 3)], [0, 1, 2]),
    "time": ([FILE.format(5, 5), SWEEPS.format("[0, 1, 2, 4]")], [0, 1, 2, 5]),
    "both": ([FILE.format(5, 5), SWEEPS.format(5)], [0, 1, 2, 3, 5]),
}
OF_THE_NODE = ("time", "both")


@pytest.fixture(scope="module")
def points() -> NDArray[np.float32]:
    """(600, 5) x, y, z, intensity, ring of a few objects on the ground, base_link, in spatial order."""
    generator = np.random.default_rng(2)
    points = np.zeros((600, 5), np.float32)
    points[:, :2] = np.repeat(generator.uniform(-4.5, 4.5, (30, 2)), 20, axis=0) + generator.normal(0, 0.1, (600, 2))
    points[:, 2] = generator.uniform(0.0, 1.5, 600)
    points[:, 3] = np.round(generator.uniform(0, 255, 600))
    points[:, 4] = np.arange(600) % 20
    return points


def make_model(folder: Path, name: str) -> tuple[Path, Path, Any]:
    """Config, checkpoint and network of a small model whose heatmap is raised."""
    import torch

    from models.build import build_model
    from models.config import load_model_config

    steps, columns = MODELS[name]
    config = folder / f"{name}.py"
    config.write_text(
        f"_base_ = [{str(TINY)!r}]\n"
        f"model = dict(pts_voxel_encoder=dict(in_channels={len(columns)}), "
        "pts_bbox_head=dict(bbox_coder=dict(max_num=200)))\n"
        f"test_pipeline = [{', '.join(steps)}]\n"
        "val_dataloader = dict(dataset=dict(pipeline=test_pipeline))\ntest_dataloader = val_dataloader\n"
    )
    torch.set_num_threads(1)
    model: Any = build_model(load_model_config(config), seed=5)
    with torch.no_grad():
        heatmap = model.pts_bbox_head.task_heads[0].heatmap[-1]
        heatmap.bias.fill_(-0.5)
        heatmap.weight.mul_(3.0)
    torch.save({"state_dict": model.state_dict()}, folder / f"{name}.pth")
    return config, folder / f"{name}.pth", model


def stock_scores(model: Any, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of mmdet3d's own `predict` on points as the model takes them."""
    import torch
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

    sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    with torch.inference_mode():
        inputs = {"points": [torch.from_numpy(np.ascontiguousarray(points))]}
        data = model.data_preprocessor({"inputs": inputs, "data_samples": [sample]})
        found = model.predict(data["inputs"], data["data_samples"])[0].pred_instances_3d
    scores: NDArray[np.float32] = found.scores_3d.numpy()
    return scores


def run_predict(folder: Path, file: Path, config: Path, checkpoint: Path, *options: str) -> int:
    words = ("--points", file, "--model-config", config, "--checkpoint", checkpoint, "--out", folder / "out", *options)
    return predict.main([str(word) for word in (*words, "--device", "cpu", "--log-level", "WARNING")])


@pytest.mark.parametrize("name", MODELS)
def test_a_scan_fills_the_columns_that_the_pipeline_names(
    tmp_path: Path, points: NDArray[np.float32], name: str
) -> None:
    config, checkpoint, model = make_model(tmp_path, name)
    points.astype("<f4").tofile(tmp_path / "scan.bin")
    assert run_predict(tmp_path, tmp_path / "scan.bin", config, checkpoint) == 0
    written = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    found = [item["score"] for item in written["backends"][0]["detections"]]
    with_lag = np.c_[points, np.zeros(len(points), np.float32)]
    expected = stock_scores(model, with_lag[:, MODELS[name][1]])
    assert len(expected) > 5
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("model", "options", "width", "message"),
    [
        ("ring", ("--columns=4",), 4, "is read as x, y, z, intensity; model 'ring' takes x, y, z, intensity, ring"),
        ("ring", ("--format=kitti", "--columns=5"), 5, "is read as x, y, z, intensity, column4"),
        ("both", ("--columns=x,y,z,ring",), 4, "lacks intensity"),
        ("both", ("--columns=x,y,z,colour",), 4, "'colour' is no name of a column"),
        ("both", ("--columns=x,y,column7,z",), 4, "is called 'column2', not 'column7'"),
        ("both", ("--columns=x,y,intensity",), 3, "each name must stand there once, and x, y, z among them"),
    ],
)
def test_a_column_that_a_scan_lacks_is_an_error(
    tmp_path: Path,
    points: NDArray[np.float32],
    capsys: pytest.CaptureFixture[str],
    model: str,
    options: tuple[str, ...],
    width: int,
    message: str,
) -> None:
    config, checkpoint, _ = make_model(tmp_path, model)
    points[:, :width].astype("<f4").tofile(tmp_path / "scan.bin")
    assert run_predict(tmp_path, tmp_path / "scan.bin", config, checkpoint, *options) == 2
    assert message in capsys.readouterr().err


def test_columns_of_a_scan_by_name(tmp_path: Path, points: NDArray[np.float32]) -> None:
    """The same boxes from a file in which they stand in another order, beside one that nobody needs."""
    config, checkpoint, model = make_model(tmp_path, "ring")
    other = np.c_[points[:, [2, 4, 0, 1]], np.full(len(points), 9.0), points[:, 3]]
    other.astype("<f4").tofile(tmp_path / "scan.bin")
    order = "--columns=z,ring,x,y,column4,intensity"
    assert run_predict(tmp_path, tmp_path / "scan.bin", config, checkpoint, order) == 0
    written = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    assert written["scan"]["format"]["columns"] == ["z", "ring", "x", "y", "column4", "intensity"]
    found = [item["score"] for item in written["backends"][0]["detections"]]
    np.testing.assert_allclose(found, stock_scores(model, points), atol=2e-6)


def pcd(fields: str, rows: NDArray[np.float32]) -> bytes:
    names, ones, count = fields.split(), [1] * rows.shape[1], len(rows)
    head = f"VERSION 0.7\nFIELDS {fields}\nSIZE {' '.join('4' for _ in names)}\nTYPE {' '.join('F' for _ in names)}\n"
    head += f"COUNT {' '.join(map(str, ones))}\nWIDTH {count}\nHEIGHT 1\nPOINTS {count}\nDATA binary\n"
    return head.encode() + rows.astype("<f4").tobytes()


def test_fields_of_a_pcd_file_by_name(tmp_path: Path, points: NDArray[np.float32]) -> None:
    config, checkpoint, model = make_model(tmp_path, "ring")
    (tmp_path / "scan.pcd").write_bytes(
        pcd("x y z reflectivity intensity channel", np.c_[points[:, :3], 0 * points[:, 3], points[:, 3:]])
    )
    assert run_predict(tmp_path, tmp_path / "scan.pcd", config, checkpoint) == 0
    written = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    found = [item["score"] for item in written["backends"][0]["detections"]]
    np.testing.assert_allclose(found, stock_scores(model, points), atol=2e-6)


def test_a_field_that_a_pcd_file_lacks(
    tmp_path: Path, points: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scan.pcd").write_bytes(pcd("x y z", points[:, :3]))
    for name, code in (("ring", 2), ("intensity", 2), ("time", 0), ("xyz", 0)):
        config, checkpoint, _ = make_model(tmp_path, name)
        assert run_predict(tmp_path, tmp_path / "scan.pcd", config, checkpoint) == code
        assert ("has no field 'intensity', only x, y, z" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in OF_THE_NODE])
def test_a_bundle_is_of_what_the_node_feeds(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    config, checkpoint, _ = make_model(tmp_path, name)
    words = ("--model-config", config, "--checkpoint", checkpoint, "--out", tmp_path / "bundle")
    assert autoware_bundle.main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert re.search(r"it has \d point columns \(x, y, z.*\) with 3 centre offsets", error)
    assert "the node feeds x, y, z, time_lag" in error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", OF_THE_NODE)
def test_what_the_node_feeds_is_no_reason(tmp_path: Path, name: str) -> None:
    from models.config import load_model_config

    spec = ModelSpec.from_config(load_model_config(make_model(tmp_path, name)[0]))
    require_runnable(dataclasses.replace(spec, rot_y_axis_reference=True), tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_vehicle_sees_is_about_models_that_it_feeds(tmp_path: Path, name: str) -> None:
    from deploy.config.schema import DeployConfig
    from deploy.decoding import vehicle_settings
    from models.config import load_model_config

    spec = ModelSpec.from_config(load_model_config(make_model(tmp_path, name)[0]))
    evaluation = dataclasses.replace(DeployConfig().evaluation, decode="both")
    with checking() as record:
        vehicle_settings(evaluation, spec, "deploy.yaml")
    assert [result.check for result in record.results()] == ["columns-of-node"] * (name not in OF_THE_NODE)


def metres_model(folder: Path) -> tuple[Path, Path]:
    """A model whose sizes are metres: every length is below 0 in some cells, above in others."""
    import torch

    from models.build import build_model
    from models.config import load_model_config

    config = folder / "metres.py"
    config.write_text(
        f"_base_ = [{str(TINY.with_name('tiny_deployment.py'))!r}]\n"
        "model = dict(pts_bbox_head=dict(norm_bbox=False, bbox_coder=dict(max_num=200)))\n"
    )
    torch.set_num_threads(1)
    model: Any = build_model(load_model_config(config), seed=5)
    head = model.pts_bbox_head.task_heads[0]
    with torch.no_grad():
        head.heatmap[-1].bias.fill_(-0.5)
        head.heatmap[-1].weight.mul_(20.0)
        head.dim[-1].weight.mul_(20.0)
        head.dim[-1].bias.fill_(0.5)
    torch.save({"state_dict": model.state_dict()}, folder / "metres.pth")
    return config, folder / "metres.pth"


def write_dataset(root: Path, cloud: NDArray[np.float32]) -> None:
    """A T4 dataset of two equal frames with one object."""
    root.mkdir()
    cloud.astype("<f4").tofile(root / "cloud.bin")
    box = {"bbox_3d": [1.0, 1.0, 0.0, 4.0, 1.8, 1.5, 0.3], "bbox_label": 0, "bbox_label_3d": 0}
    box |= {"velocity": [1.0, 0.0], "num_lidar_pts": 20, "bbox_3d_isvalid": True}
    points = {"num_pts_feats": 5, "lidar_path": "cloud.bin", "lidar2ego": np.eye(4).tolist()}
    samples = [
        {
            "sample_idx": index,
            "token": f"frame-{index}",
            "timestamp": 1000.0 + 0.1 * index,
            "scene_name": "one",
            "ego2global": np.eye(4).tolist(),
            "lidar_points": points,
            "lidar_sweeps": [],
            "instances": [box],
        }
        for index in range(2)
    ]
    info = {"data_list": samples, "metainfo": {"classes": ["car", "truck", "bus", "bicycle", "pedestrian"]}}
    (root / "centerpoint_infos_val.pkl").write_bytes(pickle.dumps(info, protocol=4))


def test_boxes_of_negative_size_are_dropped_counted_and_told_once(
    tmp_path: Path, points: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    config, checkpoint = metres_model(tmp_path)
    points.astype("<f4").tofile(tmp_path / "scan.bin")
    assert run_predict(tmp_path, tmp_path / "scan.bin", config, checkpoint) == 0
    (found,) = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))["backends"]
    assert found["boxes_without_size"] > 0
    assert found["boxes_not_finite"] == 0
    assert len(found["detections"]) > 0
    assert all(min(box["size_length_width_height"]) > 0 for box in found["detections"])
    told = "have a length, width or height of 0 or less and were dropped"
    assert capsys.readouterr().err.count(told) == 1

    write_dataset(tmp_path / "data", points)
    words = ["--mode=none", "--decode=training", "--num-samples=-1", "--log-level=WARNING"]
    words += [f"--model-config={config}", f"--checkpoint={checkpoint}"]
    words += [f"--data-root={tmp_path / 'data'}", f"--work-dir={tmp_path / 'work'}"]
    assert export.main(words) == 0
    captured = capsys.readouterr()
    assert captured.err.count(told) == 1
    lines = [captured.out, (tmp_path / "work" / "report.html").read_text(encoding="utf-8")]
    (summary,) = json.loads((tmp_path / "work" / "results.json").read_text(encoding="utf-8"))["evaluations"]
    # Two equal frames, in which the key frame is repeated for want of a sweep: other pillars than the scan's.
    dropped = summary["dropped_boxes"]
    assert dropped["broken"] == 0
    assert dropped["without_size"] > 0
    assert dropped["without_size"] % 2 == 0
    for text in lines:
        assert f"boxes with a size of 0 or less, left out: {dropped['without_size']} in 2 frames" in text


def test_mmengines_own_evaluation_drops_them_too() -> None:
    import torch

    from models.build import import_mmdet3d

    import_mmdet3d()
    from mmdet3d.structures import LiDARInstance3DBoxes

    from eval.mmengine_metric import DetectionMetric

    box = [1.0, 1.0, 0.0, 4.0, 1.8, 1.5, 0.3, 0.0, 0.0]
    truth = {"gt_bboxes_3d": LiDARInstance3DBoxes(torch.tensor([box]), box_dim=9), "gt_labels_3d": np.array([0])}
    found = LiDARInstance3DBoxes(torch.tensor([box, [*box[:4], -0.2, *box[5:]]]), box_dim=9)
    predicted = {"bboxes_3d": found, "scores_3d": torch.tensor([0.5, 0.9]), "labels_3d": torch.tensor([0, 0])}
    sample = {"eval_ann_info": truth | {"num_lidar_pts": np.array([20])}, "pred_instances_3d": predicted}
    metric = DetectionMetric([-50.0, -50.0, -3.0, 50.0, 50.0, 5.0])
    metric.dataset_meta = {"classes": ["car"]}
    metric.process({}, [sample])
    assert metric.compute_metrics(metric.results)["AP_car"] == pytest.approx(1.0)
