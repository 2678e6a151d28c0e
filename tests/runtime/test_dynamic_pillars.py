"""Dynamic pillars against mmdet3d's DynamicPillarFeatureNet, with its compiled scatter written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autoware.bundle import require_runnable
from base.errors import ConfigError, ExportError
from models.build import build_model, import_mmdet3d
from models.components import extract_components
from models.spec import VOXEL_ENCODER, ModelSpec
from runtime.cuda_engine.pillar_parameters import check_encoder
from runtime.opening import open_detector
from runtime.preprocess import preprocess, voxelize
from runtime.scatter import scatter
from tests.runtime.small_model import cloud, export_onnx, small_config, small_spec

torch = pytest.importorskip("torch")


def dynamic_config(**encoder: Any) -> Any:
    cfg = small_config(small_spec())
    layer = cfg.model.data_preprocessor.voxel_layer
    cfg.model.data_preprocessor.voxel_type = "dynamic"
    layer.update(max_num_points=-1, max_voxels=(-1, -1))
    layer.pop("deterministic")
    cfg.model.pts_voxel_encoder.update(type="DynamicPillarFeatureNet", feat_channels=[8], **encoder)
    return cfg


def crowded(seed: int, count: int = 3000) -> NDArray[np.float32]:
    """A cloud of which one pillar has 101 points, and another 32."""
    points = cloud(seed, count)
    rng = np.random.default_rng(seed)
    points[:101, :3] = rng.uniform((1.0, 1.0, 0.0), (1.1, 1.1, 0.1), (101, 3))
    points[101:133, :3] = rng.uniform((3.0, 3.0, 0.0), (3.1, 3.1, 0.1), (32, 3))
    return points


def by_definition(points: Any, cells: Any, reduce: str) -> tuple[Any, Any]:
    """mmcv's dynamic_scatter: points of one cell become their maximum or mean; cells of -1 are left out."""
    inside = (cells >= 0).all(dim=1)
    found, index = torch.unique(cells[inside], dim=0, return_inverse=True)
    rows = [points[inside][index == row] for row in range(len(found))]
    return torch.stack([row.mean(0) if reduce == "mean" else row.max(0)[0] for row in rows]), found


@pytest.fixture
def stock_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    import_mmdet3d()
    from mmcv.ops import scatter_points

    monkeypatch.setattr(scatter_points, "dynamic_scatter", by_definition)


@pytest.mark.usefixtures("stock_scatter")
@pytest.mark.parametrize("encoder", [{}, {"mode": "avg"}, {"with_distance": True, "with_cluster_center": False}])
def test_canvas_is_that_of_mmdet3ds_encoder(encoder: dict[str, Any]) -> None:
    cfg = dynamic_config(**encoder)
    spec = ModelSpec.from_config(cfg)
    model: Any = build_model(cfg)
    points = crowded(1)
    limits = np.asarray(spec.point_cloud_range, np.float32)
    cells = np.floor((points[:, :3] - limits[:3]) / np.asarray(spec.voxel_size, np.float32)).astype(np.int64)
    nx, ny = spec.grid_size
    inside = ((cells >= 0) & (cells < (nx, ny, 1))).all(axis=1)
    coords = np.concatenate([np.zeros((len(points), 1), np.int64), cells[:, ::-1]], axis=1)[inside]
    with torch.no_grad():
        features, found = model.pts_voxel_encoder(torch.from_numpy(points[inside]), torch.from_numpy(coords))
        frame = preprocess(points, spec)
        rows = extract_components(model, spec)[VOXEL_ENCODER](torch.from_numpy(frame.features))
    wanted = np.zeros(spec.canvas_shape, np.float32)
    wanted[0][:, found[:, 2], found[:, 3]] = features.numpy().T
    assert frame.counts.voxels == len(found) < len(frame)
    assert frame.counts.dropped_points == 0
    canvas = scatter(rows.numpy(), frame.coords, spec)
    np.testing.assert_allclose(canvas, wanted, rtol=1e-4, atol=1e-5)
    assert np.ptp(wanted) > 0.05
    on_torch = scatter(rows, torch.from_numpy(frame.coords), spec)
    np.testing.assert_allclose(on_torch.numpy(), canvas, rtol=1e-5, atol=1e-6)


def test_every_cpu_backend_finds_the_same_boxes(tmp_path: Path) -> None:
    cfg = dynamic_config()
    spec = ModelSpec.from_config(cfg)
    model: Any = build_model(cfg)
    with torch.no_grad():
        last = model.pts_bbox_head.task_heads[0].heatmap[-1]
        last.weight.mul_(20)
    components = extract_components(model, spec)
    export_onnx(components, spec, tmp_path)
    points = crowded(2)
    with open_detector("pytorch", spec=spec, components=components) as reference:
        wanted = reference(points)
    assert len(wanted.detections.boxes) > 3
    for backend in ("onnx", "openvino"):
        with open_detector(backend, spec=spec, onnx_dir=tmp_path, threads=1) as detector:
            found = detector(points)
        np.testing.assert_allclose(found.detections.boxes, wanted.detections.boxes, atol=1e-3, err_msg=backend)
        assert found.counts == wanted.counts


def test_pillars_without_room_are_left_out_whole_and_counted() -> None:
    cfg = dynamic_config()
    cfg.model.data_preprocessor.voxel_layer.max_voxels = (40, 40)
    spec, points = ModelSpec.from_config(cfg), crowded(3)
    everything = preprocess(points, ModelSpec.from_config(dynamic_config()))
    frame = preprocess(points, spec)
    assert (spec.max_voxels, spec.max_points_per_voxel) == (40, 32)
    # The first pillar has 101 points in four rows, or a few more where the cloud adds some; the rest one or two.
    assert (frame.coords[:4] == frame.coords[0]).all()
    assert 36 <= len(frame) <= 40
    counts = frame.counts
    assert counts.voxels + counts.dropped_voxels == everything.counts.voxels
    assert counts.dropped_points > 0
    assert counts.outside_points == everything.counts.outside_points
    none = preprocess(points[:0], spec)
    assert (len(none), none.features.shape) == (0, (0, 32, spec.encoder_in_features))
    with pytest.raises(ValueError, match="preprocess makes rows"):
        voxelize(points, spec)


def test_what_rows_cannot_do_is_refused() -> None:
    cfg = dynamic_config()
    cfg.model.pts_voxel_encoder.feat_channels = [8, 8]
    with pytest.raises(ConfigError, match=r"2 layers on dynamic pillars\. The second takes the maximum"):
        ModelSpec.from_config(cfg)
    cfg = dynamic_config()
    for part in (cfg.model.data_preprocessor.voxel_layer, cfg.model.pts_voxel_encoder):
        part.voxel_size = [0.32, 0.32, 4.0]
    with pytest.raises(ConfigError, match="make 2 cells along z; dynamic pillars have one"):
        ModelSpec.from_config(cfg)


def test_kernels_and_the_vehicle_say_that_they_take_a_fixed_number() -> None:
    spec = ModelSpec.from_config(dynamic_config())
    with pytest.raises(ConfigError, match="has dynamic pillars, of any number of points; this engine's kernels"):
        check_encoder(spec, (8,), 1000)
    with pytest.raises(ExportError, match="any number of points a pillar and their maximum; the node feeds"):
        require_runnable(spec, Path("model"))


def test_the_specification_travels() -> None:
    spec = ModelSpec.from_config(dynamic_config())
    assert spec.to_dict()["dynamic_pillars"] is True
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert "any number of points a pillar" in spec.decoration
