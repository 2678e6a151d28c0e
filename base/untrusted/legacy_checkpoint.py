"""Checkpoints as torch wrote them before 1.6, and as mmdetection's model zoos publish them.

Four pickles (a magic number, a version, the writing machine, the value) and a fifth of the storages' keys; behind them
the storages, each its number of elements and their bytes.
"""

from __future__ import annotations

from typing import Any

from base.messages import printable, shown
from base.untrusted.checkpoint_pickle import CheckpointPickle
from base.untrusted.refusal import Refused

__all__ = ["is_legacy", "read_legacy"]

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MAGIC_BYTES = _MAGIC.to_bytes(10, "little")
_PREFIX = 13  # at most, before the magic number: PROTO, FRAME (from protocol 4 on), LONG1 and its length
_COUNT_BYTES = 8


def is_legacy(start: bytes) -> bool:
    """Whether a file that starts like this is such a checkpoint."""
    return start[:1] == b"\x80" and _MAGIC_BYTES in start[: _PREFIX + len(_MAGIC_BYTES)]


def read_legacy(data: bytes, torch: Any) -> Any:
    """The value in a checkpoint; `data` are the bytes of the file.

    Raises:
        Refused: it is truncated, of another version or byte order, or holds what no checkpoint needs.
    """
    storages = _Storages(len(data), torch)
    pickles = CheckpointPickle(data, torch, storages, len(data))
    magic, version, machine = pickles.read(), pickles.read(), pickles.read()
    if type(magic) is not int or magic != _MAGIC:
        raise Refused("it does not begin with the number that torch.save writes")
    if type(version) is not int or version != _VERSION:
        raise Refused(f"it is a checkpoint of version {shown(version)}; {_VERSION} is the last of its kind")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused("its numbers are not in little-endian order; save it again on a little-endian machine")
    value = pickles.read()
    keys = pickles.read()
    storages.fill(data, pickles.end, keys)
    pickles.tensors.check()
    return value


class _Storages:
    """Storages that are announced by the value and filled afterwards."""

    def __init__(self, file_size: int, torch: Any) -> None:
        self._left, self._torch = file_size, torch
        self._announced: dict[str, tuple[int, int, Any]] = {}

    def content(self, key: str, count: int, item_size: int) -> Any:
        if key in self._announced:
            known, known_size, content = self._announced[key]
            if known * known_size != count * item_size:
                raise Refused(f"its storage '{printable(key)}' has two sizes")
            return content
        self._left -= count * item_size
        if self._left < 0:
            raise Refused("its storages are larger than the file")
        content = self._torch.empty(count * item_size, dtype=self._torch.uint8)
        self._announced[key] = (count, item_size, content)
        return content

    def fill(self, data: bytes, pos: int, keys: object) -> None:
        """Copies the bytes from `pos` on into the storages, in the order of `keys`."""
        if type(keys) is not list or set(map(type, keys)) - {str} or sorted(keys) != sorted(self._announced):
            raise Refused("the list of its storages is not that of its tensors")
        for key in keys:
            count, item_size, content = self._announced[key]
            start = pos + _COUNT_BYTES
            if int.from_bytes(data[pos:start], "little") != count:
                raise Refused(f"its storage '{printable(key)}' has no {count} elements (byte {pos})")
            pos = start + count * item_size
            if pos > len(data):
                raise Refused(f"it is cut off in its storage '{printable(key)}' (byte {start})")
            content.numpy()[:] = memoryview(data)[start:pos]
