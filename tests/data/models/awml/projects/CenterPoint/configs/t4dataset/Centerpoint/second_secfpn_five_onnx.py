# ruff: noqa: C408 - the style of the configs that it imitates
"""Types as an exporter's run leaves them in a config, on five classes with intensity."""

_base_ = ["./second_secfpn_seven.py"]

custom_imports = dict(imports=["projects.CenterPoint.models"], allow_failed_imports=False)
class_names = ["car", "truck", "bus", "bicycle", "pedestrian"]
model = dict(
    type="CenterPointONNX",
    pts_voxel_encoder=dict(type="PillarFeatureNetONNX", in_channels=5),
    pts_backbone=dict(frozen_stages=[0]),
    pts_bbox_head=dict(
        type="CenterHeadONNX",
        freeze_shared_conv=True,
        tasks=[dict(num_class=5, class_names=class_names)],
        separate_head=dict(type="SeparateHeadONNX"),
    ),
)
load_points = [
    dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5),
    dict(type="LoadPointsFromMultiSweeps", sweeps_num=1, load_dim=5, use_dim=[0, 1, 2, 3, 4], pad_empty_sweeps=True),
]
test_pipeline = [*load_points, dict(type="Pack3DDetInputs", keys=["points"])]
dataset = dict(metainfo=dict(classes=class_names), class_names=class_names, pipeline=test_pipeline)
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
