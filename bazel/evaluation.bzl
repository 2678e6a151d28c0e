"""evaluation: one backend scored on a dataset, without times, so that equal inputs give equal bytes.

    evaluation(
        name = "centerpoint_int8_evaluation",
        dataset = "//datasets:demo",
        onnx = ":centerpoint_int8_onnx",
        shards = 8,
        version = "1.0.0",
    )

Makes `<name>-<version>/` with results.json and detections.jsonl, as `deploy.evaluate --untimed` does (docs/evaluation.md).
`shards = N` cuts it into N actions by frames, for a cluster, and one that scores what they found; the files are the same
to the byte. A `deployment_report` measures times as well, and is one action.
"""

load("//bazel:providers.bzl", "OnnxModelInfo", "T4DatasetInfo")
load("//bazel:shards.bzl", "SHARDS_ATTRS", "parts_of", "shards_of")

def _evaluation_impl(ctx):
    onnx = ctx.attr.onnx[OnnxModelInfo]
    dataset = ctx.attr.dataset[T4DatasetInfo]
    if not onnx.checkpoint:
        fail("{}: {} has weights drawn from a seed; there is nothing to score. Give it a checkpoint".format(
            ctx.label,
            ctx.attr.onnx.label,
        ))
    shards = shards_of(ctx)
    folder = "{}-{}".format(ctx.label.name, ctx.attr.version)
    outputs = [ctx.actions.declare_file("{}/{}".format(folder, name)) for name in ["results.json", "detections.jsonl"]]
    args = ctx.actions.args()
    args.add("--backend", ctx.attr.backend)
    args.add("--device", "cpu")
    args.add("--model-config", onnx.model_config)
    args.add("--checkpoint", onnx.checkpoint)
    args.add_all("--onnx-dir", [onnx.directory], expand_directories = False)
    args.add("--data-root", dataset.directory.path)
    args.add("--num-samples", ctx.attr.num_samples)
    inputs = depset([onnx.checkpoint, onnx.directory, dataset.directory], transitive = [onnx.model_config_files])

    def run(arguments, action_inputs, made, what):
        ctx.actions.run(
            executable = ctx.executable._command,
            arguments = arguments,
            inputs = action_inputs,
            outputs = made,
            mnemonic = "Evaluation",
            progress_message = "{} %{{label}}".format(what),
            use_default_shell_env = True,
        )

    def run_part(options, part, said):
        options.add("--out", part.dirname)
        run([args, options], inputs, [part], "Running {} of the frames of".format(said))

    whole = ctx.actions.args()
    whole.add("--out", outputs[0].dirname)
    if shards == 1:
        whole.add("--untimed")
        run([args, whole], inputs, outputs, "Scoring")
    else:
        parts = parts_of(ctx, shards, folder + "_parts/part-{number}-of-{shards}.json", run_part)
        whole.add_all("--merge", parts)
        run([whole], depset(parts), outputs, "Scoring")
    files = depset(outputs)
    return [DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files))]

evaluation = rule(
    implementation = _evaluation_impl,
    doc = "Runs //deploy:evaluation on ONNX files.",
    attrs = SHARDS_ATTRS | {
        "onnx": attr.label(mandatory = True, providers = [OnnxModelInfo], doc = "an onnx_model with a checkpoint"),
        "dataset": attr.label(mandatory = True, providers = [T4DatasetInfo], doc = "a t4_dataset with a validation split"),
        "backend": attr.string(default = "onnx", values = ["onnx", "openvino"], doc = "what runs the files"),
        "num_samples": attr.int(default = -1, doc = "frames to score, the first ones; -1 for all"),
        "version": attr.string(mandatory = True, doc = "version of the artifact, in the folder's name"),
        "_command": attr.label(default = "//deploy:evaluation", executable = True, cfg = "exec"),
    },
)
