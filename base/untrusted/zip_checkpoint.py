"""Checkpoints as `torch.save` writes them since torch 1.6: a zip archive of a pickle and a record for each storage."""

from __future__ import annotations

from typing import Any, BinaryIO

from base.messages import printable, shown
from base.untrusted.checkpoint_pickle import CheckpointPickle
from base.untrusted.refusal import Refused
from base.untrusted.zip_directory import Record, read_directory, read_record

__all__ = ["read_zip"]

_PICKLE = "/data.pkl"


def read_zip(file: BinaryIO, file_size: int, torch: Any) -> Any:
    """The value in a checkpoint.

    Raises:
        Refused: it is truncated, damaged, no checkpoint, or holds what none needs.
    """
    records = read_directory(file, file_size)
    folders = [name.removesuffix(_PICKLE) for name in records if name.endswith(_PICKLE) and name.count("/") == 1]
    if len(folders) != 1:
        raise Refused("it is a zip archive, but not one of torch.save: no data.pkl is in it")
    folder = folders[0]
    if f"{folder}/constants.pkl" in records:
        raise Refused("it is a TorchScript program, not a checkpoint; save the model's state_dict() with torch.save")
    _check_byte_order(file, records, folder)
    pickle = _bytes(file, records[folder + _PICKLE])
    reader = CheckpointPickle(pickle, torch, _Storages(file, records, folder, torch), file_size)
    value = reader.read()
    reader.tensors.check()
    if reader.end != len(pickle):
        raise Refused(f"{len(pickle) - reader.end} bytes follow after the end of its pickle")
    return value


class _Storages:
    """Storages as records, each read when it is first used."""

    def __init__(self, file: BinaryIO, records: dict[str, Record], folder: str, torch: Any) -> None:
        self._file, self._records, self._folder, self._torch = file, records, folder, torch
        self._read: dict[str, Any] = {}

    def content(self, key: str, count: int, item_size: int) -> Any:
        record = self._records.get(f"{self._folder}/data/{key}")
        if record is None:
            raise Refused(f"its storage '{printable(key)}' is missing")
        if record.size != count * item_size:
            raise Refused(
                f"its storage '{printable(key)}' has {record.size} bytes, not {shown(count)} elements of {item_size} "
                "bytes"
            )
        if key not in self._read:
            content = self._torch.empty(record.size, dtype=self._torch.uint8)
            read_record(self._file, record, memoryview(content.numpy()))
            self._read[key] = content
        return self._read[key]


def _bytes(file: BinaryIO, record: Record) -> bytes:
    data = bytearray(record.size)
    read_record(file, record, memoryview(data))
    return bytes(data)


def _check_byte_order(file: BinaryIO, records: dict[str, Record], folder: str) -> None:
    record = records.get(f"{folder}/byteorder")
    order = _bytes(file, record)[:16] if record else b"little"
    if order != b"little":
        found = printable(order.decode("latin1"))
        raise Refused(f"its numbers are in the byte order '{found}'; save it again on a little-endian machine")
