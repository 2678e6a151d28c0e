"""Contradictory attributes fail at analysis, with the target's name and what is wrong."""

load("@bazel_skylib//lib:unittest.bzl", "analysistest", "asserts")
load("//bazel:autoware_bundle.bzl", "autoware_bundle")
load("//bazel:calibration.bzl", "calibration")
load("//bazel:deployment_report.bzl", "deployment_report")
load("//bazel:evaluation.bzl", "evaluation")
load("//bazel:onnx_model.bzl", "onnx_model")
load("//bazel:providers.bzl", "CalibrationInfo", "OnnxModelInfo", "TrtEnginesInfo")
load("//bazel:sensitivity.bzl", "sensitivity")
load("//bazel:t4_dataset.bzl", "t4_dataset")
load("//bazel:trt_engines.bzl", "trt_engines")

def _failure_test_impl(ctx):
    env = analysistest.begin(ctx)
    asserts.expect_failure(env, ctx.attr.message)
    asserts.expect_failure(env, "//tests/bazel:")
    return analysistest.end(env)

_failure_test = analysistest.make(
    _failure_test_impl,
    attrs = {"message": attr.string(mandatory = True)},
    expect_failure = True,
)

def _engines_test_impl(ctx):
    env = analysistest.begin(ctx)
    target = analysistest.target_under_test(env)
    asserts.equals(env, "fp16", target[TrtEnginesInfo].onnx.precision)
    asserts.equals(env, "good_engines-1.2.3", target[TrtEnginesInfo].directory.basename)
    actions = [action for action in analysistest.target_actions(env) if action.mnemonic == "TrtEngines"]
    asserts.equals(env, 1, len(actions))
    wrong = [
        file.short_path
        for file in actions[0].inputs.to_list()
        if file.short_path.split("/")[0] in ("eval", "runtime") or file.short_path.startswith("datasets/")
    ]
    asserts.equals(env, [], wrong)
    return analysistest.end(env)

_engines_test = analysistest.make(_engines_test_impl)

def _onnx_test_impl(ctx):
    env = analysistest.begin(ctx)
    target = analysistest.target_under_test(env)
    asserts.equals(env, 7, target[OnnxModelInfo].seed)
    actions = [action for action in analysistest.target_actions(env) if action.mnemonic == "OnnxExport"]
    asserts.equals(env, 1, len(actions))
    wrong = [
        file.short_path
        for file in actions[0].inputs.to_list()
        if file.short_path.split("/")[0] in ("eval", "quant", "runtime", "datasets", "training")
    ]
    asserts.equals(env, [], wrong)
    return analysistest.end(env)

_onnx_test = analysistest.make(_onnx_test_impl)

def _inputs_below(env, mnemonic, folders):
    actions = [action for action in analysistest.target_actions(env) if action.mnemonic == mnemonic]
    asserts.equals(env, 1, len(actions))
    return [file.short_path for file in actions[0].inputs.to_list() if file.short_path.split("/")[0] in folders]

def _calibration_test_impl(ctx):
    env = analysistest.begin(ctx)
    target = analysistest.target_under_test(env)
    asserts.false(env, target[CalibrationInfo].trained)
    names = sorted([file.basename for file in target[DefaultInfo].files.to_list()])
    asserts.equals(env, ["calibration.json", "checkpoint.pth", "manifest.json"], names)
    asserts.equals(env, [], _inputs_below(env, "Calibration", ["eval", "training"]))
    return analysistest.end(env)

_calibration_test = analysistest.make(_calibration_test_impl)

def _shards_test_impl(ctx):
    """One action a part, none of which waits for another, and one that takes all of them."""
    env = analysistest.begin(ctx)
    actions = [action for action in analysistest.target_actions(env) if action.mnemonic == ctx.attr.mnemonic]
    made = [sorted([file.short_path for file in action.outputs.to_list()]) for action in actions]
    parts = [files[0] for files in made if len(files) == 1 and "_parts/" in files[0]]
    asserts.equals(env, ctx.attr.parts, len(parts))
    asserts.equals(env, ctx.attr.parts + 1, len(actions))
    for action, files in zip(actions, made):
        taken = sorted([file.short_path for file in action.inputs.to_list() if "_parts/" in file.short_path])
        asserts.equals(env, [] if files[0] in parts else sorted(parts), taken)
    return analysistest.end(env)

