"""onnx_model: both components of a CenterPoint as ONNX files.

    onnx_model(
        name = "centerpoint_fp16_onnx",
        checkpoint = "//models/zoo/centerpoint_t4_demo:checkpoint",
        model_config = "//configs/model:centerpoint_t4_demo.py",
        precision = "fp16",
        version = "1.0.0",
    )

Makes the folder `<name>-<version>` with pts_voxel_encoder.onnx, pts_backbone_neck_head.onnx and manifest.json
(hashes, tools' versions, the model as resolved). Without a checkpoint the weights are drawn from `seed`: for the size of things, not for detections.
"""

load("//bazel:providers.bzl", "OnnxModelInfo")

def _onnx_model_impl(ctx):
    if ctx.file.checkpoint and ctx.attr.seed >= 0:
        fail("{}: checkpoint and seed exclude each other; weights are trained or drawn".format(ctx.label))
    if not ctx.file.checkpoint and ctx.attr.seed < 0:
        fail("{}: name a checkpoint or a seed of at least 0".format(ctx.label))
    out = ctx.actions.declare_directory("{}-{}".format(ctx.label.name, ctx.attr.version))
    configs = depset([ctx.file.model_config], transitive = [ctx.attr._configs[DefaultInfo].files])
    args = ctx.actions.args()
    args.add("--model-config", ctx.file.model_config)
    inputs = [configs]
    if ctx.file.checkpoint:
        args.add("--checkpoint", ctx.file.checkpoint)
        inputs.append(depset([ctx.file.checkpoint]))
    else:
        args.add("--seed", ctx.attr.seed)
    args.add("--precision", ctx.attr.precision)
    args.add("--opset", ctx.attr.opset)
    if ctx.attr.simplify:
        args.add("--simplify")
    if ctx.attr.rot_y_axis_reference:
        args.add("--rot-y-axis-reference")
    args.add_all("--out", [out], expand_directories = False)
    ctx.actions.run(
        executable = ctx.executable._exporter,
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
            model_config = ctx.file.model_config,
            model_config_files = configs,
            checkpoint = ctx.file.checkpoint,
            seed = ctx.attr.seed,
            precision = ctx.attr.precision,
        ),
    ]

onnx_model = rule(
    implementation = _onnx_model_impl,
    doc = "Exports a model with //deploy/tools:export_onnx.",
    attrs = {
        "model_config": attr.label(mandatory = True, allow_single_file = [".py"], doc = "mmengine model config"),
        "checkpoint": attr.label(allow_single_file = [".pth"], doc = "trained weights; or use seed"),
        "seed": attr.int(default = -1, doc = "seed of drawn weights where there is no checkpoint"),
        "precision": attr.string(default = "fp32", values = ["fp32", "fp16"], doc = "inside the graphs; in- and outputs are FP32"),
        "opset": attr.int(default = 17, doc = "ONNX operator set"),
        "simplify": attr.bool(default = False, doc = "run onnx-simplifier"),
        "rot_y_axis_reference": attr.bool(default = False, doc = "fold Autoware's yaw convention into the head"),
        "version": attr.string(mandatory = True, doc = "version of the artifact, in the folder's name"),
        "_configs": attr.label(default = "//configs/model"),
        "_exporter": attr.label(default = "//deploy/tools:export_onnx", executable = True, cfg = "exec"),
    },
)
