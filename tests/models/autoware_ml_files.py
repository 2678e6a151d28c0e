"""A small model as autoware-ml has it: its config as a tree of YAML files, its checkpoint as Lightning saves it.

Written by hand from what its classes take; the names and shapes of the weights follow from its architecture alone.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["CLASSES", "FILES", "MODEL", "small_cloud", "their_state", "write_checkpoint", "write_configs"]

CLASSES = ("car", "truck", "bicycle", "pedestrian")
MODEL = "tasks/detection3d/centerpoint/voxel040_small"
# Of the last layer of a branch; of the first layer of all, whose inputs reach 255.
_GAIN = {"heatmap": 2.0, "dim": 0.5, "reg": 0.3, "height": 1.0, "rot": 1.0, "vel": 2.0, "pfn_layers": 0.02}

FILES = {
    MODEL: """\
# @package _global_
defaults:
  - /parts/pillars
  - /drives/detection3d
  - /drives/lidar
  - _self_

dataset: ${drives}
point_cloud_range: [-6.4, -6.4, -3.0, 6.4, 6.4, 5.0]
voxel_size: [0.4, 0.4, 8.0]

model:
  pts_middle_encoder:
    output_shape: [32, 32]
  pts_backbone:
    layer_strides: [1, 2, 2]
  bbox_head:
    out_size_factor: 2
    nms_min_radius: 1.0

datamodule:
  _target_: autoware_ml.datamodule.t4dataset.detection3d.T4Detection3DDataModule
  data_root: ${dataset.data_root}
  train_ann_file: info/small_infos_train.pkl
  val_ann_file: info/small_infos_val.pkl
  test_ann_file: info/small_infos_val.pkl
  val_transforms:
    _target_: autoware_ml.transforms.base.TransformsCompose
    pipeline:
      - _target_: autoware_ml.transforms.boxes3d.loading.LoadAnnotations3D
        name_mapping: ${dataset.detection3d.name_mapping}
        use_valid_flag: true
      - _target_: autoware_ml.transforms.point_cloud.sweeps.LoadPointsFromMultiSweeps
        sweeps_num: 2
        load_dim: 5
        use_dim: [0, 1, 2, 3, 4]
        time_dim: 4
        pad_empty_sweeps: true
        remove_close: true
      - _target_: autoware_ml.transforms.point_cloud.crop.PointsRangeFilter
        point_cloud_range: ${point_cloud_range}
  test_transforms: ${datamodule.val_transforms}
""",
    "parts/pillars": """\
# @package _global_
defaults:
  - runtime
  - _self_

dataset: ???
point_cloud_range: ???
voxel_size: ???

model:
  _target_: autoware_ml.models.detection3d.centerpoint.CenterPointDetectionModel
  metrics: ${dataset.detection3d.metrics}
  pts_voxel_encoder:
    _target_: autoware_ml.models.detection3d.encoders.pillar.PillarFeatureNet
    in_channels: 5
    feat_channels: [32, 32]
    voxel_size: ${voxel_size}
    point_cloud_range: ${point_cloud_range}
  pts_middle_encoder:
    _target_: autoware_ml.models.detection3d.encoders.pillar.PointPillarsScatter
    in_channels: 32
    output_shape: ???
  pts_backbone:
    _target_: autoware_ml.models.detection3d.backbones.second.SECONDBackbone
    in_channels: 32
    out_channels: [8, 16, 16]
    layer_nums: [1, 2, 1]
    layer_strides: ???
  pts_neck:
    _target_: autoware_ml.models.detection3d.necks.second_fpn.SECONDFPN
    in_channels: [8, 16, 16]
    out_channels: [8, 8, 8]
    upsample_strides: [0.5, 1, 2]
  bbox_head:
    _target_: autoware_ml.models.detection3d.heads.centerpoint.CenterHead
    in_channels: 24
    num_classes: ${dataset.detection3d.num_classes}
    class_names: ${dataset.detection3d.class_names}
    shared_channels: 16
    point_cloud_range: ${point_cloud_range}
    voxel_size: ${voxel_size}
    out_size_factor: ???
    max_objs: 500
    min_radius: 2
    score_threshold: 0.1
    post_max_size: 20
    nms_min_radius: ???
    use_velocity: true
  optimizer:
    _target_: torch.optim.AdamW
    _partial_: true
    lr: 0.0001

deploy:
  onnx:
    modules:
      pts_backbone_neck_head_centerpoint:
        output_names: [heatmap, reg, height, dim, rot, vel]
        metainfo:
          class_names: ${dataset.detection3d.class_names}
          voxel_size: ${voxel_size}
          has_twist: true

data_preprocessing:
  pipeline:
    - _target_: autoware_ml.preprocessing.detection3d.point_pillar.PointPillarPreprocessor
      voxel_size: ${voxel_size}
      point_cloud_range: ${point_cloud_range}
      max_num_points: 32
      max_voxels: 2000
