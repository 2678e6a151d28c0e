"""trt_engines: TensorRT engines of an onnx_model.

    trt_engines(
        name = "centerpoint_fp16_engines",
        onnx = ":centerpoint_fp16_onnx",
        version = "1.0.0",
    )

Makes the folder `<name>-<version>` with one engine a component, the builder's logs and manifest.json. The default builder,
TensorRT-RTX, needs no GPU and gives the same bytes on every build; `tensorrt` needs --config=tensorrt, a GPU, and is
tuned for that GPU alone.
"""

load("//bazel:providers.bzl", "OnnxModelInfo", "TrtEnginesInfo")

def _trt_engines_impl(ctx):
    onnx = ctx.attr.onnx[OnnxModelInfo]
    if ctx.attr.precision_policy == "fp16" and onnx.precision != "fp16" and ctx.attr.builder == "tensorrt_rtx":
        fail("{}: precision_policy 'fp16' contradicts {}, an {} graph: TensorRT-RTX takes the precision from the graph".format(
            ctx.label,
            ctx.attr.onnx.label,
            onnx.precision,
        ))
    if ctx.attr.precision_policy == "int8" and onnx.precision != "int8":
        fail("{}: precision_policy 'int8' contradicts {}, an {} graph: scales come from a calibration".format(
            ctx.label,
            ctx.attr.onnx.label,
            onnx.precision,
        ))
    out = ctx.actions.declare_directory("{}-{}".format(ctx.label.name, ctx.attr.version))
    args = ctx.actions.args()
    args.add_all("--onnx-dir", [onnx.directory], expand_directories = False)
    args.add_all("--out", [out], expand_directories = False)
    args.add("--builder", ctx.attr.builder)
    args.add("--precision-policy", ctx.attr.precision_policy)
    ctx.actions.run(
        executable = ctx.executable._builder,
        arguments = [args],
        inputs = [onnx.directory],
        outputs = [out],
        mnemonic = "TrtEngines",
        progress_message = "Building TensorRT engines %{label}",
        use_default_shell_env = True,
        # Engines of the data-centre TensorRT fit one GPU: they do not belong in a shared cache.
        execution_requirements = {} if ctx.attr.builder == "tensorrt_rtx" else {"no-remote": "1"},
    )
    files = depset([out])
    return [
        DefaultInfo(files = files, runfiles = ctx.runfiles(transitive_files = files)),
        TrtEnginesInfo(directory = out, onnx = onnx),
    ]

trt_engines = rule(
    implementation = _trt_engines_impl,
    doc = "Builds engines with //export/tools:build_engines.",
    attrs = {
        "onnx": attr.label(mandatory = True, providers = [OnnxModelInfo], doc = "the onnx_model to build from"),
        "builder": attr.string(default = "tensorrt_rtx", values = ["tensorrt_rtx", "tensorrt"], doc = "engine builder"),
        "precision_policy": attr.string(
            default = "auto",
            values = ["auto", "fp16", "fp32_tf32", "strongly_typed", "int8"],
            doc = "see docs/configuration.md",
        ),
        "version": attr.string(mandatory = True, doc = "version of the artifact, in the folder's name"),
        "_builder": attr.label(default = "//export/tools:build_engines", executable = True, cfg = "exec"),
    },
)
