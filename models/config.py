"""Model configs: mmengine Python files, checked before anything is built from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from base.errors import ConfigError
from base.parsing import misfit
from base.python_configs import run_config
from models.awml import adapt_awml_

__all__ = ["load_model_config"]

_YAML = (".yaml", ".yml")


def load_model_config(path: str | Path) -> Any:
    """Loads an mmengine model config. It is Python and is run: use configs that you trust.

    Configs of AWML are read as they are (`models.awml`); so are those of autoware-ml, which are YAML and are not run
    (`models.autoware_ml`).

    Returns:
        The `mmengine.Config`.

    Raises:
        ConfigError: the file or one of its bases is missing or does not run, it has no `model`, or it uses a type that
            only a package which is not here would bring.
    """
    if Path(path).suffix in _YAML:
        from models.autoware_ml import load_autoware_ml_config

        return load_autoware_ml_config(Path(path))
    cfg = run_config(path, "Model config", missing="Give its path with --model-config.")
    if "model" not in cfg:
        raise ConfigError(f"'{path}' has no 'model'; is it a deploy config? The model config comes second.")
    if not isinstance(cfg.model, dict):
        raise misfit(path, ["model"], cfg.model, "must be a dictionary", error=ConfigError)
    adapt_awml_(cfg)
    return cfg
