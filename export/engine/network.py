"""Building one engine through TensorRT's Python interface, which `tensorrt` and `tensorrt_rtx_bindings` share."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.errors import BackendUnavailable, EngineBuildError
from base.files import atomic_path
from base.reading import read_bounded
from export.engine.builder_log import BuilderLog
from export.engine.policy import BuilderTraits, BuildPlan, plan_precision
from export.engine.request import EngineRequest, EngineResult

__all__ = ["BuildOutput", "Dialect", "build_engine", "traits_of", "write_output"]

_PRECISION_FLAGS = ("FP16", "INT8", "TF32")
_MAX_CACHE = 1 << 30  # bytes of a timing cache


@dataclass(frozen=True)
class Dialect:
    """Where the two libraries differ.

    Attributes:
        name: Builder name as users write it.
        module: Import name.
        title: Library name in messages.
        always_strongly_typed: No weakly typed networks exist in this library at all.
        needs_gpu: The builder measures on a GPU.
        has_timing_cache: Tactics are measured and can be kept.
        compute_capabilities: The GPUs to build for can be chosen.
        oldest: Oldest supported version.
    """

    name: str
    module: str
    title: str
    always_strongly_typed: bool
    needs_gpu: bool
    has_timing_cache: bool
    compute_capabilities: bool
    oldest: tuple[int, int]


@dataclass(frozen=True)
class BuildOutput:
    """What a build gives, in memory.

    Attributes:
        engine: None where it failed.
        timing_cache: Tactics to keep; None where none are kept.
        log: The builder's messages.
    """

    engine: bytes | None
    timing_cache: bytes | None
    log: str


def write_output(request: EngineRequest, output: BuildOutput) -> None:
    """Writes what a build gave to the places that the request names.

    Raises:
        EngineBuildError: a file cannot be written.
    """
    # The log first: it also belongs to a build that failed.
    files = {request.log_file: output.log.encode(), request.timing_cache: output.timing_cache}
    for path, content in {**files, request.engine_path: output.engine}.items():
        if path is None or content is None:
            continue
        try:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise EngineBuildError(
                f"Cannot write '{path}' ({len(content) / 1e6:.1f} MB): {error.strerror or error}. Free space or choose "
                "another folder."
            ) from error


def traits_of(trt: Any, dialect: Dialect) -> BuilderTraits:
    """Reads from the installed library what it can do.

    Raises:
        EngineBuildError: its version is not supported.
    """
    version = _version(trt)
    if version < dialect.oldest:
        raise EngineBuildError(
            f"{dialect.title} {trt.__version__} is installed; {dialect.oldest[0]}.{dialect.oldest[1]} or newer "
            "is needed."
        )
    # TensorRT 11 kept the creation flag but ignores it, and took the FP16 and INT8 switches away.
    weak = not dialect.always_strongly_typed and version < (11, 0)
    flags = frozenset(name for name in _PRECISION_FLAGS if hasattr(trt.BuilderFlag, name))
    return BuilderTraits(f"{dialect.title} {trt.__version__}", flags, weak)


def build_engine(
    trt: Any,
    dialect: Dialect,
    request: EngineRequest,
    precision: str,
    keep: Callable[[EngineRequest, BuildOutput], None] = write_output,
) -> EngineResult:
    """Parses and builds one engine, and keeps it.

    Args:
        trt: The library's module.
        dialect: What is special about it.
        request: What to build; its profiles fit the graph.
        precision: What the graph computes in.
        keep: Takes what the build gave, also where it failed.

    Raises:
        EngineBuildError: the policy cannot be honoured, a node cannot be parsed, or no engine can be built.
        BackendUnavailable: the library cannot build on this machine.
    """
    traits = traits_of(trt, dialect)
    plan = plan_precision(request.precision_policy, precision, traits, request.onnx_path.name)
    if request.compute_capabilities and not dialect.compute_capabilities:
        raise EngineBuildError(
            f"{traits.title} builds for the GPU of this machine alone; leave compute_capabilities out, it is "
            f"{list(request.compute_capabilities)}."
        )
    log = BuilderLog(trt)
    engine: bytes | None = None
    cache: bytes | None = None
    try:
        engine, cache, num_layers, seconds = _build(trt, dialect, request, traits, plan, log)
    finally:
        keep(request, BuildOutput(engine, cache, log.text()))
    return EngineResult(
        engine_path=request.engine_path,
        onnx_path=request.onnx_path,
        builder=dialect.name,
        version=str(trt.__version__),
        seconds=seconds,
        num_bytes=len(engine),
        sha256=hashlib.sha256(engine).hexdigest(),
        precision=precision,
        num_layers=num_layers,
        log_path=request.log_file,
    )


def _build(
    trt: Any, dialect: Dialect, request: EngineRequest, traits: BuilderTraits, plan: BuildPlan, log: BuilderLog
) -> tuple[bytes, bytes | None, int, float]:
    started = time.monotonic()
    try:
        builder = trt.Builder(log.logger)
    # The bindings turn a null pointer (no GPU, no driver) into a TypeError.
    except (TypeError, RuntimeError) as error:
        reason = f"{traits.title} cannot start a builder: {log.last_error() or error}"
        if dialect.needs_gpu:
            raise BackendUnavailable(f"{reason}. It needs a GPU; 'tensorrt_rtx' does not.") from error
        raise EngineBuildError(reason) from error
    network = builder.create_network(_creation_flags(trt, plan))
    parser = trt.OnnxParser(network, log.logger)
    # From memory: a path would end up in the engine and make equal builds unequal.
    if not parser.parse(request.onnx_path.read_bytes()):
        raise EngineBuildError(f"{traits.title} cannot parse '{request.onnx_path}': {_parser_errors(parser)}")
    log.note(f"parsed network: {_composition(network)}")
    config = _configure(trt, dialect, request, traits, plan, builder)
    _add_profile(request, builder, config)
    cache = _load_timing_cache(dialect, request, config, log)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineBuildError(
            f"{traits.title} built no engine of '{request.onnx_path}': {log.last_error() or 'it gave no reason'}. All "
            f"messages are in '{request.log_file}'."
        )
    seconds = time.monotonic() - started
    tactics = None if cache is None else bytes(memoryview(config.get_timing_cache().serialize()))
    return bytes(memoryview(serialized)), tactics, int(network.num_layers), seconds


def _composition(network: Any) -> str:
    """How many layers of each kind write each type: `24 CONSTANT INT8, 16 CONVOLUTION FLOAT`, sorted."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    kinds = Counter((layer.type.name, layer.get_output(0).dtype.name) for layer in layers if layer.num_outputs)
    return ", ".join(f"{count} {kind} {dtype}" for (kind, dtype), count in sorted(kinds.items()))


