"""Why a file is refused."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):  # noqa: N818 - caught inside this package, where the file's name is added
    """What is wrong with a file's content, without the file's name."""
