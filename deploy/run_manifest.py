"""`manifest.json` of a run: checksums of all that it read and wrote, its settings, and the versions of what did it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.config.paths import repository_root

if TYPE_CHECKING:
    from deploy.session import Session

__all__ = ["write_run_manifest"]

# Whose versions belong to a run.
_PACKAGES = (
    "torch",
    "mmdet3d",
    "mmengine",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "openvino",
    "tensorrt_rtx_bindings",
)


def write_run_manifest(session: Session, source: str, artifacts: Sequence[str]) -> None:
    """Writes the manifest into the run's work folder; `results.json` and `report.html` are there.

    Args:
        session: Of the run.
        source: File of the deploy config; another text where there is none.
        artifacts: Paths of what was made, within the work folder.

    Raises:
        OSError: it cannot be written.
    """
    from export.manifest import build_manifest, run_environment, write_manifest

    plan = session.plan
    inputs: dict[str, str | Path] = {"checkpoint": plan.checkpoint, "model_config": plan.model_config_path}
    if Path(source).is_file():
        inputs["deploy_config"] = source
    if plan.data_root is not None:
        name = plan.config.runtime_io.info_file or plan.model_cfg.val_dataloader.dataset.ann_file
        inputs["info_file"] = plan.data_root / name
    if plan.quantization is not None and plan.quantization.info_file is not None:
        inputs["calibration_info_file"] = plan.quantization.info_file
    outputs: dict[str, str | Path] = {
        name: plan.work_dir / name for name in (*artifacts, "results.json", "report.html")
    }
    settings: dict[str, Any] = {"deploy": asdict(plan.config), "spec": plan.spec.to_dict()}
    if session.quantized is not None:
        settings["quantization"] = session.quantized.facts
        settings["quantization_structure"] = asdict(session.quantized.structure)
    root = os.environ.get("BUILD_WORKSPACE_DIRECTORY", str(repository_root()))
    manifest = build_manifest("run", inputs, outputs, settings, _PACKAGES, run_environment(root))
    write_manifest(plan.work_dir / "manifest.json", manifest)
