# ruff: noqa: C408 - the style of the configs that it imitates
custom_imports = dict(
    imports=[
        "autoware_ml.detection3d.datasets.t4dataset",
        "autoware_ml.detection3d.evaluation.t4metric.t4metric_v2",
    ]
)
dataset_type = "T4Dataset"
info_val_file_name = "centerpoint_infos_val.pkl"
class_names = ["car", "truck", "bus", "trailer", "motorcycle", "bicycle", "pedestrian"]
metainfo = dict(classes=class_names)
data_prefix = dict(pts="", sweeps="")
filter_attributes = [("bicycle", "cycle_state.without_rider")]
