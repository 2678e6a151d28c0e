# ruff: noqa: C408 - the style of the configs that it imitates
default_scope = "mmdet3d"
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork"), dist_cfg=dict(backend="nccl"))
log_level = "INFO"
load_from = None
resume = False
