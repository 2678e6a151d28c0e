"""A growing table of records that moves to disk when it gets large."""

from __future__ import annotations

import tempfile
import weakref
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["RecordSpool"]

_IN_MEMORY_BYTES = 2 << 20


class RecordSpool:
    """Structured records, appended in blocks and read back as a whole.

    What is appended beyond 2 MiB lies in an anonymous temporary file, so that scoring many thresholds over many frames
    needs memory for one of them at a time.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - lives as long as this
        weakref.finalize(self, self._file.close)

    def append(self, **columns: NDArray[Any]) -> None:
        """Adds as many records as the columns are long; every field of the type is needed."""
        records = np.empty(len(next(iter(columns.values()))), self._dtype)
        for name in cast("tuple[str, ...]", self._dtype.names):
            records[name] = columns[name]
        self._file.seek(0, 2)
        self._file.write(records.tobytes())

    def read(self) -> NDArray[Any]:
        """All records in the order in which they came."""
        self._file.seek(0)
        return np.frombuffer(self._file.read(), self._dtype)
