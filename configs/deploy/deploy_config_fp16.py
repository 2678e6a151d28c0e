# The same deployment with FP16 inside: inputs and outputs of both components stay FP32.
_base_ = ["deploy_config.py"]

export = dict(work_dir="work_dirs/centerpoint_deployment_fp16")

backend_config = dict(common_config=dict(precision_policy="fp16"))
