"""The tiny CenterPoint with a dataset: what the deploy commands need of a model config."""

# ruff: noqa: C408 - a model config, spelt as such are

_base_ = ["tiny_centerpoint.py"]

model = dict(data_preprocessor=dict(voxel_layer=dict(max_voxels=(400, 400))))

val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="T4Dataset",
        data_root="data/does_not_exist",
        ann_file="centerpoint_infos_val.pkl",
        pipeline=[
            *_base_.load_points,
            dict(type="PointsRangeFilter", point_cloud_range=[-5.12, -5.12, -3.0, 5.12, 5.12, 5.0]),
            dict(type="Pack3DDetInputs", keys=["points"]),
        ],
        metainfo=_base_.metainfo,
        test_mode=True,
    ),
)
