"""What one file may make its reader do, in numbers, most of them relative to the file's size.

A pickle is a program: a kilobyte of it can ask for gigabytes, or for hours. Each limit bounds one way to do that, with
room for what real info files and checkpoints need; `docs/security.md` says how they were chosen.
"""

from __future__ import annotations

from base.untrusted.refusal import Refused

__all__ = [
    "MAX_CHECKPOINT_BYTES",
    "MAX_DEPTH",
    "MAX_DIMENSIONS",
    "MAX_INFO_BYTES",
    "MAX_INTEGER_BYTES",
    "MAX_NAME_BYTES",
    "MAX_NUMBER_TEXT",
    "MAX_RECORDS",
    "MAX_TUPLE_KEY",
    "MAX_UNUSUAL_KEYS",
    "Memory",
    "container_memory",
    "expanded_size",
]

# Of a file. Both are read into the memory; a file with holes is large for nothing.
MAX_INFO_BYTES, MAX_CHECKPOINT_BYTES = 4 << 30, 16 << 30
# Records of a zip archive; a checkpoint has one for each storage.
MAX_RECORDS = 1 << 16
# Containers inside containers. json, copy.deepcopy and repr recurse when they meet the value; real files stay below 20.
MAX_DEPTH = 100
# Of one integer; UUIDs and states of random generators have 16. Any such integer still fits a float.
MAX_INTEGER_BYTES = 32
# Of one number that is written as text (protocol 0).
MAX_NUMBER_TEXT = 100
# Of one name or module, as text.
MAX_NAME_BYTES = 500
# Axes of one array or tensor: numpy 1 has 32 at most.
MAX_DIMENSIONS = 32
# Values in a tuple that is a dictionary's key, those of tuples in it included: a tuple's hash visits all of them.
MAX_TUPLE_KEY = 64
# Entries of a dictionary or set some of whose keys are neither texts nor small integers. Hashes of the others can be
# chosen so that all collide, which costs time by the square of their number.
MAX_UNUSUAL_KEYS = 1024

_MIB = 1 << 20


def container_memory(file_size: int) -> int:
    """Bytes that the dictionaries, lists, tuples and sets of one file may take: one byte of it can ask for 240."""
    return 96 * _MIB + 16 * file_size


def expanded_size(file_size: int) -> int:
    """Bytes of one file's value if nothing in it were shared: 8 an element, and its texts and arrays.

    Whoever walks through the value meets what is shared as often as it is referred to. Thirty lists that hold the one
    before twice are 200 bytes in a file and 10^9 elements on such a walk.
    """
    return 16 * _MIB + 32 * file_size


class Memory:
    """Counts what the names that a file uses allocate: arrays, decoded bytes, copies of lists."""

    def __init__(self, file_size: int) -> None:
        self._left = 64 * _MIB + 4 * file_size

    def take(self, size: int) -> None:
        """Books `size` bytes.

        Raises:
            Refused: they are more than a file of this size has a use for.
        """
        self._left -= size
        if self._left < 0:
            raise Refused("its arrays and texts would take far more memory than the file has bytes")
