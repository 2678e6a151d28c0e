"""CenterPoint small enough to export and build in a test: 32 x 32 grid, heatmaps at half resolution."""

# ruff: noqa: C408 - a model config, spelt as such are

_base_ = ["../../../configs/model/_base_/centerpoint_t4.py"]

point_cloud_range = [-5.12, -5.12, -3.0, 5.12, 5.12, 5.0]
voxel_size = [0.32, 0.32, 8.0]

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size, max_voxels=(64, 48))
    ),
    pts_voxel_encoder=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size),
    pts_middle_encoder=dict(output_shape=[32, 32]),
    pts_backbone=dict(out_channels=[16, 16, 16], layer_nums=[1, 1, 1], layer_strides=[2, 2, 2]),
    pts_neck=dict(in_channels=[16, 16, 16], out_channels=[8, 8, 8], upsample_strides=[1, 2, 4]),
    pts_bbox_head=dict(
        in_channels=24,
        share_conv_channel=16,
        bbox_coder=dict(pc_range=point_cloud_range, voxel_size=voxel_size[:2], out_size_factor=2),
    ),
    train_cfg=dict(
        pts=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size, grid_size=[32, 32, 1], out_size_factor=2)
    ),
    test_cfg=dict(pts=dict(pc_range=point_cloud_range[:2], voxel_size=voxel_size[:2], out_size_factor=2)),
)

val_dataloader = dict(dataset=dict(pipeline=_base_.load_points))
test_dataloader = val_dataloader
