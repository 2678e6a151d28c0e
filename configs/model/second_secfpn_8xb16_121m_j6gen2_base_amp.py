"""CenterPoint J6 Gen2 base: 1020 x 1020 grid of 0.24 m pillars to 122.4 m, heatmaps at half resolution."""

_base_ = ["./_base_/centerpoint_t4.py"]

point_cloud_range = [-122.4, -122.4, -3.0, 122.4, 122.4, 5.0]
voxel_size = [0.24, 0.24, 8.0]
grid_size = [1020, 1020, 1]
out_size_factor = 2

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size, max_voxels=(96000, 96000))
    ),
    pts_voxel_encoder=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size),
    pts_middle_encoder=dict(output_shape=[1020, 1020]),
    pts_backbone=dict(layer_strides=[1, 2, 2]),
    pts_neck=dict(upsample_strides=[0.5, 1, 2]),
    pts_bbox_head=dict(
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
