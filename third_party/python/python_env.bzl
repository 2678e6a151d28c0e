"""The Python environment: CPython 3.11 and every package of the lock, as one declared input of every action that runs Python.

The extension makes one repository, `@python_env`, with

* `:toolchain`, the Python toolchain of all `py_*` targets. Its files are one source directory, `environment`: a relocatable
  interpreter with its packages (`install_env.py`, `relocatable.py`), which lies once per lock in the user's cache. A sandbox
  gets one link for it. Its 30,000 files are hashed once per server and are part of every key (`.bazelrc`:
  BAZEL_TRACK_SOURCE_DIRECTORIES); no path of the machine is.
* `:packages`, a `py_library` that carries `environment.json` (hash of the lock, interpreter, variant) for whoever records it.

Targets start by `launcher.sh.tpl`, which needs a POSIX shell and no Python of the machine. Measured costs and what else
was tried: docs/design/hermetic.md.

Settings come from `--repo_env`: CENTERPOINT_PYTHON, CENTERPOINT_CACHE (set by ./bazelw), CENTERPOINT_ENVIRONMENT (`cpu` or `cuda`,
--config=cuda), CENTERPOINT_EXTRAS (`tensorrt`, --config=tensorrt).
"""

_LOCKS = {
    "cpu": Label("//:requirements_lock.txt"),
    "cuda": Label("//third_party/python:requirements_lock_cuda.txt"),
}

_EXTRA_LOCKS = {
    "tensorrt": Label("//third_party/python:requirements_lock_tensorrt.txt"),
}

_BUILD = '''"""Written by //third_party/python:python_env.bzl."""

load("@rules_python//python:defs.bzl", "py_library", "py_runtime", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

py_library(
    name = "packages",
    data = ["environment.json"],
)

# Started by hand or by another rule; the launcher looks for `environment` beside it.
py_runtime(
    name = "runtime",
    bootstrap_template = "{launcher}",
    files = ["environment"],
    interpreter = "interpreter",
    python_version = "PY3",
    stub_shebang = "#!/bin/sh",
)

py_runtime_pair(
    name = "runtime_pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtime_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
'''

_INTERPRETER = """#!/bin/sh
exec "$(dirname "$0")/environment/bin/python3.11" "$@"
"""

def _python(repository_ctx):
    named = repository_ctx.os.environ.get("CENTERPOINT_PYTHON", "")
    python = named or repository_ctx.which("python3.11") or repository_ctx.which("python3")
    if not python:
        fail("python_env: no python3.11 and no python3 on PATH; install CPython 3.11 or set CENTERPOINT_PYTHON")
    probe = repository_ctx.execute([python, "-c", "import sys; print(sys.implementation.name, *sys.version_info[:2])"])
    if probe.stdout.strip() != "cpython 3 11":
        fail("python_env: CPython 3.11 is needed, {} is '{}' {}; set CENTERPOINT_PYTHON to one".format(
            python,
            probe.stdout.strip(),
            probe.stderr.strip(),
        ))
    return python

def _lock(repository_ctx, label, option):
    path = repository_ctx.path(label)
    if not path.exists:
        fail("python_env: --config={} needs {}/{}, which is not in the tree; make it on a machine that reaches the packages' index: third_party/python/lock.sh {}".format(
            option,
            label.package,
            label.name,
            option,
        ))
    repository_ctx.watch(path) if hasattr(repository_ctx, "watch") else repository_ctx.read(path)
    return path

def _python_env_repository_impl(repository_ctx):
    environ = repository_ctx.os.environ
    variant = environ.get("CENTERPOINT_ENVIRONMENT", "") or "cpu"
    if variant not in _LOCKS:
        fail("python_env: CENTERPOINT_ENVIRONMENT is '{}', not one of {}".format(variant, sorted(_LOCKS)))
    locks = [_lock(repository_ctx, _LOCKS[variant], variant)]
    for extra in [name for name in environ.get("CENTERPOINT_EXTRAS", "").split(",") if name]:
        if extra not in _EXTRA_LOCKS:
            fail("python_env: CENTERPOINT_EXTRAS names '{}', not one of {}".format(extra, sorted(_EXTRA_LOCKS)))
        locks.append(_lock(repository_ctx, _EXTRA_LOCKS[extra], extra))

    cache = environ.get("CENTERPOINT_CACHE", "")
    if not cache:
        cache = (environ.get("XDG_CACHE_HOME", "") or environ["HOME"] + "/.cache") + "/centerpoint-bazel"
    for script in ["install_env.py", "relocatable.py"]:
        repository_ctx.read(Label("//third_party/python:" + script))  # looks again when one changes
    command = [_python(repository_ctx), repository_ctx.path(Label("//third_party/python:install_env.py"))]
    command += ["--variant", variant, "--cache", cache + "/python"]
    for lock in locks:
        command += ["--lock", lock]
    result = repository_ctx.execute(command, timeout = 7200, quiet = False)
    if result.return_code:
        fail("python_env: the environment could not be installed:\n" + result.stderr[-4000:])
    facts = json.decode(result.stdout.strip().split("\n")[-1])
    repository_ctx.symlink(facts["folder"], "environment")
    repository_ctx.file("environment.json", json.encode_indent({
        "extras": environ.get("CENTERPOINT_EXTRAS", ""),
        "lock": facts["lock"],
        "python": facts["python"],
        "variant": variant,
    }) + "\n")
    repository_ctx.file("interpreter", _INTERPRETER)
    repository_ctx.file("BUILD.bazel", _BUILD.format(launcher = Label("//third_party/python:launcher.sh.tpl")))

_python_env_repository = repository_rule(
    implementation = _python_env_repository_impl,
    doc = "Installs the lock and declares the toolchain; see the top of this file.",
    environ = ["CENTERPOINT_CACHE", "CENTERPOINT_ENVIRONMENT", "CENTERPOINT_EXTRAS", "CENTERPOINT_PYTHON"],
    local = True,  # looks again in a new server; costs nothing where the environment exists
)

def _python_env_impl(_module_ctx):
    _python_env_repository(name = "python_env")

python_env = module_extension(
    implementation = _python_env_impl,
    doc = "Declares @python_env; use it once, in MODULE.bazel.",
)
