"""A stand-in for mmcv's compiled extension, for machines with mmcv-lite.

mmcv-lite carries the Python side of every operator and lacks only `mmcv._ext`. CenterPoint needs one operator from it,
hard voxelization; the others raise when they are used. Environments of requirements_lock.txt have `_ext.py` installed
as `mmcv/_ext.py` (third_party/python/stand_ins.toml), so that nothing has to be called before mmdet3d is imported;
`install()` does the same for others. A compiled mmcv, where one is installed, is preferred in both.
"""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["install"]


def install() -> None:
    """Makes `import mmcv.ops` work; call it before mmdet3d is imported. Calling it again changes nothing."""
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext") is not None:
        return
    from third_party.mmcv_ext import _ext

    sys.modules["mmcv._ext"] = _ext
