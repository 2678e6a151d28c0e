"""sensitivity: what the quantization of each layer costs, measured on a dataset.

    sensitivity(
        name = "centerpoint_sensitivity",
        calibration = ":centerpoint_calibration",
        dataset = "//datasets:demo",
        shards = 8,
        version = "1.0.0",
    )

Makes `<name>-<version>/` with report.csv, report.json, report.svg and report.png (docs/quantization_sensitivity.md).
`shards = N` cuts it into N actions by layers, for a cluster, and one that puts them together; the files are the same to
the byte.
"""

load("//bazel:providers.bzl", "CalibrationInfo", "T4DatasetInfo")
load("//bazel:shards.bzl", "SHARDS_ATTRS", "parts_of", "shards_of")

def _sensitivity_impl(ctx):
    shards = shards_of(ctx)
    folder = "{}-{}".format(ctx.label.name, ctx.attr.version)
    outputs = [ctx.actions.declare_file("{}/report{}".format(folder, suffix)) for suffix in [".csv", ".json", ".svg", ".png"]]
    model = ctx.attr.calibration[CalibrationInfo]
    dataset = ctx.attr.dataset[T4DatasetInfo]
    args = ctx.actions.args()
    args.add("--config", model.model_config)
    args.add("--checkpoint", model.checkpoint)
    args.add("--data-root", dataset.directory.path)
    args.add("--split", ctx.attr.split)
    args.add("--frames", ctx.attr.num_samples)
    args.add("--granularity", ctx.attr.granularity)
    args.add("--num-resamples", ctx.attr.num_resamples)
    args.add("--workers", 1)
    inputs = depset([model.checkpoint, dataset.directory], transitive = [model.model_config_files])

    def run(arguments, action_inputs, made, what):
        ctx.actions.run(
            executable = ctx.executable._command,
            arguments = ["sensitivity"] + arguments,
            inputs = action_inputs,
            outputs = made,
            mnemonic = "Sensitivity",
            progress_message = "{} %{{label}}".format(what),
            use_default_shell_env = True,
        )

    def run_part(options, part, said):
        options.add("--output", part)
        run([args, options], inputs, [part], "Measuring {} of the layers of".format(said))

    whole = ctx.actions.args()
    whole.add("--output", outputs[0])
    if shards == 1:
        run([args, whole], inputs, outputs, "Measuring layers of")
    else:
        parts = parts_of(ctx, shards, folder + "_parts/{number}.json", run_part)
        whole.add_all("--merge", parts)
        run([whole], depset(parts), outputs, "Putting together")
    files = depset(outputs)
    return [DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files))]

sensitivity = rule(
    implementation = _sensitivity_impl,
    doc = "Runs the command sensitivity of //quant:centerpoint_quantization on a calibrated model.",
    attrs = SHARDS_ATTRS | {
        "calibration": attr.label(mandatory = True, providers = [CalibrationInfo], doc = "a calibration"),
        "dataset": attr.label(mandatory = True, providers = [T4DatasetInfo], doc = "a t4_dataset with the split"),
        "split": attr.string(default = "val", values = ["train", "val"], doc = "split to score on"),
        "num_samples": attr.int(default = -1, doc = "frames, evenly spaced over the split; -1 for all"),
        "granularity": attr.string(default = "layer", values = ["layer", "stage"], doc = "what is switched"),
        "num_resamples": attr.int(default = 1000, doc = "of the bootstrap"),
        "version": attr.string(mandatory = True, doc = "version of the artifact, in the folder's name"),
        "_command": attr.label(default = "//quant:analysis", executable = True, cfg = "exec"),
    },
)