def _creation_flags(trt: Any, plan: BuildPlan) -> int:
    """Bit mask for `create_network`. Explicit batch is the only mode left, so its flag is never needed."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 1 << int(flag) if plan.strongly_typed and flag is not None else 0


def _configure(
    trt: Any, dialect: Dialect, request: EngineRequest, traits: BuilderTraits, plan: BuildPlan, builder: Any
) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    for name in plan.flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    if request.compute_capabilities:
        members = {
            f"{int(key[2:-1])}.{key[-1]}": value
            for key, value in _members(trt.ComputeCapability).items()
            if key.startswith("SM") and key[2:].isdigit()
        }
        unknown = [name for name in request.compute_capabilities if name not in members]
        if unknown:
            raise EngineBuildError(
                f"{traits.title} does not build for compute capability {', '.join(unknown)}; it knows "
                f"{', '.join(sorted(members, key=float))}."
            )
        config.num_compute_capabilities = len(request.compute_capabilities)
        for index, name in enumerate(request.compute_capabilities):
            config.set_compute_capability(members[name], index)
    return config


def _members(enum: Any) -> Mapping[str, Any]:
    members: Mapping[str, Any] = enum.__members__
    return members


def _add_profile(request: EngineRequest, builder: Any, config: Any) -> None:
    if not request.profiles:
        return
    profile = builder.create_optimization_profile()
    for name, shapes in sorted(request.profiles.items()):
        profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
    if config.add_optimization_profile(profile) < 0:
        shown = {name: dataclasses.astuple(shapes) for name, shapes in request.profiles.items()}
        raise EngineBuildError(f"The builder refuses the profile {shown} for '{request.onnx_path}'.")


def _load_timing_cache(dialect: Dialect, request: EngineRequest, config: Any, log: BuilderLog) -> Any:
    if request.timing_cache is None:
        return None
    if not dialect.has_timing_cache:
        log.note(f"{dialect.title} measures no tactics and has no timing cache; '{request.timing_cache}' is not used.")
        return None
    path = Path(request.timing_cache)
    data = read_bounded(path, _MAX_CACHE, "Timing cache", error=EngineBuildError) if os.path.lexists(path) else b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise EngineBuildError(
            f"Timing cache '{path}' is broken or of another TensorRT version or GPU. Delete it; the build makes "
            "a new one."
        )
    return cache


def _parser_errors(parser: Any) -> str:
    messages = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = error.node_name(), error.node_operator()
        where = f"node '{name}' ({operator or 'unknown operator'}): " if name or operator else ""
        messages.append(f"{where}{error.desc().strip()}")
    return "; ".join(messages) or "the parser gave no reason"


def _version(trt: Any) -> tuple[int, int]:
    major, minor = str(trt.__version__).split(".")[:2]
    return int(major), int(minor)
