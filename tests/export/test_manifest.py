from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from base.errors import ExportError
from export.manifest import build_manifest, git_state, run_environment, write_manifest


@dataclass(frozen=True)
class _Settings:
    shape: tuple[int, ...]
    folder: Path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {"config": tmp_path / "config.py", "model.onnx": tmp_path / "model.onnx"}
    for name, path in paths.items():
        path.write_bytes(name.encode())
    return paths


def _manifest(files: dict[str, Path], **more: Any) -> dict[str, Any]:
    return build_manifest(
        kind="onnx",
        inputs={"config": files["config"]},
        outputs={"model.onnx": files["model.onnx"]},
        settings={"onnx": _Settings((1, 2), Path("somewhere"))},
        packages=("numpy", "not_a_package"),
        **more,
    )


def test_checksums_sizes_versions_and_settings(files: dict[str, Path]) -> None:
    import numpy

    manifest = _manifest(files)
    assert manifest["outputs"] == {
        "model.onnx": {"file": "model.onnx", "bytes": 10, "sha256": hashlib.sha256(b"model.onnx").hexdigest()}
    }
    assert manifest["inputs"]["config"]["sha256"] == hashlib.sha256(b"config").hexdigest()
    assert manifest["versions"]["numpy"] == numpy.__version__
    assert manifest["versions"]["not_a_package"] is None
    assert manifest["settings"] == {"onnx": {"shape": [1, 2], "folder": "somewhere"}}


def test_a_build_action_s_manifest_is_reproducible_and_holds_no_folder(files: dict[str, Path], tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.json", _manifest(files))
    write_manifest(tmp_path / "b.json", _manifest(files))
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    assert str(tmp_path) not in text
    assert "environment" not in json.loads(text)


def test_a_run_adds_when_and_from_which_commit(files: dict[str, Path], tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", "config.py")
    git("commit", "-qm", "first")
    (tmp_path / "model.onnx").unlink()
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "config.py").write_text("changed")
    state = run_environment(tmp_path)
    assert state["git"]["dirty"] is True
    assert state["created"].endswith("+00:00")


def test_no_repository_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None


def test_a_missing_file_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    files["model.onnx"].unlink()
    with pytest.raises(ExportError, match=r"names 'model.onnx', but '.*model.onnx' does not exist"):
        _manifest(files)


def test_an_unwritable_manifest_is_an_error(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Cannot write '.*config.py/manifest.json'"):
        write_manifest(files["config"] / "manifest.json", _manifest(files))
