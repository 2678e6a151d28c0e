# ruff: noqa: C408 - the style of the configs that it imitates
model = dict(
    type="CenterPoint",
    data_preprocessor=dict(type="Det3DDataPreprocessor", voxel=True, voxel_layer=dict(max_num_points=20)),
    pts_voxel_encoder=dict(
        type="PillarFeatureNet", in_channels=4, feat_channels=[64], norm_cfg=dict(type="BN1d", eps=1e-3), legacy=False
    ),
    pts_middle_encoder=dict(type="PointPillarsScatter", in_channels=64),
    pts_backbone=dict(
        type="SECOND",
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.01),
        conv_cfg=dict(type="Conv2d", bias=False),
    ),
    pts_neck=dict(
        type="SECONDFPN",
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.01),
        upsample_cfg=dict(type="deconv", bias=False),
        use_conv_for_no_stride=True,
    ),
    pts_bbox_head=dict(
        type="CenterHead",
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        bbox_coder=dict(type="CenterPointBBoxCoder", max_num=500, score_threshold=0.1, code_size=9),
        share_conv_channel=64,
        separate_head=dict(type="SeparateHead", init_bias=-2.19, final_kernel=1),
        loss_cls=dict(type="mmdet.GaussianFocalLoss", reduction="mean"),
        loss_bbox=dict(type="mmdet.L1Loss", reduction="mean", loss_weight=0.25),
        norm_bbox=True,
    ),
    train_cfg=dict(pts=dict(dense_reg=1, gaussian_overlap=0.1, max_objs=500, min_radius=2, code_weights=[1.0] * 10)),
    test_cfg=dict(pts=dict(nms_type="circle", min_radius=[1.0], post_max_size=100)),
)
