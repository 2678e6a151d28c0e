"""calibration: a float model quantized to INT8 on training frames.

    calibration(
        name = "centerpoint_calibration",
        checkpoint = "//models/zoo/centerpoint_t4_demo:checkpoint",
        dataset = "//datasets:calibration",
        model_config = "//configs/model:centerpoint_t4_demo.py",
        num_batches = 100,
        version = "1.0.0",
    )

Makes `<name>-<version>/` with checkpoint.pth (weights, scales, what is quantized), calibration.json (every scale and what it
was chosen from) and manifest.json. `shards = N` cuts it into N actions by frames, for a cluster, and one that adds up what
they saw; the files are the same to the byte. Not with method lidar_ptq. `onnx_model(calibration = …)` exports it. A change in runtime/ or datasets/ calibrates
again; the ONNX files and engines are built again only if a scale came out differently.
"""

load("//bazel:providers.bzl", "CalibrationInfo", "T4DatasetInfo")
load("//bazel:shards.bzl", "SHARDS_ATTRS", "parts_of", "shards_of")

def _calibration_impl(ctx):
    if ctx.file.checkpoint and ctx.attr.seed >= 0:
        fail("{}: checkpoint and seed exclude each other; weights are trained or drawn".format(ctx.label))
    if not ctx.file.checkpoint and ctx.attr.seed < 0:
        fail("{}: name a checkpoint or a seed of at least 0".format(ctx.label))
    if ctx.attr.num_batches < 1:
        fail("{}: num_batches is {}, at least one frame is needed".format(ctx.label, ctx.attr.num_batches))
    folder = "{}-{}".format(ctx.label.name, ctx.attr.version)
    checkpoint = ctx.actions.declare_file(folder + "/checkpoint.pth")
    manifest = ctx.actions.declare_file(folder + "/manifest.json")
    if ctx.attr.shards > 1 and ctx.attr.method == "lidar_ptq":
        fail("{}: method 'lidar_ptq' cannot be cut into shards: it changes weights by all frames before any is observed".format(ctx.label))

    # More parts than frames would be parts of nothing.
    shards = 1 if ctx.attr.method == "lidar_ptq" else min(shards_of(ctx), ctx.attr.num_batches)
    outputs = [checkpoint, manifest]
    if ctx.attr.method == "calibrate":
        outputs.append(ctx.actions.declare_file(folder + "/calibration.json"))
    dataset = ctx.attr.dataset[T4DatasetInfo]
    configs = depset([ctx.file.model_config], transitive = [ctx.attr._configs[DefaultInfo].files])
    inputs = [dataset.directory]
    args = ctx.actions.args()
    args.add("--model-config", ctx.file.model_config)
    if ctx.file.checkpoint:
        args.add("--checkpoint", ctx.file.checkpoint)
        inputs.append(ctx.file.checkpoint)
    else:
        args.add("--seed", ctx.attr.seed)
    args.add("--data-root", dataset.directory.path)
    args.add("--split", ctx.attr.split)
    args.add("--num-batches", ctx.attr.num_batches)
    args.add("--method", ctx.attr.method)
    args.add("--amax-method", ctx.attr.amax_method)
    args.add("--engine", ctx.attr.engine)
    args.add_all(ctx.attr.skip_layers, before_each = "--skip-layer")
    if ctx.file.deploy_config:
        args.add("--deploy-config", ctx.file.deploy_config)
        inputs.append(ctx.file.deploy_config)
        inputs += ctx.files._deploy_configs

    def run(more, made, action_inputs, what):
        ctx.actions.run(
            executable = ctx.executable._calibrator,
            arguments = [args, more],
            inputs = depset(action_inputs, transitive = [configs]),
            outputs = made,
            mnemonic = "Calibration",
            progress_message = "{} %{{label}}".format(what),
            use_default_shell_env = True,
        )

    def run_part(options, part, said):
        options.add("--out", part.dirname)
        run(options, [part], inputs, "Calibrating {} of".format(said))

    parts = parts_of(ctx, shards, folder + "_parts/{number}/part.json", run_part) if shards > 1 else []
    whole = ctx.actions.args()
    whole.add("--out", checkpoint.dirname)
    if parts:
        whole.add_all("--merge", parts)
    run(whole, outputs, inputs + parts, "Calibrating")
    files = depset(outputs)
    return [
        DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files)),
        CalibrationInfo(
            checkpoint = checkpoint,
            model_config = ctx.file.model_config,
            model_config_files = configs,
            trained = bool(ctx.file.checkpoint),
        ),
    ]

calibration = rule(
    implementation = _calibration_impl,
    doc = "Quantizes a model with //export/tools:calibrate.",
    attrs = SHARDS_ATTRS | {
        "model_config": attr.label(mandatory = True, allow_single_file = [".py"], doc = "mmengine model config"),
        "checkpoint": attr.label(allow_single_file = [".pth"], doc = "trained float weights; or use seed"),
        "seed": attr.int(default = -1, doc = "seed of drawn weights where there is no checkpoint"),
        "dataset": attr.label(mandatory = True, providers = [T4DatasetInfo], doc = "a t4_dataset with the split"),
        "split": attr.string(default = "train", values = ["train", "val"], doc = "split to calibrate on"),
        "num_batches": attr.int(default = 100, doc = "frames, evenly spaced over the split"),
        "method": attr.string(
            default = "calibrate",
            values = ["calibrate", "bias_correction", "lidar_ptq"],
            doc = "see docs/quantization.md",
        ),
        "amax_method": attr.string(
            default = "mse",
            values = ["mse", "sparse_mse", "percentile", "entropy", "max"],
            doc = "how activations' ranges are chosen",
        ),
        "engine": attr.string(
            default = "pytorch_quantization",
            values = ["pytorch_quantization", "modelopt"],
            doc = "package of the quantizers",
        ),
        "skip_layers": attr.string_list(doc = "layers and patterns kept in floating point"),
        "deploy_config": attr.label(
            allow_single_file = [".py"],
            doc = "deploy configuration whose quantization.sensitive_layers stay in floating point, too",
        ),
        "version": attr.string(mandatory = True, doc = "version of the artifact, in the folder's name"),
        "_configs": attr.label(default = "//configs/model"),
        "_deploy_configs": attr.label(default = "//configs/deploy"),
        "_calibrator": attr.label(default = "//export/tools:calibrate", executable = True, cfg = "exec"),
    },
)
