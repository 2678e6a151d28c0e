"""LZF, the compression of `binary_compressed` PCD files."""

from __future__ import annotations

__all__ = ["decompress"]

# A repetition of 264 bytes takes three.
_MOST_PER_BYTE = 88


def decompress(data: bytes, size: int) -> bytes | None:
    """What `data` was made of, if that is exactly `size` bytes; None where it is not, or `data` is corrupt.

    A control byte below 32 begins a run of literals; any other repeats earlier output, which may overlap with itself.
    No more than `size` bytes and one run are ever made, and none for a `size` that no writer packs into as few or as
    many.
    """
    # No writer makes more than a control byte for 32 literals.
    if not len(data) - size // 32 - 1 <= size <= _MOST_PER_BYTE * len(data):
        return None
    out = bytearray()
    position, end = 0, len(data)
    while position < end:
        control = data[position]
        position += 1
        if control < 32:
            if position + control + 1 > end:
                return None
            out += data[position : position + control + 1]
            position += control + 1
        else:
            length = control >> 5
            if position + (length == 7) >= end:
                return None
            if length == 7:
                length += data[position]
                position += 1
            distance = ((control & 31) << 8) + data[position] + 1
            position += 1
            length += 2
            start = len(out) - distance
            if start < 0:
                return None
            if distance >= length:
                out += out[start : start + length]
            else:
                out += (bytes(out[start:]) * (length // distance + 1))[:length]
        if len(out) > size:
            return None
    return bytes(out) if len(out) == size else None
