"""How an info file is written: whole or not at all, with the same bytes for the same contents."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.files import atomic_path

__all__ = ["INFO_MARK", "write_info_file"]

INFO_MARK = rb"(?s)\A\x80\x04\x95.{8}}\x94\(\x8c.(metainfo|data_list)\x94"
"""How every such file begins (`base.keeping.require_ours`); mmengine writes its own by another protocol of pickle."""
_PICKLE_PROTOCOL = 4


def write_info_file(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a pickled info file in mmdet3d's form.

    Args:
        path: The file, replaced if it is there.
        content: "metainfo" and "data_list", of plain types and arrays.

    Raises:
        OSError: it cannot be written; what stood there stays.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=_PICKLE_PROTOCOL))
