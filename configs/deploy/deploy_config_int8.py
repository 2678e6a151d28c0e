# The same deployment in INT8, with FP16 where a layer is not quantized. A float checkpoint is calibrated on the
# training split; a checkpoint that is quantized already (PTQ or QAT) is used as it is. See docs/quantization.md.
_base_ = ["deploy_config.py"]

export = dict(work_dir="work_dirs/centerpoint_deployment_int8")

# Scales may be FP16 from this operator set on.
onnx_config = dict(opset_version=19)

backend_config = dict(common_config=dict(precision_policy="int8"))

quantization = dict(
    enabled=True,
    mode="ptq",  # 'ptq', 'qat'
    engine="pytorch_quantization",  # 'pytorch_quantization', 'modelopt'
    method="calibrate",  # 'calibrate', 'bias_correction', 'lidar_ptq'
    calibration=dict(
        num_batches=100,
        method="histogram",  # 'histogram', 'max'
        amax_method="mse",  # 'mse', 'sparse_mse', 'percentile', 'entropy', 'max'
        split="train",
    ),
    fusion=dict(fuse_bn=True),
    # Layers kept in floating point, besides the voxel encoder and the last convolution of each head: the first block's
    # four, without which INT8 cannot be told from FP16 on 10,000 frames (docs/benchmarks/int8_accuracy.md).
    sensitive_layers=["pts_backbone.blocks.0.*"],
)
