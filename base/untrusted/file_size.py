"""How large a file may be before it is read."""

from __future__ import annotations

import os
from typing import BinaryIO

from base.untrusted.refusal import Refused

__all__ = ["checked_size"]

# Below, reading holes costs little.
_LARGE = 512 << 20


def checked_size(file: BinaryIO, limit: int) -> int:
    """Bytes of an open file, all of which may be read into the memory.

    Raises:
        Refused: they are more than `limit`, or many of them are holes: they take no room on the disk, and would take as
            much of the memory as their writer pleased.
    """
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    if size > limit:
        raise Refused(f"it is too large: at most {limit} bytes are read")
    if size > _LARGE:
        hole = os.lseek(descriptor, 0, os.SEEK_HOLE)  # the end of a file without any
        os.lseek(descriptor, 0, os.SEEK_SET)
        if hole < size:
            raise Refused(
                f"it has a hole at byte {hole}, as a copy or download that was not finished; where the hole is meant, "
                "copy the file with 'cp --sparse=never'"
            )
    return size
