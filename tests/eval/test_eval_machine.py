"""The state a measurement was made in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from eval import machine as machine_module
from eval.codec import from_json, to_json
from eval.machine import MachineInfo, gpus, package_versions, parse_gpu_query

LINE = "NVIDIA H200, 575.57.08, 143771, 700.00, 412.35, P0, 1980, 1980, 3201, 41, 0x0000000000000000"


def test_state_of_a_gpu() -> None:
    (gpu,) = parse_gpu_query(LINE + "\n")
    assert (gpu.name, gpu.driver, gpu.power_limit_w, gpu.sm_clock_mhz) == ("NVIDIA H200", "575.57.08", 700.0, 1980.0)
    assert gpu.throttle_reasons == "0x0000000000000000"
    assert gpu.state == "P0, 1980 of 1980 MHz, 412 of 700 W"


def test_what_the_driver_does_not_say_is_none() -> None:
    (gpu,) = parse_gpu_query("Orin, 540.4.0, [N/A], [N/A], [Not Supported], [N/A], 918, [N/A], [N/A], 44, [N/A]")
    assert (gpu.memory_mib, gpu.power_draw_w, gpu.performance_state, gpu.throttle_reasons) == (None,) * 4
    assert gpu.state == "918 MHz"
    with pytest.raises(ValueError, match="nvidia-smi gave 2 values instead of 11: 'a, b'"):
        parse_gpu_query("a, b")


def fake_smi(folder: Path, body: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    fake_smi(tmp_path, f'case "$1" in --query-gpu=name,*) echo "{LINE}"; echo "{LINE}";; *) exit 3;; esac')
    assert len(gpus()) == 2
    machine = MachineInfo.current()
    assert machine.gpus[0].performance_state == "P0"
    assert "NVIDIA H200, driver 575.57.08, P0, 1980 of 1980 MHz" in machine.describe()
    assert from_json(MachineInfo, to_json(machine)) == machine
    # A driver that does not answer is a warning, not the end of a measurement.
    warnings: list[str] = []
    monkeypatch.setattr(machine_module._logger, "warning", lambda text, *values: warnings.append(text % values))
    fake_smi(tmp_path, "echo failed to initialize; exit 9")
    assert gpus() == ()
    assert len(warnings) == 1
    assert warnings[0].startswith("the state of the GPU is not recorded: Command")


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine = MachineInfo.current()
    assert machine.cpu_cores == len(os.sched_getaffinity(0))
    assert machine.threads == "3"
    assert f"{machine.cpu_cores} cores" in machine.describe()
    assert package_versions()["python"].startswith("3.")
