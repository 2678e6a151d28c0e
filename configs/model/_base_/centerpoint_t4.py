"""Pillar CenterPoint on T4 data: what all model configs share. The grid is the children's."""

default_scope = "mmdet3d"

# What mmengine's and mmdet3d's own tools need to know of this project (from its root, or with it on PYTHONPATH):
# T4Dataset, DetectionMetric, QATHook and DetectionMapHook by name. Of this project's commands only training reads it.
custom_imports = dict(
    imports=["datasets.t4", "eval.mmengine_metric", "quant.hooks.qat_hook", "quant.hooks.detection_map_hook"],
    allow_failed_imports=False,
)

class_names = ["car", "truck", "bus", "bicycle", "pedestrian"]
metainfo = dict(classes=class_names)
data_root = "data/t4dataset/"
backend_args = None

model = dict(
    type="CenterPoint",
    data_preprocessor=dict(
        type="Det3DDataPreprocessor",
        voxel=True,
        voxel_layer=dict(max_num_points=32, deterministic=True),
    ),
    pts_voxel_encoder=dict(
        type="PillarFeatureNet",
        in_channels=5,
        feat_channels=[32, 32],
        with_distance=False,
        norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.01),
        legacy=False,
    ),
    pts_middle_encoder=dict(type="PointPillarsScatter", in_channels=32),
    pts_backbone=dict(
        type="SECOND",
        in_channels=32,
        out_channels=[64, 128, 256],
        layer_nums=[3, 5, 5],
        layer_strides=[1, 2, 2],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.01),
        conv_cfg=dict(type="Conv2d", bias=False),
    ),
    pts_neck=dict(
        type="SECONDFPN",
        in_channels=[64, 128, 256],
        out_channels=[128, 128, 128],
        upsample_strides=[1, 2, 4],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.01),
        upsample_cfg=dict(type="deconv", bias=False),
        use_conv_for_no_stride=True,
    ),
    pts_bbox_head=dict(
        type="CenterHead",
        in_channels=384,
        tasks=[dict(num_class=len(class_names), class_names=class_names)],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        share_conv_channel=64,
        bbox_coder=dict(
            type="CenterPointBBoxCoder",
            max_num=500,
            score_threshold=0.1,
            code_size=9,
            post_center_range=[-200.0, -200.0, -10.0, 200.0, 200.0, 10.0],
        ),
        separate_head=dict(type="SeparateHead", init_bias=-4.595, final_kernel=1),
        loss_cls=dict(type="mmdet.GaussianFocalLoss", reduction="mean"),
        loss_bbox=dict(type="mmdet.L1Loss", reduction="mean", loss_weight=0.25),
        norm_bbox=True,
    ),
    train_cfg=dict(
        pts=dict(
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=500,
            min_radius=2,
            code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
        )
    ),
    test_cfg=dict(
        pts=dict(
            post_center_limit_range=[-200.0, -200.0, -10.0, 200.0, 200.0, 10.0],
            max_per_img=500,
            max_pool_nms=False,
            min_radius=[1.0],
            score_threshold=0.1,
            nms_type="circle",
            pre_max_size=1000,
            post_max_size=100,
            nms_thr=0.2,
        )
    ),
)

# One earlier sweep beside the key frame: enough to see motion, and what Autoware's node densifies with by default.
load_points = [
    dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5, backend_args=backend_args),
    dict(
        type="LoadPointsFromMultiSweeps",
        sweeps_num=1,
        load_dim=5,
        use_dim=[0, 1, 2, 3, 4],
        pad_empty_sweeps=True,
        remove_close=True,
        test_mode=True,
        backend_args=backend_args,
    ),
]

# The children add their pipelines, which depend on the range.
train_dataloader = dict(
    batch_size=16,
    num_workers=14,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="T4Dataset",
        data_root=data_root,
        ann_file="centerpoint_infos_train.pkl",
        metainfo=metainfo,
        test_mode=False,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="T4Dataset",
        data_root=data_root,
        ann_file="centerpoint_infos_val.pkl",
        metainfo=metainfo,
        test_mode=True,
        box_type_3d="LiDAR",
    ),
)
test_dataloader = val_dataloader

# For mmengine's own loops; the children add the range that is scored. This project's commands evaluate by themselves.
val_evaluator = dict(type="DetectionMetric")
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()

# The recipe of the large models; the demo has its own.
train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=5)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=3e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=15, norm_type=2),
)
param_scheduler = [
    dict(type="OneCycleLR", eta_max=3e-3, pct_start=0.3, by_epoch=True, convert_to_iter_based=True, total_steps=50)
]
