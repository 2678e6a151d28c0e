"""Every form of mmdet3d's PillarFeatureNet: decoration and pillar features against the module itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoware.bundle import require_runnable
from base.errors import ConfigError, ExportError
from models.build import build_model, import_mmdet3d
from models.components import extract_components
from models.schema import parse_model
from models.spec import VOXEL_ENCODER, ModelSpec
from runtime.cuda_engine.pillar_parameters import check_encoder
from runtime.opening import open_detector
from runtime.preprocess import decorate, voxelize
from tests.runtime.small_model import cloud, export_onnx, small_config, small_spec

torch = pytest.importorskip("torch")

# Arguments of PillarFeatureNet, and what else of the model.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "legacy": ({"legacy": True}, {}),
    "legacy-distance": ({"legacy": True, "with_distance": True}, {}),
    "distance": ({"with_distance": True}, {}),
    "distance-none": ({"with_distance": None}, {}),
    "no-cluster": ({"with_cluster_center": False}, {}),
    "no-voxel-center": ({"with_voxel_center": False, "legacy": True, "with_distance": True}, {}),
    "bare": ({"with_voxel_center": False, "with_cluster_center": False}, {}),
    "mean": ({"mode": "avg", "feat_channels": [6, 8]}, {}),
    "mean-legacy": ({"mode": "avg", "legacy": True, "with_distance": True, "feat_channels": [8]}, {}),
    "one-layer": ({"feat_channels": [64]}, {"encoder_channels": 64, "max_points_per_voxel": 20}),
    "three-layers": ({"feat_channels": [6, 10, 8], "legacy": True}, {"point_columns": ("x", "y", "z")}),
    "100-points": (
        {"feat_channels": [8]},
        {"max_points_per_voxel": 100, "point_columns": ("x", "y", "z", "intensity")},
    ),
    "not-square": ({"with_distance": True}, {"voxel_size": (0.16, 0.32, 8.0)}),
}
ALL = [pytest.param(*values, id=name) for name, values in VARIANTS.items()]


def configured(arguments: dict[str, Any], changes: dict[str, Any]) -> tuple[ModelSpec, Any]:
    cfg = small_config(small_spec(**changes))
    cfg.model.pts_voxel_encoder.update(arguments)
    return ModelSpec.from_config(cfg), cfg


@pytest.mark.parametrize(("arguments", "changes"), ALL)
def test_decoration_and_features_are_mmdet3ds(arguments: dict[str, Any], changes: dict[str, Any]) -> None:
    spec, cfg = configured(arguments, changes)
    torch.manual_seed(0)
    stock = import_mmdet3d().MODELS.build(cfg.model.pts_voxel_encoder).eval()
    voxels = voxelize(cloud(3, 3000, spec.point_features), spec)
    seen: dict[str, Any] = {}
    stock.pfn_layers[0].register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0].clone()))
    coords = torch.nn.functional.pad(torch.from_numpy(voxels.coords), (1, 0))
    with torch.no_grad():
        wanted = stock(torch.from_numpy(voxels.points.copy()), torch.from_numpy(voxels.num_points), coords)
    features = decorate(voxels, spec)
    assert features.shape == spec.encoder_shape(len(voxels))
    np.testing.assert_array_equal(features[:, :, : spec.layer_in_features], seen["features"].numpy(), strict=True)

    on_torch = voxelize(torch.from_numpy(cloud(3, 3000, spec.point_features)), spec)
    np.testing.assert_array_equal(decorate(on_torch, spec).numpy(), features, strict=True)

    model = torch.nn.Module()
    model.pts_voxel_encoder = stock
    for name in ("pts_middle_encoder", "pts_backbone", "pts_neck", "pts_bbox_head"):
        setattr(model, name, torch.nn.Identity())
    encoder = extract_components(model, spec)[VOXEL_ENCODER]
    with torch.no_grad():
        found = encoder(torch.from_numpy(features))
    np.testing.assert_array_equal(found[:, 0].numpy(), wanted.numpy(), strict=True)
    assert np.ptp(wanted.numpy()) > 0.03


@pytest.mark.parametrize("name", ["legacy-distance", "mean", "three-layers"])
def test_exported_encoder_runs_on_every_cpu_backend(name: str, tmp_path: Path) -> None:
    arguments, changes = VARIANTS[name]
    spec, cfg = configured(arguments, changes)
    components = extract_components(build_model(cfg), spec)
    export_onnx(components, spec, tmp_path)
    points = cloud(4, 2000, spec.point_features)
    with open_detector("pytorch", spec=spec, components=components) as reference:
        wanted = reference.encode(points)
    for backend in ("onnx", "openvino"):
        with open_detector(backend, spec=spec, onnx_dir=tmp_path, threads=1) as detector:
            found = detector.encode(points)
        np.testing.assert_allclose(found.features, wanted.features, rtol=1e-4, atol=1e-4, err_msg=backend)


def test_a_specification_says_only_what_is_unusual() -> None:
    usual, _ = configured({}, {})
    assert not {"cluster_center", "point_distance", "legacy_encoder", "encoder_mode"} & set(usual.to_dict())
    for name, (arguments, changes) in VARIANTS.items():
        spec, _ = configured(arguments, changes)
        assert ModelSpec.from_dict(spec.to_dict()) == spec, name
    mean, _ = configured(*VARIANTS["mean"])
    assert mean.to_dict()["encoder_mode"] == "avg"
    assert mean.fingerprint() != usual.fingerprint()


def test_the_legacy_path_without_centres_is_the_other_one() -> None:
    legacy, _ = configured({"legacy": True, "with_voxel_center": False}, {})
    other, _ = configured({"legacy": False, "with_voxel_center": False}, {})
    assert legacy == other


@pytest.mark.parametrize("name", ["legacy", "distance", "no-cluster", "no-voxel-center", "mean"])
def test_the_vehicle_says_what_it_does_not_make(name: str) -> None:
    spec, _ = configured(*VARIANTS[name])
    with pytest.raises(ExportError, match=r"an encoder of 5 columns.*the node feeds points with both offsets"):
        require_runnable(spec, Path("model"))


def test_kernels_say_that_they_take_no_mean() -> None:
    for name, (arguments, changes) in VARIANTS.items():
        spec, cfg = configured(arguments, changes)
        layers = parse_model(cfg.model, name).pts_voxel_encoder.layer_channels
        if name == "three-layers":
            with pytest.raises(ConfigError, match="has 3 layers; this engine's kernels run one or two"):
                check_encoder(spec, layers, 1000)
        elif spec.encoder_mode == "avg":
            with pytest.raises(ConfigError, match=r"takes the mean of a pillar's slots.*kernels take their maximum"):
                check_encoder(spec, layers, 1000)
        else:
            check_encoder(spec, layers, 1000)
