"""The tiny CenterPoint with everything that the specification's blocks ask of a model config."""

# ruff: noqa: C408 - a model config, spelt as such are

_base_ = ["../deploy/tiny_deployment.py"]

point_cloud_range = [-5.12, -5.12, -3.0, 5.12, 5.12, 5.0]

# mmdet3d's decoder takes no more boxes than the 16 x 16 heatmap has cells.
model = dict(pts_bbox_head=dict(bbox_coder=dict(max_num=200)))

train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        pipeline=[
            *_base_.load_points,
            dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
            dict(type="RandomFlip3D", sync_2d=False, flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5),
            dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
            dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
            dict(type="ObjectNameFilter", classes=_base_.class_names),
            dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"]),
        ],
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root="data/t4dataset/", pipeline=_base_.val_dataloader.dataset.pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(point_cloud_range=point_cloud_range)
test_evaluator = val_evaluator
