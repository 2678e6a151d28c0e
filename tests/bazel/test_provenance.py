"""The statement about artifacts: digests as sha256sum gives them, one order, nothing of the machine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path.cwd() / "bazel/private/write_provenance.py"


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_provenance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shell(command: str, folder: Path) -> str:
    return subprocess.check_output(["bash", "-c", command], cwd=folder, text=True).split()[0]


def plan_of(root: Path) -> dict[str, Any]:
    """An export of a checkpoint with an environment as tool."""
    for name in ("model.pth", "environment/bin/python", "environment/lib/a.py", "onnx/net.onnx", "onnx/sub/net.data"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "environment/bin/python3").symlink_to("python")

    def file(path: str, name: str) -> dict[str, str]:
        return {"path": str(root / path), "name": name}

    step = {
        "target": "//artifacts:urban_onnx",
        "rule": "onnx_model",
        "parameters": '{"precision":"fp16"}',
        "inputs": [file("model.pth", "artifacts/model.pth")],
        "tools": [file("environment", "../python_env/environment")],
        "outputs": [file("onnx", "artifacts/urban_onnx-1")],
    }
    subjects = [file("onnx", "artifacts/urban_onnx-1")]
    facts = {"name": "//artifacts:urban_provenance", "version": "1", "package": "artifacts"}
    return facts | {"subjects": subjects, "steps": [step]}


def test_digests_are_those_of_sha256sum(writer: ModuleType, tmp_path: Path) -> None:
    made = writer.statement(plan_of(tmp_path))
    assert made["subject"] == [
        {"name": f"urban_onnx-1/{name}", "digest": {"sha256": shell(f"sha256sum onnx/{name}", tmp_path)}}
        for name in ("net.onnx", "sub/net.data")
    ]
    sources = {item["name"]: item["digest"] for item in made["predicate"]["buildDefinition"]["resolvedDependencies"]}
    tree = "find -L . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    assert sources == {
        "artifacts/model.pth": {"sha256": shell("sha256sum model.pth", tmp_path)},
        "../python_env/environment": {"sha256Tree": shell(tree, tmp_path / "environment")},
    }


def test_nothing_of_the_machine_is_in_it(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "another/place"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        plan, out = folder / "plan.json", folder / "provenance.json"
        plan.write_text(json.dumps(plan_of(folder)))
        subprocess.run([sys.executable, SCRIPT, plan, out], check=True)
        texts.append(out.read_text())
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]


@pytest.mark.parametrize("changed", ["model.pth", "environment/lib/a.py", "onnx/sub/net.data"])
def test_every_file_counts(changed: str, writer: ModuleType, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    before = writer.statement(plan)
    (tmp_path / changed).write_text("changed")
    assert writer.statement(plan) != before


def test_what_a_step_made_is_no_source_of_the_next(writer: ModuleType, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (first,) = plan["steps"]
    second = first | {"target": "//artifacts:urban_engines", "inputs": first["outputs"], "outputs": []}
    plan["steps"].append(second)
    definition = writer.statement(plan)["predicate"]["buildDefinition"]
    assert [item["name"] for item in definition["resolvedDependencies"]] == [
        "../python_env/environment",
        "artifacts/model.pth",
    ]
    assert definition["internalParameters"]["steps"][1]["inputs"] == ["artifacts/urban_onnx-1"]
