"""What a manifest beside files says of them, and whether they are still those files (export/manifest.py writes it)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from base.documents import read_json
from base.errors import ConfigError
from base.files import sha256_file
from base.messages import shown_file
from base.parsing import NonEmptyStr, Record
from base.wholeness import MANIFEST, require_whole

__all__ = ["FileEntry", "Manifest", "read_manifest", "require_as_made", "require_same_file"]


def _without_folder(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise ValueError("must be a file's name without its folder")
    return name


class FileEntry(Record):
    """A file that was read or written: its name without the folder, size and SHA-256."""

    file: Annotated[NonEmptyStr, AfterValidator(_without_folder)]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(Record):
    """A manifest; see export/manifest.py for what its parts hold."""

    schema_version: int
    kind: NonEmptyStr
    inputs: dict[str, FileEntry]
    outputs: dict[str, FileEntry]
    settings: dict[str, Any]
    versions: dict[str, Any]
    environment: dict[str, Any] | None = None


def read_manifest(path: str | os.PathLike[str], remedy: str) -> Manifest:
    """Reads a manifest.

    Raises:
        DataError: it is missing, or no manifest; the message ends with `remedy`.
    """
    return read_json(path, Manifest, remedy=remedy)


def require_same_file(file: Path, entry: FileEntry, manifest: Path, remedy: str) -> None:
    """Checks that a file is the one that a manifest's entry is about.

    Raises:
        ConfigError: its bytes are others.
    """
    if file.stat().st_size != entry.bytes or sha256_file(file) != entry.sha256:
        raise ConfigError(f"{shown_file(file)} is not the file that its manifest '{manifest.name}' describes. {remedy}")


def require_as_made(folder: Path, names: Sequence[str], kind: str, remedy: str) -> bool:
    """Checks that files of a folder were made together and are as they were made, where the folder can tell.

    Args:
        folder: With the files.
        names: Of those that are going to be read.
        kind: Of the manifest: "onnx".
        remedy: How to make them, for messages.

    Returns:
        Whether the folder has a manifest of that kind; files from elsewhere have none.

    Raises:
        ConfigError: a run was stopped between two of the files, or a file is not what the manifest says.
        DataError: the manifest is broken.
    """
    require_whole(folder, remedy)
    path = folder / MANIFEST
    if not path.is_file():
        return False
    content = read_json(path)
    # A folder from elsewhere may have a manifest of its own.
    if not isinstance(content, dict) or content.get("kind") != kind:
        return False
    manifest = read_manifest(path, remedy)
    for name in names:
        if name in manifest.outputs:
            advice = f"{remedy} If it was changed on purpose, remove the manifest."
            require_same_file(folder / name, manifest.outputs[name], path, advice)
    return True
