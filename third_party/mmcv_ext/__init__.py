"""A stand-in for mmcv's compiled extension, for machines with mmcv-lite.

mmcv-lite carries the Python side of every operator and lacks only `mmcv._ext`. CenterPoint needs one operator from it,
hard voxelization; the others raise when they are used. A compiled mmcv, where one is installed, is preferred.
"""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["install"]


def install() -> bool:
    """Makes `import mmcv.ops` work; call it before mmdet3d is imported. Calling it again changes nothing.

    Returns:
        True when the stand-in is in use, False when a compiled mmcv is.
    """
    if "mmcv._ext" in sys.modules:
        return getattr(sys.modules["mmcv._ext"], "IS_STAND_IN", False)
    if importlib.util.find_spec("mmcv._ext") is not None:
        return False
    from third_party.mmcv_ext import _ext

    sys.modules["mmcv._ext"] = _ext
    return True
