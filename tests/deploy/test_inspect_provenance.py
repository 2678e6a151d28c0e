"""`deploy.inspect --verify` on statements written by hand about files whose digests sha256sum gives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.inspect import main

Change = Callable[[Path], object]


def _release(root: Path) -> Path:
    """Two artifacts and a statement beside them."""
    files = {"a_onnx-1.0/net.onnx": "net", "a_onnx-1.0/manifest.json": "{}", "a_engines-1.0/net.engine": "engine"}
    subjects = []
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        digest = subprocess.check_output(["sha256sum", root / name], text=True).split()[0]
        subjects.append({"name": name, "digest": {"sha256": digest}})
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {"buildDefinition": {}},
    }
    file = root / "a_provenance-1.0/provenance.json"
    file.parent.mkdir()
    file.write_text(json.dumps(statement))
    return file


def _edit(statement: Path, **changed: Any) -> None:
    statement.write_text(json.dumps(json.loads(statement.read_text()) | changed))


@pytest.mark.parametrize("named", ["file", "folder"])
def test_files_as_stated_pass(named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _release(tmp_path)
    assert main([str(file if named == "file" else file.parent), "--verify"]) == 0
    assert capsys.readouterr().out == "3 of 3 files are as stated\n"


@pytest.mark.parametrize(
    ("change", "verdict", "name"),
    [
        (lambda root: (root / "a_onnx-1.0/net.onnx").write_text("Net"), "changed", "a_onnx-1.0/net.onnx"),
        (lambda root: (root / "a_onnx-1.0/net.onnx").unlink(), "missing", "a_onnx-1.0/net.onnx"),
        (lambda root: (root / "a_onnx-1.0/more.onnx").touch(), "not stated", "a_onnx-1.0/more.onnx"),
    ],
)
def test_files_not_as_stated_fail(
    change: Change, verdict: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _release(tmp_path)
    change(tmp_path)
    assert main([str(file), "--verify", f"--json={tmp_path / 'out.json'}"]) == 1
    found = json.loads((tmp_path / "out.json").read_text())["files"]
    assert {key: value for key, value in found.items() if value != "as stated"} == {name: verdict}
    assert name in capsys.readouterr().out


def test_one_artifact_in_another_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _release(tmp_path / "made")
    (tmp_path / "vehicle").mkdir()
    (tmp_path / "made/a_engines-1.0").rename(tmp_path / "vehicle/a_engines-1.0")
    assert main([str(file), "--verify", f"--root={tmp_path / 'vehicle'}"]) == 0
    assert capsys.readouterr().out == "1 of 1 files are as stated\n"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"subject": []}, "subject"),
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "_type"),
        ({"subject": [{"name": "../a/b", "digest": {"sha256": "0" * 64}}]}, "../a/b"),
        ({"subject": [{"name": "a/b", "digest": {"sha256": "0" * 63}}]}, "sha256"),
        ({"subject": [{"name": "a/b", "digest": {"sha256": "0" * 64}}] * 2}, "twice"),
        ({"subject": [{"name": "elsewhere/b", "digest": {"sha256": "0" * 64}}]}, "--root"),
    ],
)
def test_what_is_no_statement_of_these_files(
    changed: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _release(tmp_path)
    _edit(file, **changed)
    assert main([str(file), "--verify"]) == 2
    assert message in capsys.readouterr().err


def test_options_that_contradict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _release(tmp_path)
    assert main([str(file), f"--root={tmp_path}"]) == 2
    assert main([str(file), "--verify", "--diff=other"]) == 2
    assert main([str(tmp_path / "a_onnx-1.0"), "--verify"]) == 2
    assert "provenance.json" in capsys.readouterr().err
