"""Reading a deploy configuration: the file, newer spellings, overrides of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from base.errors import ConfigError
from base.messages import shown
from base.parsing import NonEmptyStr
from base.python_configs import run_config
from deploy.config.consistency import check_consistency
from deploy.config.parsing import parse_settings
from deploy.config.paths import input_path
from deploy.config.schema import BackendConfig, CommonBackendConfig, DeployConfig, ModelInputs, ShapeRange
from deploy.config.settings import STRICT, Section, setting

__all__ = ["load_deploy_config", "parse_deploy_config"]

# Keys of older and newer configurations that have no place here, and what took their place.
_REPLACED: dict[tuple[str, ...], str] = {
    ("model_io",): "input and output names come from the model config",
    ("backend",): "backends are listed under 'evaluation.backends'",
    ("runtime_io", "sample_idx"): "the traced graph does not depend on the sample",
}
_IO = "names, order and dynamic axes come from the model config"


def load_deploy_config(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> DeployConfig:
    """Loads and validates a deploy configuration file.

    Args:
        path: JSON (.json) or YAML (.yaml, .yml), which hold values and nothing else; or Python (.py) that mmengine's
            `Config` can read (`_base_` included). Python is executed: load only your own.
        overrides: Key path -> value, put over the file before validation (`{"export.mode": "onnx"}`).

    Raises:
        ConfigError: the file is missing, cannot be read or executed, or a key of it is unknown, wrong or contradictory.
    """
    file = input_path(path)
    if not os.path.lexists(file):
        raise ConfigError(
            f"Deploy config '{path}' does not exist (looked for {file}). Shipped ones lie in configs/deploy/."
        )
    if file.suffix in (".json", ".yaml", ".yml"):
        from base.documents import read_json, read_yaml

        raw = (read_json if file.suffix == ".json" else read_yaml)(file, error=ConfigError)
    else:
        raw = run_config(file, "Deploy config", failed="could not be read").to_dict()
    return parse_deploy_config(raw, str(path), overrides)


def parse_deploy_config(raw: object, source: str, overrides: Mapping[str, Any] | None = None) -> DeployConfig:
    """Validates a configuration that is already read.

    Args:
        raw: The top level; names with a leading underscore are the file's own helpers and are ignored.
        source: Name for messages.
        overrides: As for `load_deploy_config`.

    Raises:
        ConfigError: a key is unknown, wrong or contradictory.
    """
    if not isinstance(raw, Mapping):
        parse_settings(DeployConfig, raw, source)
    plain = {key: value for key, value in dict(raw).items() if not str(key).startswith("_")}  # type: ignore[call-overload]
    for keys, instead in _REPLACED.items():
        _refuse_key(plain, keys, instead, source)
    _read_newer_spelling(plain, source)
    for dotted, value in (overrides or {}).items():
        plain = _with(plain, dotted.split("."), value, dotted, source)
    config = parse_settings(DeployConfig, plain, source)
    check_consistency(config, source)
    return config


def _refuse_key(tree: Any, keys: tuple[str, ...], instead: str, source: str) -> None:
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return
        tree = tree[key]
    raise ConfigError(f"{source}: '{'.'.join(keys)}' is not used: {instead}. Remove it.")


def _with(tree: Any, keys: list[str], value: Any, dotted: str, source: str) -> dict[str, Any]:
    """A copy of a table with a value at a key path."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source}: a part of '{dotted}' must be a dictionary, got {shown(tree)}.")
    key, *rest = keys
    return {**tree, key: _with(tree.get(key, {}), rest, value, dotted, source) if rest else value}


@dataclass(frozen=True, config=STRICT)
class _Component(Section):
    """One entry of `components`."""

    onnx_file: NonEmptyStr | None = setting(None, "Named after the component.")
    engine_file: NonEmptyStr | None = setting(None, "Named after the component.")
    tensorrt_profile: dict[NonEmptyStr, ShapeRange] = setting(dict, "Input name -> shapes.")


@dataclass(frozen=True, config=STRICT)
class _NewerSpelling(Section):
    """What newer configurations say in place of `backend_config`."""

    tensorrt_config: CommonBackendConfig = setting(CommonBackendConfig, "Precision, workspace and builder.")
    components: dict[NonEmptyStr, _Component] = setting(dict, "Component -> files and profile.")


def _read_newer_spelling(tree: dict[str, Any], source: str) -> None:
    """`tensorrt_config` and `components` say what `backend_config` says; one of the two spellings may be used."""
    newer = {key: tree.pop(key) for key in ("tensorrt_config", "components") if key in tree}
    if not newer:
        return
    if "backend_config" in tree:
        raise ConfigError(
            f"{source}: '{next(iter(newer))}' and 'backend_config' are two spellings of the same settings; keep one of "
            "them."
        )
    components = newer.get("components")
    for name in components if isinstance(components, Mapping) else ():
        _refuse_key(newer, ("components", name, "io"), _IO, source)
    read = parse_settings(_NewerSpelling, newer, source)
    shapes: dict[str, ShapeRange] = {}
    for name, component in read.components.items():
        for key, suffix in (("onnx_file", ".onnx"), ("engine_file", ".engine")):
            if getattr(component, key) not in (None, name + suffix):
                raise ConfigError(
                    f"{source}: 'components.{name}.{key}' is {shown(getattr(component, key))}; files are named after "
                    f"their component: '{name}{suffix}'."
                )
        shapes |= component.tensorrt_profile
    tree["backend_config"] = BackendConfig(read.tensorrt_config, (ModelInputs(shapes),) if components else ())
