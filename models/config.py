"""Model configs: mmengine Python files, checked before anything is built from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from base.errors import ConfigError
from base.lazy import require
from models.awml import adapt_awml_

__all__ = ["load_model_config"]


def load_model_config(path: str | Path) -> Any:
    """Loads an mmengine model config. It is Python and is run: use configs that you trust.

    Configs of AWML are read as they are (`models.awml`).

    Returns:
        The `mmengine.Config`.

    Raises:
        ConfigError: the file or one of its bases is missing or does not run, it has no `model`, or it uses a type that
            only a package which is not here would bring.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"Model config '{path}' does not exist. Give its path with --model-config.")
    mmengine = require("mmengine.config", "to read a model config")
    try:
        # Its custom imports wait until it is known which of them are needed.
        cfg = mmengine.Config.fromfile(path, import_custom_modules=False)
    except FileNotFoundError as error:
        raise ConfigError(
            f"Model config '{path}' cannot be read: {error}. Configs name their _base_ files relative to themselves; "
            "keep the folders that they came in."
        ) from error
    # A config is a program: these are what a slip of the pen in it raises.
    except (SyntaxError, NameError, AttributeError, TypeError, ValueError, KeyError, OSError, ImportError) as error:
        raise ConfigError(f"Model config '{path}' cannot be read: {type(error).__name__}: {error}") from error
    if "model" not in cfg:
        raise ConfigError(f"'{path}' has no 'model'; is it a deploy config? The model config comes second.")
    adapt_awml_(cfg)
    return cfg