_SHARDS_TEST_ATTRS = {"mnemonic": attr.string(mandatory = True), "parts": attr.int(mandatory = True)}
_shards_test = analysistest.make(_shards_test_impl, attrs = _SHARDS_TEST_ATTRS)
_shards_by_flag_test = analysistest.make(
    _shards_test_impl,
    attrs = _SHARDS_TEST_ATTRS,
    config_settings = {str(Label("//bazel:shards")): 5},
)

def _int8_onnx_test_impl(ctx):
    env = analysistest.begin(ctx)
    info = analysistest.target_under_test(env)[OnnxModelInfo]
    asserts.equals(env, "int8", info.precision)
    asserts.equals(env, None, info.checkpoint)  # drawn weights: nothing to score
    asserts.equals(env, [], _inputs_below(env, "OnnxExport", ["eval", "runtime", "datasets", "training"]))
    return analysistest.end(env)

_int8_onnx_test = analysistest.make(_int8_onnx_test_impl)

def _bundle_test_impl(ctx):
    env = analysistest.begin(ctx)
    actions = {action.mnemonic: action for action in analysistest.target_actions(env)}
    asserts.equals(env, ["AutowareBundle", "AutowareDetections", "OnnxExport"], sorted(actions.keys()))
    detected = [file.basename for file in actions["AutowareBundle"].inputs.to_list() if file.basename.endswith("_detections")]
    asserts.equals(env, ["good_bundle_detections"], detected)

    # Thresholds are measured on the files of the model that is bundled.
    models = [file.basename for file in actions["AutowareDetections"].inputs.to_list() if file.basename.endswith("_onnx-1.2.3")]
    asserts.equals(env, ["trained_onnx-1.2.3"], models)
    return analysistest.end(env)

_bundle_test = analysistest.make(_bundle_test_impl)

