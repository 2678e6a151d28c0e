"""Files of weights for tests: what torch saves, in each of its formats, and archives of any content."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

FORMATS: list[dict[str, Any]] = [
    {},
    {"pickle_protocol": 4},
    {"pickle_protocol": 5},
    {"_use_new_zipfile_serialization": False},
    {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
]


def saved(value: Any, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def checkpoint(path: Path, content: bytes, storages: dict[str, bytes] | None = None, folder: str = "archive") -> Path:
    """A checkpoint of any pickle and any storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", content)
        archive.writestr(f"{folder}/byteorder", "little")
        archive.writestr(f"{folder}/version", "3")
        for key, data in (storages or {}).items():
            archive.writestr(f"{folder}/data/{key}", data)
    return path
