"""How many fields a protobuf message has, counted before protobuf makes an object of each: a bomb is seen by its bytes.

An empty node takes two bytes in the file and some two hundred in memory, so that 4 MB of them would take 1 GB.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MAX_FIELDS", "check_wire"]

MAX_FIELDS = 200_000
"""Most fields of a file; an INT8 CenterPoint has 10,000."""
_MAX_DEPTH = 32

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_wire(data: bytes, descriptor: Any) -> None:
    """Walks the fields of a message and of the messages in it, without reading their values.

    Args:
        data: A serialized message.
        descriptor: protobuf's descriptor of its type; unknown fields are passed over.

    Raises:
        ValueError: a field is cut off or of no known kind, or there are more than `MAX_FIELDS`, or they are nested
            deeper than any file of ONNX.
    """
    inner = {id(descriptor): _message_fields(descriptor)}
    waiting = [(0, len(data), descriptor, 0)]
    count = 0
    while waiting:
        at, end, kind, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"messages are nested deeper than {_MAX_DEPTH}")
        if id(kind) not in inner:
            inner[id(kind)] = _message_fields(kind)
        messages = inner[id(kind)]
        while at < end:
            count += 1
            if count > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            tag, at = _varint(data, at, end)
            wire = tag & 7
            if wire == _VARINT:
                _, at = _varint(data, at, end)
            elif wire == _BYTES:
                size, at = _varint(data, at, end)
                if (tag >> 3) in messages and size:
                    waiting.append((at, min(at + size, end), messages[tag >> 3], depth + 1))
                at += size
            elif wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"a field of unknown kind {wire} at byte {at}")
        if at > end:
            raise ValueError(f"a field reaches {at - end} bytes beyond its message, which ends at byte {end}")


def _message_fields(descriptor: Any) -> dict[int, Any]:
    """Number of a field -> the type of the message in it."""
    return {field.number: field.message_type for field in descriptor.fields if field.message_type is not None}


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of variable length and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number is cut off at byte {at}")
