"""A small model specification, its stock mmdet3d network, and clouds to run through both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.spec import HeadSpec, ModelSpec, TaskSpec

HEADS = (("heatmap", 5), ("reg", 2), ("height", 1), ("dim", 3), ("rot", 2), ("vel", 2))


def small_spec(**changes: Any) -> ModelSpec:
    spec = ModelSpec(
        name="small",
        point_cloud_range=(-12.8, -9.6, -3.0, 12.8, 9.6, 5.0),
        voxel_size=(0.32, 0.32, 8.0),
        max_points_per_voxel=8,
        max_voxels=2000,
        point_columns=("x", "y", "z", "intensity", "time_lag"),
        voxel_center_dims=3,
        encoder_channels=8,
        out_size_factor=2,
        tasks=(
            TaskSpec(
                class_names=("car", "truck", "bus", "bicycle", "pedestrian"),
                heads=tuple(HeadSpec(name, channels) for name, channels in HEADS),
                nms_min_radius_m2=1.0,
            ),
        ),
        norm_bbox=True,
        score_threshold=0.1,
        max_detections_before_nms=200,
        post_center_range=(-15.0, -10.0, -10.0, 15.0, 10.0, 10.0),
        nms_type="circle",
        post_max_size=50,
    )
    return spec.changed(**changes)


def cloud(seed: int, count: int, columns: int = 5) -> NDArray[np.float32]:
    """Points in clumps, so that pillars overflow, some beyond the range."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform((-14, -11, -3.5), (14, 11, 5.5), (max(count // 12, 1), 3))
    xyz = centers[rng.integers(0, len(centers), count)] + rng.normal(0, 0.3, (count, 3))
    return np.concatenate([xyz, rng.uniform(0, 1, (count, columns - 3))], axis=1).astype(np.float32)


def small_config(spec: ModelSpec, final_kernel: int = 1, num_convs: int = 2) -> Any:
    """A stock CenterPoint of that specification, as an mmengine config; its network has few channels."""
    from mmengine.config import Config

    limits, size = list(spec.point_cloud_range), list(spec.voxel_size)
    norm = {"type": "BN", "eps": 1e-3, "momentum": 0.01}
    model = {
        "type": "CenterPoint",
        "data_preprocessor": {
            "type": "Det3DDataPreprocessor",
            "voxel": True,
            "voxel_layer": {
                "max_num_points": spec.max_points_per_voxel,
                "point_cloud_range": limits,
                "voxel_size": size,
                "max_voxels": (spec.max_voxels, spec.max_voxels),
                "deterministic": True,
            },
        },
        "pts_voxel_encoder": {
            "type": "PillarFeatureNet",
            "in_channels": spec.point_features,
            "feat_channels": [8, spec.encoder_channels],
            "voxel_size": size,
            "point_cloud_range": limits,
            "norm_cfg": {"type": "BN1d", "eps": 1e-3, "momentum": 0.01},
            "legacy": False,
        },
        "pts_middle_encoder": {
            "type": "PointPillarsScatter",
            "in_channels": spec.encoder_channels,
            "output_shape": [spec.canvas_shape[2], spec.canvas_shape[3]],
        },
        "pts_backbone": {
            "type": "SECOND",
            "in_channels": spec.encoder_channels,
            "out_channels": [8, 16],
            "layer_nums": [1, 1],
            "layer_strides": [2, 2],
            "norm_cfg": norm,
            "conv_cfg": {"type": "Conv2d", "bias": False},
        },
        "pts_neck": {
            "type": "SECONDFPN",
            "in_channels": [8, 16],
            "out_channels": [8, 8],
            "upsample_strides": [1, 2],
            "norm_cfg": norm,
            "upsample_cfg": {"type": "deconv", "bias": False},
            "use_conv_for_no_stride": True,
        },
        "pts_bbox_head": {
            "type": "CenterHead",
            "in_channels": 16,
            "tasks": [{"num_class": len(t.class_names), "class_names": list(t.class_names)} for t in spec.tasks],
            "common_heads": {h.name: (h.channels, num_convs) for h in spec.tasks[0].heads if h.name != "heatmap"},
            "num_heatmap_convs": num_convs,
            "share_conv_channel": 8,
            "bbox_coder": {
                "type": "CenterPointBBoxCoder",
                "pc_range": limits[:2],
                "voxel_size": size[:2],
                "out_size_factor": spec.out_size_factor,
                "post_center_range": list(spec.post_center_range),
                "max_num": spec.max_detections_before_nms,
                "score_threshold": spec.score_threshold,
                "code_size": 9,
            },
            "separate_head": {"type": "SeparateHead", "init_bias": -1.0, "final_kernel": final_kernel},
            "norm_bbox": spec.norm_bbox,
        },
        "test_cfg": {"pts": suppression(spec)},
    }
    on_disk = ("x", "y", "z", "intensity", "time_lag")  # the lag is the loader's, in place of the ring
    load = {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5}
    join = {"type": "LoadPointsFromMultiSweeps", "use_dim": [on_disk.index(name) for name in spec.point_columns]}
    dataset = {"type": "T4Dataset", "pipeline": [load, join]}
    return Config({"name": spec.name, "model": model, "val_dataloader": {"dataset": dataset}})


def suppression(spec: ModelSpec) -> dict[str, Any]:
    """`test_cfg.pts` with what mmdet3d's CenterHead reads of it."""
    return {
        "nms_type": spec.nms_type,
        "min_radius": [task.nms_min_radius_m2 for task in spec.tasks],
        "post_max_size": spec.post_max_size,
        "nms_thr": spec.nms_iou_threshold,
        "pre_max_size": spec.nms_pre_max_size,
        "score_threshold": spec.score_threshold,
        "post_center_limit_range": list(spec.nms_center_range or spec.post_center_range),
    }


def tasks_of(*groups: tuple[tuple[str, ...], float], branches: tuple[str, ...] = ()) -> tuple[TaskSpec, ...]:
    """A task for each group of classes and radius; with all branches unless some are named."""
    channels = {name: number for name, number in (*HEADS, ("iou", 1)) if name in (branches or dict(HEADS))}
    return tuple(
        TaskSpec(
            names,
            tuple(HeadSpec(name, len(names) if name == "heatmap" else n) for name, n in channels.items()),
            radius,
        )
        for names, radius in groups
    )


def small_network(spec: ModelSpec, seed: int = 0, **head: int) -> Any:
    """That CenterPoint with random weights and random normalization statistics, so that every layer matters."""
    import torch

    from models.build import build_model

    torch.set_num_threads(1)
    network = build_model(small_config(spec, **head), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("running_mean") or ".bias" in name:
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
            elif name.startswith("pts_bbox_head.task_heads") and name.endswith("weight"):
                value.mul_(3.0)  # else all outputs are close to their bias
    return network.eval()


def export_onnx(components: dict[str, Any], spec: ModelSpec, folder: Any) -> None:
    """Both components as `<component>.onnx`, by torch's own exporter."""
    import torch

    for component in spec.components:
        shape = tuple(7 if size is None else size for size in component.inputs[0].shape)
        names = [tensor.name for tensor in component.outputs]
        axes = {t.name: {0: "num_voxels"} for t in (*component.inputs, *component.outputs) if None in t.shape}
        torch.onnx.export(
            components[component.name],
            (torch.zeros(shape),),
            str(folder / f"{component.name}.onnx"),
            input_names=[component.inputs[0].name],
            output_names=names,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
