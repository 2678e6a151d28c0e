"""onnx_model: both components of a CenterPoint as ONNX files.

    onnx_model(
        name = "centerpoint_fp16_onnx",
        checkpoint = "//models/zoo/centerpoint_t4_demo:checkpoint",
        model_config = "//configs/model:centerpoint_t4_demo.py",
        precision = "fp16",
        version = "1.0.0",
    )

    onnx_model(
        name = "centerpoint_int8_onnx",
        calibration = ":centerpoint_calibration",
        precision = "int8",
        version = "1.0.0",
    )

Makes the folder `<name>-<version>` with pts_voxel_encoder.onnx, pts_backbone_neck_head.onnx and manifest.json
(hashes, tools' versions, the model as resolved). Without a checkpoint the weights are drawn from `seed`: for the size of things, not for detections.
"""

load("//bazel:providers.bzl", "CalibrationInfo", "OnnxModelInfo")

def _int8_sources(ctx):
    if ctx.attr.precision != "int8" or ctx.file.checkpoint or ctx.file.model_config or ctx.attr.seed >= 0:
        fail("{}: calibration is for precision = 'int8', and brings model_config and weights with it".format(ctx.label))
    info = ctx.attr.calibration[CalibrationInfo]
    return info.model_config, info.model_config_files, info.checkpoint, info.trained

def _float_sources(ctx):
    if ctx.attr.precision == "int8":
        fail("{}: precision = 'int8' needs a calibration: its scales are part of the graph".format(ctx.label))
    if not ctx.file.model_config:
        fail("{}: name a model_config".format(ctx.label))
    if ctx.file.checkpoint and ctx.attr.seed >= 0:
        fail("{}: checkpoint and seed exclude each other; weights are trained or drawn".format(ctx.label))
    if not ctx.file.checkpoint and ctx.attr.seed < 0:
        fail("{}: name a checkpoint or a seed of at least 0".format(ctx.label))
    configs = depset([ctx.file.model_config], transitive = [ctx.attr._configs[DefaultInfo].files])
    return ctx.file.model_config, configs, ctx.file.checkpoint, bool(ctx.file.checkpoint)

def _onnx_model_impl(ctx):
    int8 = bool(ctx.attr.calibration)
    model_config, configs, checkpoint, trained = _int8_sources(ctx) if int8 else _float_sources(ctx)
    out = ctx.actions.declare_directory("{}-{}".format(ctx.label.name, ctx.attr.version))
    args = ctx.actions.args()
    args.add("--model-config", model_config)
    inputs = [configs]
    if checkpoint:
        args.add("--quantized-checkpoint" if int8 else "--checkpoint", checkpoint)
        inputs.append(depset([checkpoint]))
    else:
        args.add("--seed", ctx.attr.seed)
    args.add("--precision", ctx.attr.precision)
    if ctx.attr.opset:
        args.add("--opset", ctx.attr.opset)
    if ctx.attr.simplify:
        args.add("--simplify")
    if ctx.attr.rot_y_axis_reference:
        args.add("--rot-y-axis-reference")
    args.add_all("--out", [out], expand_directories = False)
    ctx.actions.run(
        executable = ctx.executable._int8_exporter if int8 else ctx.executable._exporter,
        arguments = [args],
        inputs = depset(transitive = inputs),
        outputs = [out],
        mnemonic = "OnnxExport",
        progress_message = "Exporting ONNX %{label}",
        use_default_shell_env = True,
    )
    files = depset([out])
    return [
        DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files)),
        OnnxModelInfo(
            directory = out,
            model_config = model_config,
            model_config_files = configs,
            checkpoint = checkpoint if trained else None,
            seed = ctx.attr.seed,
            precision = ctx.attr.precision,
        ),
    ]

onnx_model = rule(
    implementation = _onnx_model_impl,
    doc = "Exports a model with //export/tools:export_onnx.",
    attrs = {
        "model_config": attr.label(allow_single_file = [".py"], doc = "mmengine model config; not with calibration"),
        "calibration": attr.label(providers = [CalibrationInfo], doc = "a calibration, for precision = 'int8'"),
        "checkpoint": attr.label(allow_single_file = [".pth"], doc = "trained weights; or use seed"),
        "seed": attr.int(default = -1, doc = "seed of drawn weights where there is no checkpoint"),
        "precision": attr.string(default = "fp32", values = ["fp32", "fp16", "int8"], doc = "inside the graphs; in- and outputs are FP32"),
        "opset": attr.int(doc = "ONNX operator set; 17, or 19 for int8, where it is left out"),
        "simplify": attr.bool(default = False, doc = "run onnx-simplifier"),
        "rot_y_axis_reference": attr.bool(default = False, doc = "fold Autoware's yaw convention into the head"),
        "version": attr.string(mandatory = True, doc = "version of the artifact, in the folder's name"),
        "_configs": attr.label(default = "//configs/model"),
        "_exporter": attr.label(default = "//export/tools:export_onnx", executable = True, cfg = "exec"),
        "_int8_exporter": attr.label(default = "//export/tools:export_int8_onnx", executable = True, cfg = "exec"),
    },
)
