"""Info files of datasets: pickles of plain values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import DataError
from base.messages import printable, shown_file
from base.reading import open_regular
from base.untrusted.file_size import checked_size
from base.untrusted.limits import MAX_INFO_BYTES, Memory
from base.untrusted.names import python_3_module
from base.untrusted.numpy_names import numpy_names
from base.untrusted.other_formats import other_format
from base.untrusted.pickle_reader import PickleReader
from base.untrusted.plain_names import plain_names
from base.untrusted.refusal import Refused
from base.untrusted.stand_ins import StandIn
from base.untrusted.structure import PLAIN_VALUES, check_structure

__all__ = ["info_from_bytes", "load_info_pickle"]


class _InfoVocabulary:
    """Plain containers, numbers, texts and numpy arrays."""

    def __init__(self) -> None:
        self.names: Mapping[tuple[str, str], StandIn] = {}

    def stand_in(self, module: str, name: str) -> object:
        module = python_3_module(module)
        if (module, name) not in self.names:
            raise Refused(f"it asks for '{printable(module)}.{printable(name)}', which no info file needs")
        return self.names[module, name]

    def persistent(self, identifier: object) -> object:
        raise Refused("it refers to something outside of itself")

    def attributes(self, state: dict[object, object]) -> dict[str, object]:
        raise Refused("it sets attributes of a dictionary")

    def is_key(self, value: object) -> bool:
        return isinstance(value, np.generic)


def load_info_pickle(path: str | Path) -> Any:
    """Loads an info file; only containers, numbers, strings and numpy arrays are allowed in it.

    Raises:
        DataError: the file is missing, truncated, no pickle, or names anything else; nothing of it was run.
    """
    with open_regular(path, "Info file") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            data = file.read(checked_size(file, MAX_INFO_BYTES))
        except OSError as error:
            raise DataError(f"Info file {shown_file(path)} cannot be read: {error.strerror}.") from error
        except Refused as error:
            raise _refusal(error, str(path), size) from error
    return info_from_bytes(data, str(path))


def info_from_bytes(data: bytes, name: str) -> Any:
    """`load_info_pickle` for what was read already; `name` is the file's in messages."""
    try:
        return _value(data)
    except Refused as error:
        raise _refusal(error, name, len(data)) from error


def _refusal(error: Refused, name: str, size: int) -> DataError:
    return DataError(
        f"Info file {shown_file(name)} ({size} bytes) was refused: {error}. Only plain containers, numbers, strings "
        "and numpy arrays are accepted, and nothing in the file was run. Write the info file again from its dataset."
    )


def _value(data: bytes) -> Any:
    if other := other_format(data):
        raise Refused(f"{other}; an info file is a pickle that is not compressed")
    memory, vocabulary = Memory(len(data)), _InfoVocabulary()
    reader = PickleReader(data, vocabulary, memory)
    vocabulary.names = {**plain_names(memory, vocabulary.is_key), **numpy_names(memory, reader.again)}
    value = reader.read()
    if reader.end != len(data):
        raise Refused(f"{len(data) - reader.end} bytes follow after its end (byte {reader.end})")
    check_structure(value, reader.shared, PLAIN_VALUES, len(data))
    return value