""",
    "parts/runtime": """\
# @package _global_
hydra:
  run:
    dir: ${oc.env:RUN_DIR,runs/${now:%Y-%m-%d}}
trainer:
  _target_: lightning.Trainer
  precision: 32-true
""",
    "drives/base": """\
# @package drives
data_root: ${oc.env:AUTOWARE_ML_DATA_PATH}/drives
""",
    "drives/lidar": """\
# @package drives.lidar
defaults:
  - /drives/base
  - _self_
""",
    "drives/detection3d": """\
# @package drives.detection3d
defaults:
  - /drives/base
  - _self_

class_names: [car, truck, bicycle, pedestrian]
num_classes: 4
name_mapping:
  vehicle.car: car
  truck: truck
  motorcycle: bicycle
  pedestrian.adult: pedestrian
metrics:
  - _target_: autoware_ml.metrics.detection3d.suite.Detection3DMetricSuite
    class_names: ${drives.detection3d.class_names}
""",
}
"""Place in the tree -> text of the file."""


def write_configs(root: Path, **replace: str) -> Path:
    """Writes the tree below `root`, with one text in place of another everywhere; returns the model's file."""
    for name, text in FILES.items():
        for old, new in replace.items():
            text = text.replace(old, new)
        file = root / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root / f"{MODEL}.yaml"


def their_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of the model by autoware-ml's names, from a seed of numpy's generator; a heatmap of them is not flat."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def block(name: str, *shape: int, channels: int | None = None) -> None:
        shapes[f"{name}.conv.weight"] = shape
        norm(f"{name}.norm", channels or shape[0])

    # Layer 0 has half of its 32 units: their maximum is appended.
    for layer, (inputs, units) in enumerate([(11, 16), (32, 32)]):
        shapes[f"pts_voxel_encoder.pfn_layers.{layer}.linear.weight"] = (units, inputs)
        norm(f"pts_voxel_encoder.pfn_layers.{layer}.norm", units)
    channels = 32
    for level, (wide, more) in enumerate([(8, 1), (16, 2), (16, 1)]):
        for layer in range(1 + more):
            block(f"pts_backbone.blocks.{level}.{layer}", wide, channels, 3, 3)
            channels = wide
    shapes["pts_neck.blocks.0.0.weight"] = (8, 8, 2, 2)
    norm("pts_neck.blocks.0.1", 8)
    block("pts_neck.blocks.1", 16, 8, 1, 1, channels=8)
    block("pts_neck.blocks.2", 16, 8, 2, 2, channels=8)
    block("bbox_head.shared_conv", 16, 24, 3, 3)
    for branch, outputs in {"heatmap": 4, "reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}.items():
        block(f"bbox_head.{branch}.0", 16, 16, 3, 3)
        shapes[f"bbox_head.{branch}.1.weight"] = (outputs, 16, 1, 1)
        shapes[f"bbox_head.{branch}.1.bias"] = (outputs,)
    generator = np.random.default_rng(seed)
    return {name: _weight(name, shapes[name], generator) for name in sorted(shapes)}


def _weight(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> torch.Tensor:
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.tensor(7)
    if len(shape) > 1:
        part = name.split(".")[1] if name.endswith(("1.weight", "layers.0.linear.weight")) else ""
        values = generator.normal(0, _GAIN.get(part, 1.0) * math.sqrt(2 / math.prod(shape[1:])), shape)
        values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)  # what they see is positive
    elif kind in ("running_var", "weight"):
        values = generator.uniform(0.75, 1.25, shape)
    else:
        values = generator.normal(0, 0.1, shape)
    return torch.from_numpy(values.astype(np.float32))


def write_checkpoint(path: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """A checkpoint with what Lightning saves beside the weights; its hyper-parameters hold objects of classes."""
    torch.save(
        {
            "epoch": 29,
            "global_step": 1200,
            "pytorch-lightning_version": "2.5.5",
            "state_dict": their_state() if state is None else state,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 30, "completed": 29}}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val/loss'}": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {"optimizer": functools.partial(torch.optim.AdamW, lr=1e-4), "betas": torch.Size([2])},
        },
        path,
    )
    return path


def small_cloud(seed: int, count: int = 3000) -> NDArray[np.float32]:
    """(count, 5) float32 x, y, z, intensity, time lag, in clusters, a few of them outside the range."""
    generator = np.random.default_rng(seed)
    centers = generator.uniform(-6.6, 6.6, (60, 2))
    points = np.zeros((count, 5), np.float32)
    points[:, :2] = centers[generator.integers(0, len(centers), count)] + generator.normal(0, 0.3, (count, 2))
    points[:, 2] = generator.uniform(-2.5, 3.0, count)
    points[:, 3] = generator.uniform(0, 255, count)
    points[:, 4] = generator.choice([0.0, 0.1], count)
    return points
