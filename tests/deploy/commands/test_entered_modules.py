"""A deployment imports what it runs: without evaluation nothing that scores, and alone nothing that infers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment

PACKAGES = ("base", "models", "datasets", "runtime", "eval", "quant", "training", "export", "autoware", "deploy")
# The record of the run and its page; `python -m benchmarks.structure --run` prints the same for an INT8 deployment.
RECORD = {
    *("eval", "eval.codec", "eval.intervals", "eval.machine", "eval.palette", "eval.results", "eval.report"),
    *(f"eval.report.{name}" for name in ("artifacts", "extension", "page", "summary", "table", "templating")),
}
VERIFICATION = {
    *("box_comparison", "comparison", "decode_check", "frame_pair", "frames", "ranges", "verification"),
    *("report.checks", "report.verification"),
}
PROBE = """
import json, sys
from deploy.export import main
for config in ("alone", "verified"):
    code = main([*sys.argv[2:], f"--deploy-config={config}.py", f"--work-dir={config}"])
    names = [name for name in sys.modules if name.split(".")[0] in json.loads(sys.argv[1])]
    print(json.dumps({"code": code, "names": sorted(names)}))
"""


def test_an_export_enters_no_evaluation(
    deployment: Deployment, child_environment: dict[str, str], tmp_path: Path
) -> None:
    """Alone, and then verified."""
    (tmp_path / "alone.py").write_text("verification = dict(enabled=False)\nevaluation = dict(enabled=False)\n")
    (tmp_path / "verified.py").write_text("evaluation = dict(enabled=False)\n")
    options = {
        "--model-config": deployment.model_config,
        "--checkpoint": deployment.checkpoint,
        "--data-root": deployment.data_root,
        "--num-verify-samples": 1,
        "--mode": "onnx",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(PACKAGES), *(f"{key}={value}" for key, value in options.items())],
        cwd=tmp_path,
        env={key: value for key, value in child_environment.items() if key != "BUILD_WORKING_DIRECTORY"},
        capture_output=True,
        text=True,
        check=True,
    )
    entered, verified = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert entered["code"] == verified["code"] == 0
    assert (tmp_path / "alone" / "report.html").is_file()
    names = set(entered["names"])
    assert {"export.onnx_export", "models.components"} <= names
    assert {name for name in names if name.startswith("eval")} == RECORD
    assert {name for name in names if name.startswith(("runtime", "datasets", "training"))} <= {
        *("runtime", "runtime.decoders")
    }
    assert not {"deploy.accuracy", "autoware.contract", "deploy.int8_report", "export.qdq.passes"} & names
    # What every command stands on, `base`, is apart: files' borders, ownership, signals.
    assert len([name for name in names if not name.startswith("base")]) <= 79
    later = set(verified["names"]) - names
    assert "runtime.pipeline" in later
    assert {name for name in later if name.startswith("eval")} == {f"eval.{name}" for name in VERIFICATION}
    assert not {"deploy.accuracy", "deploy.code_agreement", "deploy.int8_report"} & later
