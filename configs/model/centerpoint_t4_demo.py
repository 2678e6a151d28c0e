"""CenterPoint demo: 320 x 320 grid of 0.32 m pillars to 51.2 m, heatmaps at half resolution; 33 GFLOP a frame."""

_base_ = ["./_base_/centerpoint_t4.py"]

point_cloud_range = [-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]
voxel_size = [0.32, 0.32, 8.0]
grid_size = [320, 320, 1]
out_size_factor = 2

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size, max_voxels=(30000, 30000))
    ),
    pts_voxel_encoder=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size),
    pts_middle_encoder=dict(output_shape=[320, 320]),
    pts_backbone=dict(out_channels=[64, 128, 192], layer_nums=[3, 5, 3], layer_strides=[2, 2, 2]),
    pts_neck=dict(in_channels=[64, 128, 192], out_channels=[96, 96, 96], upsample_strides=[1, 2, 4]),
    pts_bbox_head=dict(
        in_channels=288,
        bbox_coder=dict(pc_range=point_cloud_range, voxel_size=voxel_size[:2], out_size_factor=out_size_factor),
    ),
    train_cfg=dict(
        pts=dict(
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            grid_size=grid_size,
            out_size_factor=out_size_factor,
        )
    ),
    test_cfg=dict(pts=dict(pc_range=point_cloud_range[:2], voxel_size=voxel_size[:2], out_size_factor=out_size_factor)),
)

train_pipeline = [
    *_base_.load_points,
    dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(type="RandomFlip3D", sync_2d=False, flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5),
    dict(
        type="GlobalRotScaleTrans",
        rot_range=[-1.571, 1.571],
        scale_ratio_range=[0.9, 1.1],
        translation_std=[0.5, 0.5, 0.2],
    ),
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectNameFilter", classes=_base_.class_names),
    dict(type="PointShuffle"),
    dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"]),
]
test_pipeline = [
    *_base_.load_points,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="Pack3DDetInputs", keys=["points"]),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(point_cloud_range=point_cloud_range)
test_evaluator = val_evaluator

# For mmengine's Runner. The shipped checkpoint (models/zoo/centerpoint_t4_demo) is of `training.on_device`.
train_cfg = dict(by_epoch=True, max_epochs=24, val_interval=24)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=15, norm_type=2),
)
param_scheduler = [
    dict(type="OneCycleLR", eta_max=2e-3, pct_start=0.3, by_epoch=True, convert_to_iter_based=True, total_steps=24)
]
