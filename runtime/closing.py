"""What holds a device's resources until it is closed."""

from __future__ import annotations

from types import TracebackType
from typing import Self

__all__ = ["Closing"]


class Closing:
    """A context manager; a subclass writes `_release` where it holds something.

    Attributes:
        what: What messages call it: "Backend 'onnx'".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._closed = False

    def close(self) -> None:
        """Frees what it holds; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self.what} was closed; open a new one.")

    def _release(self) -> None:
        """Frees resources, once."""
