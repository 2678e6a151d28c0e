"""The whole pipeline against mmdet3d's own prediction, and backends against each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import BackendUnavailable, ConfigError, DataError
from models.spec import ModelSpec
from runtime import open_backend
from runtime.pipeline import Pipeline
from runtime.preprocess import preprocess
from tests.runtime.small_model import cloud, small_config, small_spec

torch = pytest.importorskip("torch")


def stock_prediction(network: Any, points: np.ndarray[Any, Any]) -> tuple[Any, Any, Any]:
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

    sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    with torch.inference_mode():
        data = network.data_preprocessor({"inputs": {"points": [torch.from_numpy(points)]}, "data_samples": [sample]})
        (result,) = network.predict(data["inputs"], data["data_samples"])
    found = result.pred_instances_3d
    boxes = found.bboxes_3d.tensor.numpy().copy()
    boxes[:, 2] += boxes[:, 5] / 2
    return boxes, found.scores_3d.numpy(), found.labels_3d.numpy()


def test_spec_of_the_small_config_is_the_small_spec(spec: ModelSpec) -> None:
    assert ModelSpec.from_config(small_config(spec)) == spec


@pytest.mark.parametrize("seed", [0, 1])
def test_pytorch_pipeline_predicts_what_mmdet3d_predicts(
    seed: int, network: Any, components: dict[str, Any], spec: ModelSpec
) -> None:
    points = cloud(seed, 6000)
    boxes, scores, labels = stock_prediction(network, points)
    with open_backend("pytorch", spec=spec, components=components) as backend:
        result = Pipeline(spec, backend)(points)
    assert len(result.detections) == len(boxes) > 10
    np.testing.assert_array_equal(result.detections.labels, labels)
    np.testing.assert_array_equal(result.detections.boxes[:, [0, 1, 7, 8]], boxes[:, [0, 1, 7, 8]])
    np.testing.assert_array_max_ulp(result.detections.scores, scores, maxulp=2)
    np.testing.assert_array_max_ulp(result.detections.boxes[:, 3:7], boxes[:, 3:7], maxulp=2)
    np.testing.assert_allclose(result.detections.boxes[:, 2], boxes[:, 2], atol=2e-6)
    assert list(result.stages_ms) == ["preprocess", "voxel_encoder", "scatter", "backbone_neck_head", "decode"]
    assert 0 < sum(result.stages_ms.values()) <= result.total_ms * 1.001


def test_onnx_gives_pytorchs_outputs_frame_after_frame(
    components: dict[str, Any], onnx_dir: Path, spec: ModelSpec
) -> None:
    with (
        open_backend("pytorch", spec=spec, components=components) as reference,
        open_backend("onnx", spec=spec, onnx_dir=onnx_dir) as onnx,
    ):
        # Numbers of pillars that rise and fall: buffers are reused.
        for seed, count in ((0, 3000), (1, 200), (2, 6000)):
            frame = preprocess(cloud(seed, count), spec)
            expected, found = (backend.infer(frame.features, frame.coords) for backend in (reference, onnx))
            assert list(found.outputs) == list(expected.outputs) == [head.name for head in spec.heads]
            for name, value in expected.outputs.items():
                assert np.abs(value).max() > 0.1
                np.testing.assert_allclose(found.outputs[name], value, atol=2e-5, rtol=1e-4)
            features = {"input_features": frame.features}
            pillars = [backend.run("pts_voxel_encoder", features) for backend in (reference, onnx)]
            np.testing.assert_allclose(pillars[0]["pillar_features"], pillars[1]["pillar_features"], atol=1e-5)


@pytest.mark.parametrize("name", ["pytorch", "onnx"])
def test_equal_input_gives_equal_bytes(name: str, components: dict[str, Any], onnx_dir: Path, spec: ModelSpec) -> None:
    options: dict[str, Any] = {"components": components} if name == "pytorch" else {"onnx_dir": onnx_dir}
    points = cloud(4, 5000)
    seen = []
    for _ in range(2):
        with open_backend(name, spec=spec, **options) as backend:
            pipeline = Pipeline(spec, backend)
            pipeline(cloud(5, 900))
            seen.append(pipeline(points).detections.boxes.tobytes())
    assert seen[0] == seen[1]


@pytest.mark.parametrize("points", [np.zeros((0, 5), np.float32), np.full((4, 5), np.nan, np.float32)])
def test_an_empty_cloud_has_no_detections(
    points: np.ndarray[Any, Any], components: dict[str, Any], spec: ModelSpec
) -> None:
    with open_backend("pytorch", spec=spec, components=components) as backend:
        result = Pipeline(spec, backend)(points)
    assert len(result.detections) == 0
    assert result.outputs == {}
    assert list(result.stages_ms) == ["preprocess", "decode"]
    assert result.counts.invalid_points == len(points)


def test_more_pillars_than_the_model_takes_are_counted(components: dict[str, Any]) -> None:
    spec = small_spec(max_voxels=100)
    with open_backend("pytorch", spec=spec, components=components) as backend:
        result = Pipeline(spec, backend)(cloud(0, 5000))
    assert result.counts.voxels == 100
    assert result.counts.dropped_voxels > 100


def test_wrong_calls_are_refused_by_name(components: dict[str, Any], onnx_dir: Path, spec: ModelSpec) -> None:
    known = "pytorch, onnx, openvino, tensorrt"
    with pytest.raises(ConfigError, match=rf"Unknown backend 'tflite'\. Choose one of: {known}"):
        open_backend("tflite", spec=spec)
    with pytest.raises(ConfigError, match=r"Backend 'onnx' needs onnx_dir="):
        open_backend("onnx", spec=spec)
    with pytest.raises(ConfigError, match=r"Unknown device 'gpu'. Use 'cpu', 'cuda' or 'cuda:N'"):
        open_backend("pytorch", spec=spec, components=components, device="gpu")
    with pytest.raises(ConfigError, match=r"lacks components \['pts_voxel_encoder'\]"):
        open_backend("pytorch", spec=spec, components={"pts_backbone_neck_head": components["pts_backbone_neck_head"]})
    with open_backend("onnx", spec=spec, onnx_dir=onnx_dir) as backend:
        features, coords = np.zeros((3, 8, 11), np.float32), np.zeros((3, 3), np.int32)
        with pytest.raises(ConfigError, match=r"Unknown component 'neck'. Choose one of: pts_voxel_encoder"):
            backend.run("neck", {})
        with pytest.raises(DataError, match=r"takes \['input_features'\]; got \['voxels'\]"):
            backend.run("pts_voxel_encoder", {"voxels": features})
        with pytest.raises(DataError, match=r"\(3, 8, 10\) float32; it must be \(num_voxels, 8, 11\) float32"):
            backend.infer(features[:, :, :10], coords)
        with pytest.raises(DataError, match=r"is \(3, 8, 11\) float64; it must be"):
            backend.infer(features.astype(np.float64), coords)
        with pytest.raises(DataError, match=r"got 0 pillars; model 'small' takes 1 to 2000"):
            backend.infer(features[:0], coords[:0])
        with pytest.raises(DataError, match=r"got 2001 pillars; model 'small' takes 1 to 2000"):
            backend.run("pts_voxel_encoder", {"input_features": np.zeros((2001, 8, 11), np.float32)})
        with pytest.raises(DataError, match=r"span y 0 to 60 and x 0 to 0, beyond the canvas of 60 x 80"):
            backend.infer(features, np.array([[0, 0, 0], [0, 1, 0], [0, 60, 0]], np.int32))
        with pytest.raises(DataError, match=r"\(2, 3\) int32; 3 pillars need"):
            backend.infer(features, coords[:2])
        with pytest.raises(ValueError, match=r"specification differs from 'small'"):
            Pipeline(small_spec(score_threshold=0.5), backend)
    with pytest.raises(RuntimeError, match=r"Backend 'onnx' was closed"):
        backend.infer(features, coords)


def test_onnx_files_of_another_model_are_refused(onnx_dir: Path, spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ONNX file of component 'pts_voxel_encoder' is missing: .*--mode=onnx"):
        open_backend("onnx", spec=spec, onnx_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"'input_features' is tensor\(float\) .*; the model needs .* 20, 11"):
        open_backend("onnx", spec=small_spec(max_points_per_voxel=20), onnx_dir=onnx_dir)
    swapped = small_spec(heads=(spec.heads[1], spec.heads[0], *spec.heads[2:]))
    with pytest.raises(ConfigError, match=r"outputs are \['heatmap', .*\]; the model has \['reg', 'heatmap'"):
        open_backend("onnx", spec=swapped, onnx_dir=onnx_dir)
    for name in ("pts_voxel_encoder", "pts_backbone_neck_head"):
        (tmp_path / f"{name}.onnx").write_bytes((onnx_dir / f"{name}.onnx").read_bytes()[:900])
    with pytest.raises(DataError, match=r"ONNX Runtime cannot load .*Export it again"):
        open_backend("onnx", spec=spec, onnx_dir=tmp_path)


def test_cuda_without_cuda_is_unavailable_with_the_reason(
    components: dict[str, Any], onnx_dir: Path, spec: ModelSpec
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(BackendUnavailable, match=r"built without CUDA|no CUDA device"):
        open_backend("pytorch", spec=spec, components=components, device="cuda:0")
    with pytest.raises(BackendUnavailable, match=r"no CUDA provider|No usable CUDA device|No CUDA driver"):
        open_backend("onnx", spec=spec, onnx_dir=onnx_dir, device="cuda:0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_pytorch_on_cuda_gives_the_cpus_outputs(components: dict[str, Any], spec: ModelSpec) -> None:
    frame = preprocess(cloud(0, 5000), spec)
    with open_backend("pytorch", spec=spec, components=components) as cpu:
        expected = cpu.infer(frame.features, frame.coords).outputs
    moved = copy.deepcopy(components)
    with open_backend("pytorch", spec=spec, components=moved, device="cuda:0") as cuda:
        result = cuda.infer(frame.features, frame.coords)
    assert list(result.stages_ms) == ["h2d", "voxel_encoder", "scatter", "backbone_neck_head", "d2h"]
    for name, value in expected.items():
        np.testing.assert_allclose(result.outputs[name], value, atol=1e-4)
