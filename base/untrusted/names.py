"""Names as pickles spell them."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING

__all__ = ["python_3_module"]


def python_3_module(module: str) -> str:
    """The name that Python 3 has for a module; protocols 0 to 2 write that of Python 2, such as `__builtin__`."""
    return IMPORT_MAPPING.get(module, module)
