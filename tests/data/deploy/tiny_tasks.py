"""The tiny CenterPoint with six tasks as mmdet3d's nuScenes configs have them: 3x3 heads, suppression by overlap."""

# ruff: noqa: C408 - a model config, spelt as such are

_base_ = ["tiny_deployment.py"]

model = dict(
    pts_bbox_head=dict(
        tasks=[
            dict(num_class=1, class_names=["car"]),
            dict(num_class=2, class_names=["truck", "construction_vehicle"]),
            dict(num_class=2, class_names=["bus", "trailer"]),
            dict(num_class=1, class_names=["barrier"]),
            dict(num_class=2, class_names=["motorcycle", "bicycle"]),
            dict(num_class=2, class_names=["pedestrian", "traffic_cone"]),
        ],
        # Chains of three convolutions and of one, and an output that no box is made of.
        common_heads=dict(_delete_=True, reg=(2, 2), height=(1, 3), dim=(3, 2), rot=(2, 2), vel=(2, 1), iou=(1, 2)),
        share_conv_channel=64,
        num_heatmap_convs=2,
        bbox_coder=dict(max_num=100),
        separate_head=dict(type="SeparateHead", init_bias=-2.19, final_kernel=3),
    ),
    test_cfg=dict(
        pts=dict(
            _delete_=True,
            nms_type="rotate",
            nms_thr=0.2,
            pre_max_size=1000,
            post_max_size=83,
            score_threshold=0.1,
            post_center_limit_range=[-10.0, -10.0, -10.0, 10.0, 10.0, 10.0],
        )
    ),
)

classes = [
    *("car", "truck", "construction_vehicle", "bus", "trailer"),
    *("barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone"),
]
val_dataloader = dict(dataset=dict(metainfo=dict(_delete_=True, classes=classes)))
train_dataloader = dict(dataset=dict(metainfo=dict(_delete_=True, classes=classes)))
