"""Reading a deploy configuration: the Python file, newer spellings, overrides of the command line."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from base.errors import ConfigError
from base.python_configs import run_config
from deploy.config.consistency import check_consistency
from deploy.config.parsing import parse_section
from deploy.config.paths import input_path
from deploy.config.schema import DeployConfig

__all__ = ["load_deploy_config", "parse_deploy_config"]

# Keys of older configurations that have no place here, and what took their place.
_REPLACED: dict[str, str] = {
    "model_io": "input and output names come from the model config",
    "backend": "backends are listed under 'evaluation.backends'",
}
_COMPONENT_KEYS = ("onnx_file", "engine_file", "tensorrt_profile")


def load_deploy_config(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> DeployConfig:
    """Loads and validates a deploy configuration file.

    Args:
        path: A Python file that mmengine's `Config` can read (`_base_` included). It is executed: load only your own.
        overrides: Key path -> value, put over the file before validation (`{"export.mode": "onnx"}`).

    Raises:
        ConfigError: the file is missing or cannot be executed, or a key of it is unknown, wrong or contradictory.
    """
    file = input_path(path)
    if not file.is_file():
        raise ConfigError(
            f"Deploy config '{path}' does not exist (looked for {file}). Shipped ones lie in configs/deploy/."
        )
    raw = run_config(file, "Deploy config", failed="could not be read").to_dict()
    return parse_deploy_config(raw, str(path), overrides)


def parse_deploy_config(
    raw: Mapping[str, Any], source: str, overrides: Mapping[str, Any] | None = None
) -> DeployConfig:
    """Validates a configuration that is already a dictionary.

    Args:
        raw: The top level; names with a leading underscore are the file's own helpers and are ignored.
        source: Name for messages.
        overrides: As for `load_deploy_config`.

    Raises:
        ConfigError: a key is unknown, wrong or contradictory.
    """
    plain = {key: copy.deepcopy(value) for key, value in raw.items() if not str(key).startswith("_")}
    for key, instead in _REPLACED.items():
        if key in plain:
            raise ConfigError(f"{source}: '{key}' is not used: {instead}. Remove it.")
    if isinstance(plain.get("runtime_io"), dict) and "sample_idx" in plain["runtime_io"]:
        raise ConfigError(
            f"{source}: 'runtime_io.sample_idx' is not used: the traced graph does not depend on the sample. Remove it."
        )
    _read_newer_spelling(plain, source)
    for dotted, value in (overrides or {}).items():
        _override(plain, dotted, value, source)
    config = parse_section(DeployConfig, plain, "", source)
    check_consistency(config, source)
    return config


def _override(tree: dict[str, Any], dotted: str, value: Any, source: str) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{source}: '{name}' of '{dotted}' must be a dictionary, got {tree!r}.")
    tree[last] = value


def _read_newer_spelling(tree: dict[str, Any], source: str) -> None:
    """`tensorrt_config` and `components` say what `backend_config` says; one of the two spellings may be used."""
    newer = [key for key in ("tensorrt_config", "components") if key in tree]
    if not newer:
        return
    if "backend_config" in tree:
        raise ConfigError(
            f"{source}: '{newer[0]}' and 'backend_config' are two spellings of the same settings; keep one of them."
        )
    backend: dict[str, Any] = {}
    if "tensorrt_config" in tree:
        backend["common_config"] = tree.pop("tensorrt_config")
    if "components" in tree:
        backend["model_inputs"] = [{"input_shapes": _profiles(tree.pop("components"), source)}]
    tree["backend_config"] = backend


def _profiles(components: Any, source: str) -> dict[str, Any]:
    if not isinstance(components, dict):
        raise ConfigError(f"{source}: 'components' must be a dictionary, got {components!r}.")
    shapes: dict[str, Any] = {}
    for name, component in components.items():
        where = f"components.{name}"
        if not isinstance(component, dict):
            raise ConfigError(f"{source}: '{where}' must be a dictionary, got {component!r}.")
        for key in component:
            if key == "io":
                raise ConfigError(
                    f"{source}: '{where}.io' is not used: names, order and dynamic axes come from the model config. "
                    f"Remove it."
                )
            if key not in _COMPONENT_KEYS:
                raise ConfigError(f"{source}: unknown key '{where}.{key}'. Known keys: {', '.join(_COMPONENT_KEYS)}.")
        for key, suffix in (("onnx_file", ".onnx"), ("engine_file", ".engine")):
            if component.get(key, name + suffix) != name + suffix:
                raise ConfigError(
                    f"{source}: '{where}.{key}' is {component[key]!r}; files are named after their component: "
                    f"'{name}{suffix}'."
                )
        shapes.update(component.get("tensorrt_profile", {}))
    return shapes
