"""What else happens while frames run: memory, clocks, garbage collection, page faults, other processes."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Faults", "GpuSample", "MemorySample", "Watch"]

_QUERY = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "memory.used", "clocks_throttle_reasons.active")


@dataclass(frozen=True)
class MemorySample:
    """Attributes:
    at_s: Of `time.perf_counter`.
    resident_mib: Of this process, on the host.
    """

    at_s: float
    resident_mib: float


@dataclass(frozen=True)
class GpuSample:
    """What nvidia-smi says; None where it does not.

    Attributes:
        at_s: Of `time.perf_counter`, when it was read.
        sm_mhz, memory_mhz, temperature_c, power_w: Of the GPU.
        memory_mib: In use by everybody.
        throttle: What holds the clocks down, a bit mask in hexadecimal.
    """

    at_s: float
    sm_mhz: float | None
    memory_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    memory_mib: float | None
    throttle: str


@dataclass(frozen=True)
class Faults:
    """Counters of this process, from its start."""

    minor: int
    major: int
    voluntary: int
    involuntary: int

    @classmethod
    def now(cls) -> Faults:
        """As the kernel counts them: page faults without and with reading, waits, and times another process ran."""
        use = resource.getrusage(resource.RUSAGE_SELF)
        return cls(use.ru_minflt, use.ru_majflt, use.ru_nvcsw, use.ru_nivcsw)


class Watch:
    """Samples in threads of its own; a context manager.

    Attributes:
        memory, gpu: Samples so far.
        collections: (begin, end, generation) of each garbage collection, seconds of `time.perf_counter`.
    """

    def __init__(self, period_s: float = 0.5, device: int | None = None) -> None:
        """Args:
        period_s: From sample to sample.
        device: GPU to ask nvidia-smi for; None for none.
        """
        self.memory: list[MemorySample] = []
        self.gpu: list[GpuSample] = []
        self.collections: list[tuple[float, float, int]] = []
        self._period_s, self._device = period_s, device
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []
        self._process: subprocess.Popen[str] | None = None
        self._began = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._collected)
        self._start(self._sample_memory)
        program = shutil.which("nvidia-smi")
        if self._device is not None and program is not None:
            # One process for all samples: starting one a sample would itself make a tail.
            command = [
                program, f"--id={self._device}", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits",
                f"--loop-ms={max(1, int(self._period_s * 1000))}",
            ]  # fmt: skip
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self._start(self._read_gpu)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.callbacks.remove(self._collected)
        self._end.set()
        if self._process is not None:
            self._process.terminate()
        for thread in self._threads:
            thread.join()
        if self._process is not None:
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _start(self, target: Any) -> None:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.collections.append((self._began, time.perf_counter(), info["generation"]))

    def _sample_memory(self) -> None:
        page_mib = os.sysconf("SC_PAGE_SIZE") / 2**20
        statm = Path("/proc/self/statm")
        while True:
            pages = int(statm.read_text(encoding="ascii").split()[1])
            self.memory.append(MemorySample(time.perf_counter(), pages * page_mib))
            if self._end.wait(self._period_s):
                return

    def _read_gpu(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            sample = parse_sample(line, time.perf_counter())
            if sample is not None:
                self.gpu.append(sample)


def parse_sample(line: str, at_s: float) -> GpuSample | None:
    """A line of nvidia-smi for `_QUERY`; None for another one."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_QUERY):
        return None
    sm, memory, temperature, power, used = map(_number, cells[:-1])
    return GpuSample(at_s, sm, memory, temperature, power, used, cells[-1])


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # "[N/A]"
        return None
