"""What made an artifact: checksums of inputs and outputs, versions of tools, settings as resolved.

Two kinds of manifest share one schema. A build action's holds nothing but what follows from its inputs, so that it is
cached and compared like any other output. A run's adds when, where and from which commit it was made.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from base.errors import ExportError
from base.files import read_json, sha256_file, write_json
from base.wholeness import MANIFEST

__all__ = ["SCHEMA_VERSION", "build_manifest", "discard_manifest", "git_state", "run_environment", "write_manifest"]

SCHEMA_VERSION = 1
_GIT_TIMEOUT_S = 10

# Distributions whose name differs from the name they are imported by.
_DISTRIBUTIONS = {"tensorrt_rtx_bindings": "tensorrt_rtx_cu13_bindings"}


def build_manifest(
    kind: str,
    inputs: Mapping[str, str | Path],
    outputs: Mapping[str, str | Path],
    settings: Mapping[str, Any],
    packages: Sequence[str] = (),
    environment: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A manifest as a JSON-ready dictionary; equal inputs give an equal manifest.

    Args:
        kind: "onnx", "engines", "run", …
        inputs: Role or name -> file that was read.
        outputs: Name within the artifact -> file that was written.
        settings: Settings as resolved; dataclasses and paths are written out.
        packages: Import names of Python packages whose versions belong to the result.
        environment: What only a run knows (`run_environment`); leave it out inside a build action.

    Raises:
        ExportError: a file of `inputs` or `outputs` does not exist.
    """
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "inputs": {name: _entry(name, path) for name, path in sorted(inputs.items())},
        "outputs": {name: _entry(name, path) for name, path in sorted(outputs.items())},
        "settings": _plain(settings),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in sorted(packages)}},
    }
    if environment is not None:
        manifest["environment"] = _plain(environment)
    return manifest


def write_manifest(path: str | Path, manifest: Mapping[str, Any]) -> None:
    """Writes a manifest atomically, with sorted keys.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        write_json(path, dict(manifest))
    except OSError as error:
        raise ExportError(f"Cannot write '{path}': {error.strerror or error}.") from error


def discard_manifest(folder: Path, kind: str) -> None:
    """Removes a folder's manifest of an earlier set of files, once there is a new set that it does not describe.

    Args:
        folder: With the files.
        kind: Of the manifest; one of another kind, or from elsewhere, stays.

    Raises:
        DataError: it is no JSON file.
    """
    path = folder / MANIFEST
    content = read_json(path) if path.is_file() else None
    if isinstance(content, dict) and content.get("kind") == kind:
        path.unlink()


def run_environment(root: str | Path | None = None) -> dict[str, Any]:
    """When and where a run took place, for manifests outside build actions.

    Args:
        root: Folder of the source tree, to ask git about; None leaves git out.
    """
    environment: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "system": platform.platform(),
    }
    if root is not None:
        environment["git"] = git_state(root)
    return environment


def git_state(root: str | Path) -> dict[str, Any] | None:
    """`{"commit": sha, "dirty": bool}` of the working tree at `root`; None where there is no git or no repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments],
                capture_output=True,
                text=True,
                timeout=_GIT_TIMEOUT_S,
                check=False,
            )
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    if commit is None or status is None:
        return None
    return {"commit": commit, "dirty": bool(status)}


def _entry(name: str, path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"Manifest names '{name}', but '{path}' does not exist.")
    # The folder is left out: it differs between machines and would make equal artifacts unequal.
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
