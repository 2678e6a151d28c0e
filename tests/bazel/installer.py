"""The environment's installer as a module; it is a script and lies in no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def install_env_module() -> ModuleType:
    """third_party/python/install_env.py of the current folder, which is the repository's root."""
    folder = Path.cwd() / "third_party/python"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # as for a script: its neighbours are found
    spec = importlib.util.spec_from_file_location("install_env", folder / "install_env.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
