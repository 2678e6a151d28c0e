"""CUDA C++ to machine code by nvcc, where there is one; no GPU is needed."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

# Of the host's compiler only the preprocessor takes part, so that its version does not matter.
_NVCC = ("nvcc", "-allow-unsupported-compiler", "-cubin")


@cache
def unusable() -> str:
    """Why nothing can be compiled here, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _compile('extern "C" __global__ void nothing() {}', "sm_90a", Path(folder))
        except FileNotFoundError:
            return "nvcc, the CUDA compiler, is not on PATH"
        except subprocess.CalledProcessError as error:
            return f"nvcc compiles nothing here: {error.stderr.strip().splitlines()[0]}"
    return ""


def compile_cubin(source: str, architecture: str, folder: Path, *options: str) -> str:
    """Compiles; returns what the compiler said. Errors and warnings fail the test."""
    try:
        said, cubin = _compile(source, architecture, folder, *options)
    except subprocess.CalledProcessError as error:
        raise AssertionError(error.stderr) from error
    assert "warning" not in said.lower(), said
    assert cubin[:4] == b"\x7fELF"
    return said


def _compile(source: str, architecture: str, folder: Path, *options: str) -> tuple[str, bytes]:
    file, cubin = folder / "kernel.cu", folder / "kernel.cubin"
    file.write_text(source)
    command = [*_NVCC, f"-arch={architecture}", *options, "-o", str(cubin), str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stderr, cubin.read_bytes()


needs_nvcc = pytest.mark.skipif(bool(unusable()), reason=unusable())
