"""deployment_report: every backend verified and scored on a dataset, as report.html, results.json and manifest.json.

    deployment_report(
        name = "centerpoint_report",
        dataset = "//datasets:demo",
        engines = ":centerpoint_fp32_engines",
        onnx = ":centerpoint_onnx",
        version = "1.0.0",
    )

Makes the folder `<name>-<version>`. Exports nothing: it reads the ONNX files and engines of the targets it names. A failed
comparison fails the build. Engines are skipped, with the reason in the report, where there is no GPU they run on.
Latencies are measured, so that unlike every other artifact two builds of a report differ.
"""

load("//bazel:providers.bzl", "OnnxModelInfo", "T4DatasetInfo", "TrtEnginesInfo")

_CONFIG = """# Written by //bazel:deployment_report.bzl for {label}.
checkpoint_path = "{checkpoint}"
export = dict(mode="none", work_dir="{work_dir}")
backend_config = dict(common_config=dict(precision_policy="{policy}"))
quantization = dict(enabled={int8})
runtime_io = dict(data_root="{dataset}")
evaluation = dict(
    enabled=True,
    num_samples={num_samples},
    decode="both",
    backends=dict(
        pytorch=dict(enabled=True, device="cpu"),
        onnx=dict(enabled=True, device="cpu", model_dir="{onnx}"),
        tensorrt=dict(enabled={has_engines}, device="cuda", engine_dir={engines}),
    ),
)
verification = dict(
    enabled=True,
    num_verify_samples={num_verify_samples},
    scenarios=dict(
        both=[],
        onnx=[],
        trt=[],
        none=[dict(ref_backend="pytorch", ref_device="cpu", test_backend="onnx", test_device="cpu")],
    ),
)
"""

def _deployment_report_impl(ctx):
    onnx = ctx.attr.onnx[OnnxModelInfo]
    engines = ctx.attr.engines[TrtEnginesInfo] if ctx.attr.engines else None
    dataset = ctx.attr.dataset[T4DatasetInfo]
    if not onnx.checkpoint:
        fail("{}: {} has weights drawn from a seed; there is nothing to score. Give it a checkpoint".format(
            ctx.label,
            ctx.attr.onnx.label,
        ))
    if engines and engines.onnx.directory != onnx.directory:
        fail("{}: {} was built from {}, not from {}".format(
            ctx.label,
            ctx.attr.engines.label,
            engines.onnx.directory.short_path,
            ctx.attr.onnx.label,
        ))
    out = ctx.actions.declare_directory("{}-{}".format(ctx.label.name, ctx.attr.version))
    config = ctx.actions.declare_file(ctx.label.name + "_deploy_config.py")
    ctx.actions.write(config, _CONFIG.format(
        label = ctx.label,
        checkpoint = onnx.checkpoint.path,
        policy = "int8" if onnx.precision == "int8" else "auto",
        int8 = onnx.precision == "int8",
        work_dir = out.path,
        dataset = dataset.directory.path,
        onnx = onnx.directory.path,
        engines = repr(engines.directory.path) if engines else "None",
        has_engines = bool(engines),
        num_samples = ctx.attr.num_samples,
        num_verify_samples = ctx.attr.num_verify_samples,
    ))
    args = ctx.actions.args()
    args.add("--deploy-config", config)
    args.add("--model-config", onnx.model_config)
    inputs = [config, onnx.checkpoint, onnx.directory, dataset.directory]
    if engines:
        inputs.append(engines.directory)
    ctx.actions.run(
        executable = ctx.executable._exporter,
        arguments = [args],
        inputs = depset(inputs, transitive = [onnx.model_config_files]),
        outputs = [out],
        mnemonic = "DeploymentReport",
        progress_message = "Verifying and scoring %{label}",
        use_default_shell_env = True,
    )
    return [DefaultInfo(files = depset([out]))]

deployment_report = rule(
    implementation = _deployment_report_impl,
    doc = "Runs //deploy:report with mode 'none' on existing artifacts.",
    attrs = {
        "onnx": attr.label(mandatory = True, providers = [OnnxModelInfo], doc = "an onnx_model with a checkpoint"),
        "engines": attr.label(providers = [TrtEnginesInfo], doc = "engines built from that onnx_model"),
        "dataset": attr.label(mandatory = True, providers = [T4DatasetInfo], doc = "a t4_dataset with a validation split"),
        "num_samples": attr.int(default = -1, doc = "frames to score; -1 for all"),
        "num_verify_samples": attr.int(default = 5, doc = "frames to compare backends on"),
        "version": attr.string(mandatory = True, doc = "version of the artifact, in the folder's name"),
        "_exporter": attr.label(default = "//deploy:report", executable = True, cfg = "exec"),
    },
)
