"""autoware_bundle: a folder that Autoware's lidar_centerpoint node loads as `model_path`.

    autoware_bundle(
        name = "centerpoint_fp16_bundle",
        dataset = "//datasets:validation",
        onnx = ":centerpoint_fp16_onnx",
        version = "1.0.0",
    )

With a `dataset`, the node's score thresholds are measured: the ONNX files of `onnx` detect on its validation frames, and the
confidence with the largest F1 of every class and distance goes into the bundle. Without one they are the node's usual 0.35.

Makes the folder `<name>-<version>` with both ONNX files, ml_package.param.yaml, detection_class_remapper.param.yaml and
README.md. `onnx` names the model, its weights and its precision; the files are exported anew, with the number of pillars
fixed and the node's yaw convention. The bundle is held against the node's contract (v4.1), and a broken one fails the build.
"""

load("//bazel:providers.bzl", "OnnxModelInfo", "T4DatasetInfo")

def _detections(ctx, model):
    """Detections to measure thresholds on: given, made here, or None."""
    if ctx.file.detections and ctx.attr.dataset:
        fail("{}: detections and dataset exclude each other; thresholds are measured on one of them".format(ctx.label))
    if not ctx.attr.dataset:
        return ctx.file.detections
    dataset = ctx.attr.dataset[T4DatasetInfo]
    out = ctx.actions.declare_directory(ctx.label.name + "_detections")
    args = ctx.actions.args()
    args.add_all("--onnx-dir", [model.directory], expand_directories = False)
    args.add("--model-config", model.model_config)
    args.add("--data-root", dataset.directory.path)
    args.add_all("--out", [out], expand_directories = False)
    ctx.actions.run(
        executable = ctx.executable._detector,
        arguments = [args],
        inputs = depset([model.directory, dataset.directory], transitive = [model.model_config_files]),
        outputs = [out],
        mnemonic = "AutowareDetections",
        progress_message = "Detecting for the thresholds of %{label}",
        use_default_shell_env = True,
    )
    return out

def _autoware_bundle_impl(ctx):
    model = ctx.attr.onnx[OnnxModelInfo]
    if not model.checkpoint:
        fail("{}: {} has weights drawn from a seed; they have no place in a vehicle. Give it a checkpoint".format(
            ctx.label,
            ctx.attr.onnx.label,
        ))
    int8 = model.precision == "int8"
    onnx = ctx.actions.declare_directory(ctx.label.name + "_onnx")
    args = ctx.actions.args()
    args.add("--model-config", model.model_config)
    args.add("--quantized-checkpoint" if int8 else "--checkpoint", model.checkpoint)
    args.add("--precision", model.precision)
    args.add("--static-voxels", 0)
    args.add("--rot-y-axis-reference")
    args.add_all("--out", [onnx], expand_directories = False)
    ctx.actions.run(
        executable = ctx.executable._int8_exporter if int8 else ctx.executable._exporter,
        arguments = [args],
        inputs = depset([model.checkpoint], transitive = [model.model_config_files]),
        outputs = [onnx],
        mnemonic = "OnnxExport",
        progress_message = "Exporting ONNX for Autoware %{label}",
        use_default_shell_env = True,
    )

    out = ctx.actions.declare_directory("{}-{}".format(ctx.label.name, ctx.attr.version))
    args = ctx.actions.args()
    args.add_all("--onnx-dir", [onnx], expand_directories = False)
    args.add_all("--out", [out], expand_directories = False)
    inputs = [onnx]
    detections = _detections(ctx, model)
    if detections:
        args.add_all("--detections", [detections], expand_directories = False)
        inputs.append(detections)
    ctx.actions.run(
        executable = ctx.executable._bundler,
        arguments = [args],
        inputs = inputs,
        outputs = [out],
        mnemonic = "AutowareBundle",
        progress_message = "Bundling for Autoware %{label}",
        use_default_shell_env = True,
    )
    files = depset([out])
    return [DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files))]

autoware_bundle = rule(
    implementation = _autoware_bundle_impl,
    doc = "Exports a model for Autoware and bundles it with //deploy:bundle.",
    attrs = {
        "onnx": attr.label(mandatory = True, providers = [OnnxModelInfo], doc = "an onnx_model with a checkpoint"),
        "dataset": attr.label(providers = [T4DatasetInfo], doc = "a t4_dataset with a validation split, to measure score thresholds on"),
        "detections": attr.label(allow_single_file = [".jsonl"], doc = "in place of dataset: of an evaluation"),
        "version": attr.string(mandatory = True, doc = "version of the artifact, in the folder's name"),
        "_bundler": attr.label(default = "//deploy:bundle", executable = True, cfg = "exec"),
        "_detector": attr.label(default = "//deploy:detect", executable = True, cfg = "exec"),
        "_exporter": attr.label(default = "//export/tools:export_onnx", executable = True, cfg = "exec"),
        "_int8_exporter": attr.label(default = "//export/tools:export_int8_onnx", executable = True, cfg = "exec"),
    },
)