def rules_test_suite(name):
    """Targets with and without contradictions, and the tests on them.

    Args:
      name: name of the test suite.
    """
    config = "//configs/model:centerpoint_t4_demo.py"
    manual = {"tags": ["manual"], "version": "1.2.3"}
    onnx_model(name = "good_onnx", model_config = config, precision = "fp16", seed = 7, **manual)
    onnx_model(name = "fp32_onnx", model_config = config, seed = 7, **manual)
    trt_engines(name = "good_engines", onnx = ":good_onnx", **manual)

    calibration(name = "good_calibration", dataset = "//datasets:calibration", model_config = config, seed = 7, **manual)
    onnx_model(name = "int8_onnx", calibration = ":good_calibration", precision = "int8", **manual)
    calibration(name = "no_frames", dataset = "//datasets:calibration", model_config = config, num_batches = 0, seed = 7, **manual)
    calibration(name = "few_frames", dataset = "//datasets:calibration", model_config = config, num_batches = 3, seed = 7, **manual)
    calibration(
        name = "cut_calibration",
        dataset = "//datasets:calibration",
        model_config = config,
        seed = 7,
        shards = 4,
        **manual
    )
    calibration(
        name = "negative_shards",
        dataset = "//datasets:calibration",
        model_config = config,
        seed = 7,
        shards = -1,
        **manual
    )
    calibration(
        name = "cut_lidar_ptq",
        dataset = "//datasets:calibration",
        method = "lidar_ptq",
        model_config = config,
        seed = 7,
        shards = 2,
        **manual
    )
    sensitivity(name = "analysis", calibration = ":good_calibration", dataset = "//datasets:demo", **manual)
    evaluation(name = "evaluation_of_seed", dataset = "//datasets:demo", onnx = ":int8_onnx", **manual)
    onnx_model(name = "int8_of_seed", model_config = config, precision = "int8", seed = 7, **manual)
    onnx_model(name = "fp16_of_calibration", calibration = ":good_calibration", precision = "fp16", **manual)
    trt_engines(name = "int8_of_fp32", onnx = ":fp32_onnx", precision_policy = "int8", **manual)
    deployment_report(name = "int8_report_on_seed", dataset = "//datasets:demo", onnx = ":int8_onnx", **manual)

    onnx_model(name = "no_weights", model_config = config, **manual)
    onnx_model(name = "two_weights", model_config = config, checkpoint = ":any.pth", seed = 0, **manual)
    trt_engines(name = "fp16_of_fp32", onnx = ":fp32_onnx", precision_policy = "fp16", **manual)
    t4_dataset(name = "no_scenes", frames_per_scene = 1, split = "val", tags = ["manual"])
    t4_dataset(name = "negative", frames_per_scene = -1, split = "val", val_scenes = 1, tags = ["manual"])
    deployment_report(name = "report_on_seed", dataset = "//datasets:demo", onnx = ":good_onnx", **manual)

    autoware_bundle(name = "bundle_of_seed", dataset = "//datasets:validation", onnx = ":good_onnx", **manual)
    onnx_model(name = "trained_onnx", model_config = config, checkpoint = ":any.pth", **manual)
    autoware_bundle(
        name = "two_measurements",
        dataset = "//datasets:validation",
        detections = ":any.jsonl",
        onnx = ":trained_onnx",
        **manual
    )
    evaluation(name = "cut_evaluation", dataset = "//datasets:demo", onnx = ":trained_onnx", shards = 6, **manual)
    autoware_bundle(name = "good_bundle", dataset = "//datasets:validation", onnx = ":trained_onnx", **manual)

    failures = {
        "cut_lidar_ptq": "cannot be cut into shards",
        "negative_shards": "shards is -1, it must not be negative",
        "bundle_of_seed": "they have no place in a vehicle",
        "evaluation_of_seed": "there is nothing to score",
        "fp16_of_calibration": "calibration is for precision = 'int8'",
        "fp16_of_fp32": "contradicts",
        "int8_of_fp32": "scales come from a calibration",
        "int8_of_seed": "needs a calibration",
        "int8_report_on_seed": "there is nothing to score",
        "negative": "frames_per_scene is -1, it must not be negative",
        "no_frames": "num_batches is 0, at least one frame is needed",
        "no_scenes": "needs val_scenes of at least 1",
        "no_weights": "name a checkpoint or a seed",
        "report_on_seed": "there is nothing to score",
        "two_measurements": "detections and dataset exclude each other",
        "two_weights": "exclude each other",
    }
    for target, message in failures.items():
        _failure_test(name = target + "_test", message = message, target_under_test = ":" + target)
    _bundle_test(name = "good_bundle_test", target_under_test = ":good_bundle")
    _engines_test(name = "good_engines_test", target_under_test = ":good_engines")
    _onnx_test(name = "good_onnx_test", target_under_test = ":good_onnx")
    _calibration_test(name = "good_calibration_test", target_under_test = ":good_calibration")
    _int8_onnx_test(name = "int8_onnx_test", target_under_test = ":int8_onnx")
    _shards_test(name = "cut_calibration_test", mnemonic = "Calibration", parts = 4, target_under_test = ":cut_calibration")
    _shards_test(name = "cut_evaluation_test", mnemonic = "Evaluation", parts = 6, target_under_test = ":cut_evaluation")
    _shards_by_flag_test(name = "by_flag_test", mnemonic = "Calibration", parts = 5, target_under_test = ":good_calibration")
    _shards_by_flag_test(name = "few_frames_test", mnemonic = "Calibration", parts = 3, target_under_test = ":few_frames")
    _shards_by_flag_test(name = "analysis_test", mnemonic = "Sensitivity", parts = 5, target_under_test = ":analysis")
    native.test_suite(
        name = name,
        tests = [target + "_test" for target in failures.keys() + ["analysis", "by_flag", "cut_calibration", "cut_evaluation", "few_frames"] + ["good_bundle", "good_calibration", "good_engines", "good_onnx", "int8_onnx"]],
    )
