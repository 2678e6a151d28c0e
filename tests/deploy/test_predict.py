"""The command that runs one scan: what it writes, what it compares, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.predict import main

Run = Callable[..., tuple[int, str, str]]
CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The command sets torch's determinism for its process; this one goes on."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = deterministic


@pytest.fixture(scope="module")
def model_config(tiny_config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CenterPoint with no more candidates than cells, which mmdet3d's own decoding needs."""
    path = tmp_path_factory.mktemp("predict") / "tiny.py"
    coder = "model = dict(pts_bbox_head=dict(bbox_coder=dict(max_num=200)))"
    path.write_text(f"_base_ = [{str(tiny_config_path)!r}]\n{coder}\n")
    return path


@pytest.fixture(scope="module")
def checkpoint(model_config: Path) -> Path:
    """Seeded weights whose raised, spread heatmap gives boxes."""
    import torch

    from models.build import build_model
    from models.config import load_model_config

    model: Any = build_model(load_model_config(model_config), seed=5)
    with torch.no_grad():
        heatmap = model.pts_bbox_head.task_heads[0].heatmap[-1]
        heatmap.bias.fill_(-0.5)
        heatmap.weight.mul_(3.0)
    path = model_config.with_name("checkpoint.pth")
    torch.save({"state_dict": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def scan_points() -> NDArray[np.float32]:
    """(600, 5) x, y, z, intensity, ring of a few objects on the ground, base_link, in spatial order."""
    generator = np.random.default_rng(2)
    centers = generator.uniform(-4.5, 4.5, (30, 2))
    points = np.zeros((600, 5), np.float32)
    points[:, :2] = np.repeat(centers, 20, axis=0) + generator.normal(0, 0.1, (600, 2))
    points[:, 2] = generator.uniform(0.0, 1.5, 600)
    points[:, 3] = np.round(generator.uniform(0, 255, 600))
    points[:, 4] = np.arange(600) % 20
    return points


@pytest.fixture
def run(
    model_config: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """`run(points or path, *options)`: exit code, stdout, stderr; a relative `--out` lies in `tmp_path`."""
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))

    def predict(points: NDArray[np.float32] | Path, *options: str) -> tuple[int, str, str]:
        path = points
        if isinstance(points, np.ndarray):
            path = tmp_path / "scan.bin"
            points.astype("<f4").tofile(path)
        fixed = ["--model-config", model_config, "--checkpoint", checkpoint, "--out", "out", "--device", "cpu"]
        code = main([str(word) for word in ("--points", path, *fixed, "--log-level", "WARNING", *options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return predict


def document(folder: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((folder / "detections.json").read_text(encoding="utf-8"))
    return written


def reference_boxes(
    model_config: Path, checkpoint: Path, points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes of the stock model's own `predict` on points as a model takes them; z at the centre."""
    import torch
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

    from models.build import build_model, load_checkpoint
    from models.config import load_model_config

    model: Any = build_model(load_model_config(model_config))
    load_checkpoint(model, checkpoint)
    sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    with torch.inference_mode():
        data = model.data_preprocessor({"inputs": {"points": [torch.from_numpy(points)]}, "data_samples": [sample]})
        found = model.predict(data["inputs"], data["data_samples"])[0].pred_instances_3d
    boxes = found.bboxes_3d.tensor.numpy().copy()
    boxes[:, 2] += boxes[:, 5] / 2
    return boxes, found.scores_3d.numpy(), found.labels_3d.numpy()


def test_detections_are_the_stock_models(
    run: Run, tmp_path: Path, model_config: Path, checkpoint: Path, scan_points: NDArray[np.float32]
) -> None:
    assert run(scan_points)[0] == 0
    (result,) = document(tmp_path / "out")["backends"]
    points = scan_points.copy()
    points[:, 4] = 0.0  # the model's fifth column is the time lag, not the ring
    boxes, scores, labels = reference_boxes(model_config, checkpoint, points)
    assert len(boxes) > 5
    found = result["detections"]
    assert [item["class"] for item in found] == [CLASSES[label] for label in labels]
    np.testing.assert_allclose([item["score"] for item in found], scores, atol=2e-6)
    np.testing.assert_allclose([item["center"] for item in found], boxes[:, :3], atol=1e-3)
    np.testing.assert_allclose([item["size_length_width_height"] for item in found], boxes[:, 3:6], atol=1e-3)
    np.testing.assert_allclose([item["velocity"] for item in found], boxes[:, 7:9], atol=1e-3)


def test_a_scan_in_the_sensors_frame_gives_the_same_boxes(
    run: Run, tmp_path: Path, scan_points: NDArray[np.float32]
) -> None:
    assert run(scan_points)[0] == 0
    expected = document(tmp_path / "out")["backends"]
    # nuScenes: x right, y forward, so that forward is their y and left is minus their x; 1.84 m up.
    sensor = scan_points.copy()
    sensor[:, 0], sensor[:, 1] = -scan_points[:, 1], scan_points[:, 0]
    sensor[:, 2] -= 1.84
    assert run(sensor, "--format=nuscenes", "--out=turned")[0] == 0
    (there,), (here,) = expected, document(tmp_path / "turned")["backends"]
    assert here["pillars"] == there["pillars"]
    assert [item["class"] for item in here["detections"]] == [item["class"] for item in there["detections"]]
    for key in ("score", "center", "size_length_width_height"):
        np.testing.assert_allclose(
            [item[key] for item in here["detections"]], [item[key] for item in there["detections"]], atol=2e-3
        )


def test_comparison_exports_onnx_and_judges_every_output(
    run: Run, tmp_path: Path, scan_points: NDArray[np.float32]
) -> None:
    code, out, _ = run(scan_points, "--compare=onnx")
    assert code == 0
    written = document(tmp_path / "out")
    assert written["verification"]["passed"] is True
    names = [item["comparison"]["name"] for item in written["verification"]["outputs"]]
    assert names == ["pillar_features", "heatmap", "reg", "height", "dim", "rot", "vel"]
    assert all(f"\n{name} " in out for name in names)
    boxes = written["verification"]["boxes"]
    assert boxes["matched"] > 5
    assert (boxes["moved"], boxes["lost"], boxes["gained"]) == (0, 0, 0)
    assert [item["backend"] for item in written["backends"]] == ["pytorch", "onnx"]
    assert sorted(path.name for path in (tmp_path / "out" / "onnx").iterdir()) == [
        "pts_backbone_neck_head.onnx",
        "pts_voxel_encoder.onnx",
    ]
    assert (tmp_path / "out" / "detections.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_scan_gives_the_same_bytes(run: Run, tmp_path: Path, scan_points: NDArray[np.float32]) -> None:
    for folder in ("first", "second"):
        assert run(scan_points, f"--out={folder}", "--backend=onnx")[0] == 0
    for name in ("detections.json", "detections.png", "onnx/pts_voxel_encoder.onnx"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_a_wrong_graph_fails_the_comparison(run: Run, tmp_path: Path, scan_points: NDArray[np.float32]) -> None:
    import onnx
    from onnx import numpy_helper

    assert run(scan_points, "--compare=onnx")[0] == 0
    path = tmp_path / "out" / "onnx" / "pts_backbone_neck_head.onnx"
    model = onnx.load(path)
    weight = next(item for item in model.graph.initializer if len(item.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(model, path)
    code, out, _ = run(scan_points, "--compare=onnx", "--onnx-dir=out/onnx", "--out=other")
    assert code == 1
    assert "FAILED" in out
    assert "relative L2 difference" in out
    assert document(tmp_path / "other")["verification"]["passed"] is False


def test_onnx_files_of_other_weights_are_refused(
    run: Run, tmp_path: Path, checkpoint: Path, scan_points: NDArray[np.float32]
) -> None:
    import torch

    assert run(scan_points, "--backend=onnx")[0] == 0
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["pts_bbox_head.shared_conv.conv.weight"] *= 1.5
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    code, _, err = run(scan_points, "--compare=onnx", "--onnx-dir=out/onnx", f"--checkpoint={tmp_path / 'other.pth'}")
    assert code == 2
    assert "was exported from other weights" in err


def test_fp16_is_judged_by_its_own_limits(run: Run, tmp_path: Path, scan_points: NDArray[np.float32]) -> None:
    run(scan_points, "--compare=onnx", "--precision=fp16")
    written = document(tmp_path / "out")
    assert written["verification"]["precision"] == "fp16"
    assert [item["precision"] for item in written["backends"]] == ["fp32", "fp16"]
    errors = [item["comparison"]["relative_l2"] for item in written["verification"]["outputs"]]
    assert 1e-5 < max(errors) < 1e-2


def test_autowares_convention_gives_the_same_boxes(run: Run, tmp_path: Path, scan_points: NDArray[np.float32]) -> None:
    assert run(scan_points, "--backend=onnx")[0] == 0
    assert run(scan_points, "--backend=onnx", "--rot-y-axis-reference", "--out=autoware")[0] == 0
    plain, folded = (document(tmp_path / name)["backends"][0]["detections"] for name in ("out", "autoware"))
    assert len(plain) > 5
    for key in ("center", "size_length_width_height"):
        np.testing.assert_allclose([i[key] for i in folded], [i[key] for i in plain], atol=1e-3)
    turn = np.array([i["yaw"] for i in folded]) - np.array([i["yaw"] for i in plain])
    np.testing.assert_allclose(np.cos(turn), 1.0, atol=1e-6)


def test_a_backend_that_cannot_run_is_skipped(
    run: Run, tmp_path: Path, scan_points: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    from base.errors import BackendUnavailable
    from deploy.prediction_files import PredictionFiles

    def unavailable(*_: Any, **__: Any) -> Any:
        raise BackendUnavailable("no CUDA device")

    monkeypatch.setattr(PredictionFiles, "engines", unavailable)
    code, out, _ = run(scan_points, "--compare=tensorrt")
    assert (code, "tensorrt SKIPPED: no CUDA device" in out) == (0, True)
    assert document(tmp_path / "out")["skipped"] == {"tensorrt": "no CUDA device"}
    assert run(scan_points, "--compare=tensorrt", "--strict")[0] == 1
    code, out, err = run(scan_points, "--backend=tensorrt")
    assert (code, out) == (2, ""), "nothing that was asked for was done"
    assert "error (machine): --backend=tensorrt cannot run here: no CUDA device" in err


def test_invalid_points_are_left_out_and_counted(run: Run, tmp_path: Path, scan_points: NDArray[np.float32]) -> None:
    broken = scan_points.copy()
    broken[:7, 1] = np.nan
    code, out, err = run(broken)
    assert code == 0
    assert "600 points, 7 invalid" in out
    assert "7 of 600 points hold NaN" in err
    assert document(tmp_path / "out")["scan"]["invalid_points"] == 7


def test_bad_files(run: Run, tmp_path: Path, scan_points: NDArray[np.float32]) -> None:
    empty, cut = tmp_path / "empty.bin", tmp_path / "cut.bin"
    empty.touch()
    cut.write_bytes(scan_points.tobytes()[:-3])
    cases = [
        (tmp_path / "nowhere.bin", "nowhere.bin' does not exist. Give its path with --points"),
        (tmp_path, "cut.bin' has 11997 bytes"),
        (empty, "is empty (0 bytes)"),
        (cut, "599 points of 5 float32 and 17 bytes of another. The file was cut off"),
        (np.full((9, 5), np.nan, np.float32), "no valid point: 9 in it, all with NaN or infinite values"),
        (scan_points + np.array([500, 0, 0, 0, 0], np.float32), "none of 600 points lies in the range of model"),
    ]
    for points, message in cases:
        code, out, err = run(points)
        assert (code, out) == (2, "")
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--columns=3", "--columns is 3"),
        ("--intensity-scale=0", "--intensity-scale is 0"),
        ("--lidar-height=nan", "--lidar-height is nan"),
        ("--checkpoint=nowhere.pth", "nowhere.pth"),
        ("--model-config=nowhere.py", "nowhere.py' does not exist"),
        ("--onnx-dir=nowhere", "nowhere', which does not exist"),
    ],
)
def test_bad_options(run: Run, scan_points: NDArray[np.float32], option: str, message: str) -> None:
    code, _, err = run(scan_points, option, "--compare=onnx")
    assert code == 2
    assert message in err


def test_a_backend_is_not_compared_with_itself(run: Run, scan_points: NDArray[np.float32]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(scan_points, "--compare=pytorch")
    assert stopped.value.code == 2


def test_a_scan_of_too_many_points_is_refused_before_the_model_is_loaded(
    run: Run, scan_points: NDArray[np.float32], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.pth"
    code, _, err = run(scan_points, "--max-points=599", "--checkpoint", str(missing))
    assert code == 2
    assert "has 600 valid points, but at most 599 are taken (--max-points). Give --max-points=600" in err
    code, _, err = run(scan_points, "--max-points=600", "--checkpoint", str(missing))
    assert code == 2
    assert "missing.pth" in err
