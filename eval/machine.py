"""Which machine the numbers belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MachineInfo", "package_versions"]

_PACKAGES = (
    "cuda-bindings",
    "mmcv-lite",
    "mmdet3d",
    "mmengine",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxsim",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "torch",
)


def package_versions() -> dict[str, str]:
    """Python's version and those of the installed packages that decide results."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True)
class MachineInfo:
    """The machine that a latency was measured on.

    Attributes:
        cpu: Model name.
        cpu_cores: Logical cores this process may use.
        memory_gib: Installed memory.
        threads: OMP_NUM_THREADS, where set; backends otherwise use all cores.
        system: Operating system and architecture.
    """

    cpu: str
    cpu_cores: int
    memory_gib: float
    threads: str | None
    system: str

    @classmethod
    def current(cls) -> MachineInfo:
        """This machine."""
        cpu = platform.processor() or platform.machine()
        info = Path("/proc/cpuinfo")
        if info.exists():
            for line in info.read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    cpu = line.split(":", 1)[1].strip()
                    break
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return cls(
            cpu,
            len(os.sched_getaffinity(0)),
            round(memory, 1),
            os.environ.get("OMP_NUM_THREADS"),
            f"{platform.system()} {platform.machine()}",
        )
