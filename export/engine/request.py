"""What is asked of an engine builder, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from base.errors import EngineBuildError

__all__ = [
    "PRECISION_POLICIES",
    "EngineBuilder",
    "EngineRequest",
    "EngineResult",
    "PrecisionPolicy",
    "ShapeProfile",
]

PrecisionPolicy = Literal["auto", "fp16", "fp32_tf32", "strongly_typed", "int8"]
PRECISION_POLICIES: tuple[PrecisionPolicy, ...] = get_args(PrecisionPolicy)

DEFAULT_WORKSPACE_BYTES = 2 << 30
# Below this no convolution of a CenterPoint finds a tactic.
MIN_WORKSPACE_BYTES = 1 << 20


@dataclass(frozen=True)
class ShapeProfile:
    """Shapes of one engine input: the smallest and largest it accepts and the one it is tuned for."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise EngineBuildError(
                f"Profile min {list(self.min)}, opt {list(self.opt)}, max {list(self.max)}: the shapes differ in rank."
            )
        if not all(1 <= low <= mid <= high for low, mid, high in zip(self.min, self.opt, self.max, strict=True)):
            raise EngineBuildError(
                f"Profile min {list(self.min)}, opt {list(self.opt)}, max {list(self.max)}: every axis must have "
                "1 <= min <= opt <= max."
            )

    @classmethod
    def fixed(cls, shape: tuple[int, ...]) -> ShapeProfile:
        """A profile with one shape."""
        return cls(shape, shape, shape)


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build.

    Attributes:
        onnx_path: The graph; its types are the engine's precision.
        engine_path: Where the engine goes; written whole or not at all.
        profiles: Input name -> shapes. Needed for inputs with a dynamic axis; checked for the others.
        workspace_bytes: GPU memory that tactics may use.
        precision_policy: One of `PRECISION_POLICIES`.
        timing_cache: File of measured tactics to read and extend, for builders that measure; None: no cache.
        log_path: Where the builder's messages go; None: beside the engine, with the suffix `.log`.
        compute_capabilities: GPUs to build for, such as ("8.6", "8.9"), where the builder has the choice;
        empty: its own. optimization_level: 0 (fast build) to 5 (fast engine); None: the builder's own.
    """

    onnx_path: Path
    engine_path: Path
    profiles: Mapping[str, ShapeProfile] = field(default_factory=dict)
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    precision_policy: str = "auto"
    timing_cache: Path | None = None
    log_path: Path | None = None
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        if self.precision_policy not in PRECISION_POLICIES:
            raise EngineBuildError(
                f"precision_policy is '{self.precision_policy}'; it is one of {', '.join(PRECISION_POLICIES)}."
            )
        if self.workspace_bytes < MIN_WORKSPACE_BYTES:
            raise EngineBuildError(
                f"max_workspace_size is {self.workspace_bytes} bytes; at least {MIN_WORKSPACE_BYTES} are needed."
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise EngineBuildError(f"optimization_level is {self.optimization_level}; it is 0 to 5.")

    @property
    def log_file(self) -> Path:
        """Where the builder's messages go."""
        return self.log_path or self.engine_path.with_name(self.engine_path.name + ".log")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        values = dataclasses.asdict(self)
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineRequest:
        """Reads what `to_dict` wrote, also after a JSON round trip."""
        paths = {
            key: None if values[key] is None else Path(values[key])
            for key in ("onnx_path", "engine_path", "timing_cache", "log_path")
        }
        profiles = {
            name: ShapeProfile(*(tuple(shapes[key]) for key in ("min", "opt", "max")))
            for name, shapes in values["profiles"].items()
        }
        capabilities = tuple(values["compute_capabilities"])
        return cls(**{**values, **paths, "profiles": profiles, "compute_capabilities": capabilities})


@dataclass(frozen=True)
class EngineResult:
    """One built engine.

    Attributes:
        engine_path: The engine.
        onnx_path: What it was built from.
        builder: "tensorrt_rtx" or "tensorrt".
        version: The builder's version; an engine runs on this version only.
        seconds: Parsing and building.
        num_bytes: Size of the engine.
        sha256: Of the engine.
        precision: What the graph computes in: fp32, fp16, mixed or int8.
        num_layers: Layers of the network before fusion.
        log_path: The builder's messages.
    """

    engine_path: Path
    onnx_path: Path
    builder: str
    version: str
    seconds: float
    num_bytes: int
    sha256: str
    precision: str
    num_layers: int
    log_path: Path


class EngineBuilder(Protocol):
    """Builds engines."""

    name: str

    @property
    def version(self) -> str:
        """Version of the builder's library."""

    def build(self, request: EngineRequest) -> EngineResult:
        """Builds one engine.

        Raises:
            EngineBuildError: the request contradicts the graph, or the builder refuses it.
            BackendUnavailable: this machine cannot build (no GPU, for a builder that needs one).
        """
