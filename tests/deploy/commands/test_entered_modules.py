"""A deployment imports what it runs: without verification and evaluation, nothing that compares, scores or infers."""

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
PROBE = """
import json, sys
from deploy.export import main
code = main(sys.argv[2:])
names = [name for name in sys.modules if name.split(".")[0] in json.loads(sys.argv[1])]
print(json.dumps({"code": code, "names": sorted(names)}))
"""


def test_an_export_alone_enters_no_evaluation(
    deployment: Deployment, child_environment: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "deploy.py"
    config.write_text("verification = dict(enabled=False)\nevaluation = dict(enabled=False)\n")
    options = {
        "--deploy-config": config,
        "--model-config": deployment.model_config,
        "--checkpoint": deployment.checkpoint,
        "--work-dir": tmp_path / "out",
        "--mode": "onnx",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(PACKAGES), *(f"{key}={value}" for key, value in options.items())],
        env=child_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    entered = json.loads(done.stdout.splitlines()[-1])
    assert entered["code"] == 0
    assert (tmp_path / "out" / "report.html").is_file()
    names = set(entered["names"])
    assert {"export.onnx_export", "models.components"} <= names
    assert {name for name in names if name.startswith("eval")} == RECORD
    assert {name for name in names if name.startswith(("runtime", "datasets", "training"))} <= {
        *("runtime", "runtime.decoders")
    }
    assert not {"deploy.accuracy", "autoware.contract", "deploy.int8_report", "export.qdq.passes"} & names
    # What every command stands on, `base`, is apart: files' borders, ownership, signals.
    assert len([name for name in names if not name.startswith("base")]) <= 81
