# ruff: noqa: C408 - the style of the configs that it imitates
_base_ = [
    "../../../../../autoware_ml/configs/detection3d/default_runtime.py",
    "../../../../../autoware_ml/configs/detection3d/dataset/t4dataset/seven.py",
    "../../default/second_secfpn.py",
]
custom_imports = dict(imports=["projects.CenterPoint.models"], allow_failed_imports=False)
custom_imports["imports"] += _base_.custom_imports["imports"]
custom_imports["imports"] += ["autoware_ml.detection3d.datasets.transforms", "autoware_ml.hooks"]

point_cloud_range = [-25.6, -25.6, -3.0, 25.6, 25.6, 5.0]
voxel_size = [0.4, 0.4, 8.0]
grid_size = [128, 128, 1]
out_size_factor = 2
data_root = "data/t4dataset/"

load_points = [
    dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5),
    dict(
        type="LoadPointsFromMultiSweeps",
        sweeps_num=1,
        load_dim=5,
        use_dim=[0, 1, 2, 4],
        pad_empty_sweeps=True,
        remove_close=True,
        test_mode=True,
    ),
]
train_pipeline = [
    *load_points,
    dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(type="ObjectNameFilter", classes={{_base_.class_names}}),
    dict(type="ObjectMinPointsFilter", min_num_points=5),
    dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"]),
]
test_pipeline = [
    *load_points,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"]),
]
dataset = dict(
    type=_base_.dataset_type,
    data_root=data_root,
    ann_file=_base_.info_val_file_name,
    modality=dict(use_lidar=True, use_camera=False),
    metainfo=_base_.metainfo,
    class_names=_base_.class_names,
    data_prefix=_base_.data_prefix,
    box_type_3d="LiDAR",
)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline, test_mode=False, **dataset))
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline, test_mode=True, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type="T4MetricV2", class_names={{_base_.class_names}}, num_workers=64)
test_evaluator = val_evaluator

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(
            max_num_points=32,
            voxel_size=voxel_size,
            point_cloud_range=point_cloud_range,
            max_voxels=(8000, 8000),
            deterministic=True,
        ),
    ),
    pts_voxel_encoder=dict(
        type="PillarFeatureNet",
        in_channels=4,
        feat_channels=[32, 32],
        with_cluster_center=True,
        with_voxel_center=True,
        point_cloud_range=point_cloud_range,
        voxel_size=voxel_size,
    ),
    pts_middle_encoder=dict(in_channels=32, output_shape=(grid_size[0], grid_size[1])),
    pts_backbone=dict(in_channels=32, out_channels=[32, 64, 64], layer_nums=[1, 1, 1], layer_strides=[1, 2, 2]),
    pts_neck=dict(in_channels=[32, 64, 64], out_channels=[32, 32, 32], upsample_strides=[0.5, 1, 2]),
    pts_bbox_head=dict(
        in_channels=sum([32, 32, 32]),
        tasks=[dict(num_class=7, class_names={{_base_.class_names}})],
        bbox_coder=dict(
            voxel_size=voxel_size,
            pc_range=point_cloud_range,
            post_center_range=[-200.0, -200.0, -10.0, 200.0, 200.0, 10.0],
            out_size_factor=out_size_factor,
        ),
        separate_head=dict(type="CustomSeparateHead", init_bias=-4.595, final_kernel=1),
        loss_cls=dict(type="mmdet.AmpGaussianFocalLoss", reduction="none", loss_weight=1.0),
    ),
    train_cfg=dict(
        pts=dict(
            grid_size=grid_size,
            voxel_size=voxel_size,
            point_cloud_range=point_cloud_range,
            out_size_factor=out_size_factor,
        )
    ),
    test_cfg=dict(
        pts=dict(
            grid_size=grid_size,
            out_size_factor=out_size_factor,
            pc_range=point_cloud_range,
            voxel_size=voxel_size,
            post_center_limit_range=[-200.0, -200.0, -10.0, 200.0, 200.0, 10.0],
        )
    ),
)
randomness = dict(seed=0, deterministic=True)
sync_bn = "torch"
custom_hooks = [dict(type="MomentumInfoHook"), dict(type="LossScaleInfoHook")]
