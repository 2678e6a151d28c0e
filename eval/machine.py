"""Which machine the numbers belong to."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["GpuInfo", "MachineInfo", "gpus", "package_versions", "parse_gpu_query"]

_logger = logging.getLogger(__name__)

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
    "openvino",
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
class GpuInfo:
    """A GPU and the state that it was measured in; None where the driver does not say.

    Attributes:
        name: Model name.
        driver: Version of the driver.
        memory_mib: Installed memory.
        power_limit_w: Power limit in force.
        power_draw_w: Power drawn at the end of the measurement.
        performance_state: "P0" (fastest) to "P12".
        sm_clock_mhz: Clock of the multiprocessors at the end of the measurement.
        max_sm_clock_mhz: Highest clock they can have.
        memory_clock_mhz: Clock of the memory.
        temperature_c: Of the chip.
        throttle_reasons: Bit mask of what holds the clocks down, as the driver gives it; 0x0 is nothing, 0x1 idleness.
    """

    name: str
    driver: str
    memory_mib: float | None
    power_limit_w: float | None
    power_draw_w: float | None
    performance_state: str | None
    sm_clock_mhz: float | None
    max_sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    temperature_c: float | None
    throttle_reasons: str | None

    @property
    def state(self) -> str:
        """The state in a few words: "P0, 1980 of 1980 MHz, 412 of 700 W"."""
        parts = [self.performance_state or ""]
        for value, limit, unit in (
            (self.sm_clock_mhz, self.max_sm_clock_mhz, "MHz"),
            (self.power_draw_w, self.power_limit_w, "W"),
        ):
            if value is not None:
                parts.append(f"{value:.0f}" + (f" of {limit:.0f}" if limit is not None else "") + f" {unit}")
        return ", ".join(part for part in parts if part)


_QUERY = (
    "name",
    "driver_version",
    "memory.total",
    "power.limit",
    "power.draw",
    "pstate",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "temperature.gpu",
    "clocks_throttle_reasons.active",
)
_TEXTS = ("name", "driver_version", "pstate", "clocks_throttle_reasons.active")


def parse_gpu_query(text: str) -> tuple[GpuInfo, ...]:
    """Reads the CSV that nvidia-smi prints for `_QUERY`, without head and units, a line for each GPU.

    Raises:
        ValueError: a line has another number of values.
    """
    found = []
    for line in text.splitlines():
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(_QUERY):
            raise ValueError(f"nvidia-smi gave {len(cells)} values instead of {len(_QUERY)}: {line!r}")
        values: list[Any] = []
        for name, cell in zip(_QUERY, cells, strict=True):
            unknown = cell.startswith("[") or cell == "N/A"
            if name in _TEXTS:
                values.append(None if unknown and name not in ("name", "driver_version") else cell)
            else:
                values.append(None if unknown else float(cell))
        found.append(GpuInfo(*values))
    return tuple(found)


def gpus() -> tuple[GpuInfo, ...]:
    """The NVIDIA GPUs of this machine, by nvidia-smi; empty where there is no driver or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return parse_gpu_query(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        _logger.warning("the state of the GPU is not recorded: %s", error)
        return ()


def _cpu_state(name: str) -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq") / name
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


@dataclass(frozen=True)
class MachineInfo:
    """The machine that a latency was measured on, and the state it was in.

    Attributes:
        cpu: Model name.
        cpu_cores: Logical cores this process may use.
        cpu_governor: "performance", "schedutil", ...; None where the system does not say, as in most virtual machines.
        cpu_max_mhz: Highest clock that the governor allows.
        load: Processes that were running or waiting on average in the last minute, the measured one among them.
        memory_gib: Installed memory.
        threads: OMP_NUM_THREADS, where set; backends otherwise use all cores.
        system: Operating system and architecture.
        gpus: With their clocks and power.
    """

    cpu: str
    cpu_cores: int
    cpu_governor: str | None
    cpu_max_mhz: float | None
    load: float
    memory_gib: float
    threads: str | None
    system: str
    gpus: tuple[GpuInfo, ...]

    @classmethod
    def current(cls) -> MachineInfo:
        """This machine, now: call it right after a measurement, while the clocks are still up."""
        found = gpus()
        cpu = platform.processor() or platform.machine()
        info = Path("/proc/cpuinfo")
        if info.exists():
            for line in info.read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    cpu = line.split(":", 1)[1].strip()
                    break
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        max_khz = _cpu_state("scaling_max_freq")
        return cls(
            cpu,
            len(os.sched_getaffinity(0)),
            _cpu_state("scaling_governor"),
            float(max_khz) / 1000 if max_khz and max_khz.isdecimal() else None,
            round(os.getloadavg()[0], 2),
            round(memory, 1),
            os.environ.get("OMP_NUM_THREADS"),
            f"{platform.system()} {platform.machine()}",
            found,
        )

    @classmethod
    def untold(cls) -> MachineInfo:
        """In the place of a machine, where nothing was measured that depends on it."""
        return cls("", 0, None, None, 0.0, 0.0, None, "", ())

    def describe(self) -> str:
        """One line for people."""
        if not self.cpu_cores:
            return "no machine: nothing was measured"
        text = f"{self.cpu}, {self.cpu_cores} cores, {self.memory_gib:g} GiB"
        text += f", OMP_NUM_THREADS={self.threads}" if self.threads else ""
        text += f", governor {self.cpu_governor}" if self.cpu_governor else ""
        text += f", load {self.load:g}"
        for gpu in self.gpus:
            text += f"; {gpu.name}, driver {gpu.driver}, {gpu.state}"
        return text
