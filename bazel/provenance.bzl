"""provenance: one statement of what artifacts are and what they were made of, to be signed and checked.

    provenance(
        name = "urban_provenance",
        artifacts = [
            ":urban_int8_onnx",
            ":urban_int8_engines",
        ],
        version = "2.3.0",
    )

Makes `<name>-<version>/provenance.json`, an in-toto statement with a SLSA predicate: the SHA-256 of every file of the artifacts,
of every source that Bazel gave to the actions that made them, back to the checkpoint, and of every file of the tools, the Python environment among them.
It holds no time, no path and no host: the same inputs, the same bytes. `python -m deploy.inspect --verify` checks it.
"""

_STEPS = ["artifacts", "calibration", "dataset", "detections", "engines", "onnx"]
_MADE_BY = {
    "autoware_bundle": True,
    "calibration": True,
    "deployment_report": True,
    "onnx_model": True,
    "t4_dataset": True,
    "trt_engines": True,
}

# What every rule has, and what does not change what is made.
_NO_PARAMETERS = ["name", "generator_name", "generator_function", "generator_location", "tags", "visibility", "testonly", "features", "deprecation", "shards"]

_StepsInfo = provider(
    doc = "How artifacts were made.",
    fields = {"steps": "depset of struct: one for each target that made files, in the order that they were made"},
)

def _targets(value):
    """The targets among a rule's attribute."""
    if type(value) == "Target":
        return [value]
    return [item for item in value if type(item) == "Target"] if type(value) == "list" else []

def _parameter(value):
    plain = ["string", "int", "bool"]
    return type(value) in plain or (type(value) == "list" and all([type(item) in plain for item in value]))

def _steps_aspect_impl(target, ctx):
    earlier = []
    for name in _STEPS:
        for dependency in _targets(getattr(ctx.rule.attr, name, None)):
            if _StepsInfo in dependency:
                earlier.append(dependency[_StepsInfo].steps)
    if not _MADE_BY.get(ctx.rule.kind):
        return [_StepsInfo(steps = depset(transitive = earlier, order = "postorder"))]
    inputs, tools, parameters = [], [], {}
    for name in sorted(dir(ctx.rule.attr)):
        value = getattr(ctx.rule.attr, name)
        for dependency in _targets(value):
            if DefaultInfo not in dependency:
                continue
            info = dependency[DefaultInfo]
            if info.files_to_run and info.files_to_run.executable and name.startswith("_"):
                tools.append(info.default_runfiles.files)
            else:
                inputs.append(info.files)
        if not name.startswith("_") and name not in _NO_PARAMETERS and _parameter(value) and value not in ["", []]:
            parameters[name] = value
    step = struct(
        target = str(target.label).lstrip("@"),
        rule = ctx.rule.kind,
        parameters = json.encode(parameters),
        inputs = depset(transitive = inputs),
        tools = depset(transitive = tools),
        outputs = target[DefaultInfo].files,
    )
    return [_StepsInfo(steps = depset([step], transitive = earlier, order = "postorder"))]

_steps_aspect = aspect(
    implementation = _steps_aspect_impl,
    attr_aspects = _STEPS,
    doc = "Collects what made an artifact, back to its sources.",
)

def _paths(files):
    return [struct(path = file.path, name = file.short_path) for file in files.to_list()]

def _provenance_impl(ctx):
    steps = depset(transitive = [target[_StepsInfo].steps for target in ctx.attr.artifacts], order = "postorder").to_list()
    for target in ctx.attr.artifacts:
        if not target[_StepsInfo].steps:
            fail("{}: {} is no artifact of a rule in //bazel".format(ctx.label, target.label))
    out = ctx.actions.declare_file("{}-{}/provenance.json".format(ctx.label.name, ctx.attr.version))
    plan = ctx.actions.declare_file(ctx.label.name + "_plan.json")
    subjects = depset(transitive = [target[DefaultInfo].files for target in ctx.attr.artifacts])
    ctx.actions.write(plan, json.encode(struct(
        name = str(ctx.label).lstrip("@"),
        version = ctx.attr.version,
        package = ctx.label.package,
        subjects = _paths(subjects),
        steps = [struct(
            target = step.target,
            rule = step.rule,
            parameters = step.parameters,
            inputs = _paths(step.inputs),
            tools = _paths(step.tools),
            outputs = _paths(step.outputs),
        ) for step in steps],
    )))
    args = ctx.actions.args()
    args.add(plan)
    args.add(out)
    ctx.actions.run(
        executable = ctx.executable._writer,
        arguments = [args],
        inputs = depset([plan], transitive = [subjects] + [files for step in steps for files in [step.inputs, step.tools, step.outputs]]),
        outputs = [out],
        mnemonic = "Provenance",
        progress_message = "Stating what %{label} was made of",
        use_default_shell_env = True,
    )
    return [DefaultInfo(files = depset([out]))]

provenance = rule(
    implementation = _provenance_impl,
    doc = "Writes an in-toto statement with //bazel/private:write_provenance.",
    attrs = {
        "artifacts": attr.label_list(mandatory = True, allow_empty = False, aspects = [_steps_aspect], doc = "what the statement is about"),
        "version": attr.string(mandatory = True, doc = "version of the artifacts, in the folder's name"),
        "_writer": attr.label(default = "//bazel/private:write_provenance", executable = True, cfg = "exec"),
    },
)
