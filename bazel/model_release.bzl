"""model_release: everything that is made of one trained checkpoint, by one name.

    load("//bazel:model_release.bzl", "model_release")

    model_release(
        name = "urban",
        calibration_dataset = ":urban_train",
        checkpoint = "urban.pth",
        dataset = ":urban_val",
        model_config = "//configs/model:second_secfpn_4xb16_121m_base_amp.py",
        version = "2.3.0",
    )

makes `urban_onnx`, `urban_fp16_onnx`, `urban_fp32_engines`, `urban_fp16_engines`, `urban_calibration`, `urban_int8_onnx`,
`urban_int8_engines`, `urban_fp16_bundle`, `urban_int8_bundle`, `urban_report`, `urban_int8_report` and `urban_provenance`;
`urban` stands for all of them but the reports, which measure the machine. By name alone there are `urban_sensitivity`,
`urban_evaluation` and `urban_int8_evaluation`, which take minutes to hours. Two versions of a model are two names beside each other.
"""

load("//bazel:autoware_bundle.bzl", "autoware_bundle")
load("//bazel:calibration.bzl", "calibration")
load("//bazel:deployment_report.bzl", "deployment_report")
load("//bazel:evaluation.bzl", "evaluation")
load("//bazel:onnx_model.bzl", "onnx_model")
load("//bazel:provenance.bzl", "provenance")
load("//bazel:sensitivity.bzl", "sensitivity")
load("//bazel:trt_engines.bzl", "trt_engines")

def model_release(
        name,
        model_config,
        calibration_dataset,
        version,
        checkpoint = None,
        dataset = None,
        deploy_config = None,
        bundle_dataset = None,
        num_batches = 100,
        num_samples = -1,
        shards = 0,
        skip_layers = [],
        tags = []):
    """All artifacts of one model.

    Args:
      name: first part of every target's name.
      model_config: mmengine model config.
      calibration_dataset: a t4_dataset to calibrate INT8 on, its training frames.
      version: version of the artifacts, in the folders' names.
      checkpoint: trained weights; None draws weights from seed 0, which have no bundles and no reports.
      dataset: a t4_dataset to score on; None makes no reports.
      deploy_config: deploy configuration whose `quantization.sensitive_layers` stay in floating point in INT8.
      bundle_dataset: what score thresholds of the bundles are measured on; None takes the node's usual ones.
      num_batches: frames to calibrate on.
      num_samples: frames to score; -1 for all.
      shards: actions that share the calibration, the analysis and the evaluations; 0: as --//bazel:shards says.
      skip_layers: further layers and patterns kept in floating point. The sensitivity analysis measures them all.
      tags: of every target, such as "manual" for a release that `//...` leaves alone.
    """
    seed = -1 if checkpoint else 0
    for precision, infix, engines in [("fp32", "", "_fp32"), ("fp16", "_fp16", "_fp16")]:
        onnx_model(
            name = name + infix + "_onnx",
            checkpoint = checkpoint,
            model_config = model_config,
            precision = precision,
            seed = seed,
            tags = tags,
            version = version,
        )
        trt_engines(
            name = name + engines + "_engines",
            onnx = ":" + name + infix + "_onnx",
            tags = tags,
            version = version,
        )
    calibration(
        name = name + "_calibration",
        checkpoint = checkpoint,
        dataset = calibration_dataset,
        deploy_config = deploy_config,
        model_config = model_config,
        num_batches = num_batches,
        seed = seed,
        shards = shards,
        skip_layers = skip_layers,
        tags = tags,
        version = version,
    )
    onnx_model(
        name = name + "_int8_onnx",
        calibration = ":" + name + "_calibration",
        precision = "int8",
        tags = tags,
        version = version,
    )
    trt_engines(
        name = name + "_int8_engines",
        onnx = ":" + name + "_int8_onnx",
        precision_policy = "int8",
        tags = tags,
        version = version,
    )
    made = ["_onnx", "_fp16_onnx", "_fp32_engines", "_fp16_engines", "_calibration", "_int8_onnx", "_int8_engines"]
    if checkpoint:
        for precision in ["fp16", "int8"]:
            autoware_bundle(
                name = "{}_{}_bundle".format(name, precision),
                dataset = bundle_dataset,
                onnx = ":{}_{}_onnx".format(name, precision),
                tags = tags,
                version = version,
            )
            made.append("_{}_bundle".format(precision))
    if checkpoint and dataset:
        for infix, engines in [("", "_fp32"), ("_int8", "_int8")]:
            deployment_report(
                name = name + infix + "_report",
                dataset = dataset,
                engines = ":" + name + engines + "_engines",
                num_samples = num_samples,
                num_verify_samples = 5,
                onnx = ":" + name + infix + "_onnx",
                tags = tags,
                version = version,
            )
            evaluation(
                name = name + infix + "_evaluation",
                dataset = dataset,
                num_samples = num_samples,
                onnx = ":" + name + infix + "_onnx",
                shards = shards,
                tags = tags + ["manual"],
                version = version,
            )
        measured = name + "_calibration"
        if deploy_config or skip_layers:
            measured = name + "_whole_calibration"
            calibration(
                name = measured,
                checkpoint = checkpoint,
                dataset = calibration_dataset,
                model_config = model_config,
                num_batches = num_batches,
                shards = shards,
                tags = tags + ["manual"],
                version = version,
            )
        sensitivity(
            name = name + "_sensitivity",
            calibration = ":" + measured,
            dataset = dataset,
            num_samples = num_samples,
            shards = shards,
            tags = tags + ["manual"],
            version = version,
        )
    artifacts = [":" + name + part for part in made]
    provenance(
        name = name + "_provenance",
        artifacts = artifacts,
        tags = tags,
        version = version,
    )
    native.filegroup(
        name = name,
        srcs = artifacts + [":" + name + "_provenance"],
        tags = tags,
    )
