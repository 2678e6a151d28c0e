"""What the artifact rules tell each other."""

T4DatasetInfo = provider(
    doc = "A T4 dataset folder.",
    fields = {
        "directory": "File: folder with centerpoint_infos_{train,val}.pkl and lidar/*.bin",
    },
)

CalibrationInfo = provider(
    doc = "A model quantized by calibration.",
    fields = {
        "checkpoint": "File: weights, scales and what is quantized",
        "model_config": "File: the mmengine config it belongs to",
        "model_config_files": "depset of File: that config and every config it may inherit from",
        "trained": "bool: whether its weights were trained, rather than drawn from a seed",
    },
)

OnnxModelInfo = provider(
    doc = "ONNX files of one model in one precision.",
    fields = {
        "directory": "File: folder with one .onnx a component and manifest.json",
        "model_config": "File: the mmengine config it was exported from",
        "model_config_files": "depset of File: that config and every config it may inherit from",
        "checkpoint": "File or None: the trained weights, or the quantized checkpoint in INT8; None means seeded ones",
        "seed": "int: seed of the weights where checkpoint is None",
        "precision": "string: fp32, fp16 or int8, the precision inside the graphs",
    },
)

TrtEnginesInfo = provider(
    doc = "TensorRT engines of one ONNX model.",
    fields = {
        "directory": "File: folder with one .engine a component, builder logs and manifest.json",
        "onnx": "OnnxModelInfo: what they were built from",
    },
)
