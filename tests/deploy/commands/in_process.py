"""The deploy command in the test's own process: exit code, standard output, standard error, and what it left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Deploy: TypeAlias = Callable[..., tuple[int, str, str]]


def config_file(folder: Path, text: str = "") -> Path:
    """A deploy config that evaluates on the CPU."""
    file = folder / "deploy_config.py"
    if not file.exists() or text:
        file.write_text(
            "evaluation = dict(backends=dict(pytorch=dict(device='cpu'), onnx=dict(device='cpu'),"
            " tensorrt=dict(enabled=False)))\n" + text
        )
    return file


def results_of(tmp_path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((tmp_path / "out" / "results.json").read_text())
    return results
