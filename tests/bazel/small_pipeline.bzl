"""What third_party/bazel/remote_execution_test.sh sends to a cluster: everything that people wait for, on few frames."""

load("//bazel:calibration.bzl", "calibration")
load("//bazel:evaluation.bzl", "evaluation")
load("//bazel:onnx_model.bzl", "onnx_model")
load("//bazel:sensitivity.bzl", "sensitivity")
load("//bazel:t4_dataset.bzl", "t4_dataset")
load("//bazel:trt_engines.bzl", "trt_engines")

def small_pipeline(name):
    """INT8 engines, sensitivity analysis and evaluation of the demo model; none of it is built but by name.

    Args:
      name: first part of every target's name.
    """
    common = {"tags": ["manual"], "version": "0"}
    config = "//configs/model:centerpoint_t4_demo.py"
    t4_dataset(
        name = name + "_frames",
        frames_per_scene = 4,
        seed = 3,
        tags = ["manual"],
        train_scenes = 2,
        val_scenes = 2,
    )
    calibration(
        name = name + "_calibration",
        checkpoint = "//models:zoo/centerpoint_t4_demo/checkpoint.pth",
        dataset = ":" + name + "_frames",
        model_config = config,
        num_batches = 8,
        **common
    )
    onnx_model(name = name + "_int8_onnx", calibration = ":" + name + "_calibration", precision = "int8", **common)
    trt_engines(name = name + "_int8_engines", onnx = ":" + name + "_int8_onnx", precision_policy = "int8", **common)
    sensitivity(
        name = name + "_sensitivity",
        calibration = ":" + name + "_calibration",
        dataset = ":" + name + "_frames",
        num_resamples = 100,
        num_samples = 2,
        **common
    )
    evaluation(name = name + "_evaluation", dataset = ":" + name + "_frames", onnx = ":" + name + "_int8_onnx", **common)
