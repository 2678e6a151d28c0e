"""What autoware-ml writes into its ONNX files beside the graph: whose they are, and the parameters that they need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.errors import ConfigError
from base.interpolation import References
from base.messages import shown
from models.facts import BACKBONE_NECK_HEAD, VOXEL_ENCODER

__all__ = ["onnx_stamps"]

_FOLDER = "tasks"
# A date would make every export another file, and runs of trackers are none of ours.
_OWN = frozenset(
    ("release", "model_name", "task", "module", "config_name", "export_date", "exported_with", "tracker", "run_id")
)


def onnx_stamps(references: References, path: Path) -> dict[str, dict[str, str]]:
    """Component -> entries of its file's metadata: the place of the config in the tree's `tasks`, and `metainfo`.

    Args:
        references: The config.
        path: Its file.

    Raises:
        ConfigError: `metainfo` of an ONNX module holds what has no text, or a key that is written anyway.
    """
    parts = path.absolute().with_suffix("").parts
    inside = parts[parts.index(_FOLDER) + 1 :] if _FOLDER in parts else parts[-1:]
    identity = {"config_name": "/".join(inside), "release": "unversioned"}
    if len(inside) > 2:
        identity |= {"task": inside[0], "model_name": inside[1]}
    out = {}
    for component in (VOXEL_ENCODER, BACKBONE_NECK_HEAD):
        module = f"{component}_centerpoint"
        given = references.value("deploy", "onnx", "modules", module, "metainfo") or {}
        where = f"{path}: deploy.onnx.modules.{module}.metainfo"
        if not isinstance(given, Mapping) or _OWN & set(given):
            raise ConfigError(f"{where} is {shown(given)}, but must be a dictionary without {', '.join(sorted(_OWN))}.")
        texts = {key: _text(value, f"{where}.{key}") for key, value in given.items()}
        out[component] = {**identity, "module": module, **texts}
    return out


def _text(value: Any, where: str) -> str:
    """A scalar, or a list of them with commas between."""
    items = [_scalar(item) for item in (value if isinstance(value, list) else [value])]
    texts = [item for item in items if item is not None]
    if len(texts) < len(items):
        raise ConfigError(f"{where} is {shown(value)}, but must be a text without commas, a number, or a list of them.")
    return ",".join(texts)


def _scalar(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return None if "," in value else value
    return str(value) if isinstance(value, int | float) else None
