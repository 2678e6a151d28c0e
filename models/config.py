"""Model configs: mmengine Python files, checked before anything is built from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from base.errors import ConfigError
from base.lazy import require

__all__ = ["load_model_config"]


def load_model_config(path: str | Path) -> Any:
    """Loads an mmengine model config. It is Python and is run: use configs that you trust.

    Returns:
        The `mmengine.Config`.

    Raises:
        ConfigError: the file is missing, does not run, or has no `model`.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"Model config '{path}' does not exist. Give its path with --model-config.")
    mmengine = require("mmengine.config", "to read a model config")
    try:
        cfg = mmengine.Config.fromfile(path)
    # A config is a program: these are what a slip of the pen in it raises.
    except (SyntaxError, NameError, AttributeError, TypeError, ValueError, KeyError, OSError, ImportError) as error:
        raise ConfigError(f"Model config '{path}' cannot be read: {type(error).__name__}: {error}") from error
    if "model" not in cfg:
        raise ConfigError(f"'{path}' has no 'model'; is it a deploy config? The model config comes second.")
    return cfg
