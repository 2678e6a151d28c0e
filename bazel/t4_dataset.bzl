"""t4_dataset: a synthetic T4 dataset as a build artifact.

    t4_dataset(
        name = "demo",
        split = "val",
        val_scenes = 4,
        frames_per_scene = 10,
        seed = 0,
    )

Same attributes, same bytes. The folder can be handed to every command as `--data-root`.
"""

load("//bazel:providers.bzl", "T4DatasetInfo")

def _t4_dataset_impl(ctx):
    for name in ["train_scenes", "val_scenes", "frames_per_scene"]:
        if getattr(ctx.attr, name) < 0:
            fail("{}: {} is {}, it must not be negative".format(ctx.label, name, getattr(ctx.attr, name)))
    wanted = {"both": ["train_scenes", "val_scenes"], "train": ["train_scenes"], "val": ["val_scenes"]}[ctx.attr.split]
    for name in wanted + ["frames_per_scene"]:
        if getattr(ctx.attr, name) == 0:
            fail("{}: split = '{}' needs {} of at least 1".format(ctx.label, ctx.attr.split, name))
    out = ctx.actions.declare_directory(ctx.label.name)
    args = ctx.actions.args()
    args.add_all("--out", [out], expand_directories = False)
    args.add("--overwrite")  # Bazel has made the empty folder already
    args.add("--split", ctx.attr.split)
    args.add("--seed", ctx.attr.seed)
    args.add("--beams", ctx.attr.beams)
    args.add("--frames-per-scene", ctx.attr.frames_per_scene)
    if ctx.attr.train_scenes:
        args.add("--train-scenes", ctx.attr.train_scenes)
    if ctx.attr.val_scenes:
        args.add("--val-scenes", ctx.attr.val_scenes)
    ctx.actions.run(
        executable = ctx.executable._generator,
        arguments = [args],
        outputs = [out],
        mnemonic = "T4Dataset",
        progress_message = "Generating T4 dataset %{label}",
        use_default_shell_env = True,
    )
    files = depset([out])
    return [
        DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files)),
        T4DatasetInfo(directory = out),
    ]

t4_dataset = rule(
    implementation = _t4_dataset_impl,
    doc = "Generates a T4 dataset with //datasets/synthetic:generate.",
    attrs = {
        "split": attr.string(default = "both", values = ["both", "train", "val"], doc = "which info files to make"),
        "train_scenes": attr.int(default = 0, doc = "scenes to train on"),
        "val_scenes": attr.int(default = 0, doc = "scenes to validate on"),
        "frames_per_scene": attr.int(default = 10, doc = "key frames a scene, 10 Hz"),
        "seed": attr.int(default = 0, doc = "seed of everything random"),
        "beams": attr.int(default = 64, values = [64, 128], doc = "beams of the simulated LiDAR"),
        "_generator": attr.label(default = "//datasets/synthetic:generate", executable = True, cfg = "exec"),
    },
)
