"""Mutations of ONNX files: any field of any message of the protocol buffer, and bytes."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from tests.faults.mutate_bytes import Mutation, either, mutate_bytes

__all__ = ["onnx_mutation"]

_INTEGERS = (0, 1, -1, 2, 7, 10, 16, 255, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-45)
_TEXTS = (
    *(
        "",
        "\0",
        "x",
        "Conv",
        "If",
        "Loop",
        "Scan",
        "MatMul",
        "QuantizeLinear",
        "Constant",
        "NoSuchOp",
        "ai.onnx.ml",
        "é" * 50,
    ),
    *(
        "../../../../etc/passwd",
        "/dev/zero",
        "input_features",
        "spatial_features",
        "a" * 70_000,
        "{",
        '{"name": 1}',
        "nan",
        "-1",
    ),
)


def _messages(message: Any, found: list[Any]) -> list[Any]:
    found.append(message)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for child in value if _repeated(field) else (value,):
                _messages(child, found)
    return found


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _scalar(field: Any, rng: Random, old: Any) -> Any:
    """A value of the field's type, such as a file can hold."""
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if field.type == field.TYPE_STRING:
        return rng.choice((*_TEXTS, f"{old}_", str(old)[:-1]))
    if field.type == field.TYPE_BYTES:
        data = bytes(old or b"")
        return rng.choice(
            (
                b"",
                b"\xff",
                data[:-1],
                data * 2,
                data[::-1],
                b"\0" * len(data),
                b"x" * 70_000,
                b"CENTER",
                b"\xed\xa0\x80",
            )
        )
    if field.type == field.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if field.type in (field.TYPE_INT32, field.TYPE_UINT32):
        return rng.choice(
            [
                value
                for value in _INTEGERS
                if -(2**31) <= value < 2**31 and (value >= 0 or field.type == field.TYPE_INT32)
            ]
        )
    return rng.choice([value for value in _INTEGERS if value >= 0 or field.type != field.TYPE_UINT64])


def _by_fields(data: bytes, rng: Random) -> bytes:
    import onnx

    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        message = _any_message(model, rng)
        fields = [field for field, _ in message.ListFields()] if rng.random() < 0.8 else list(message.DESCRIPTOR.fields)
        if not fields:
            continue
        field = rng.choice(fields)
        if _repeated(field):
            _change_repeated(getattr(message, field.name), field, rng)
        elif rng.random() < 0.2:
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            child = getattr(message, field.name)
            others = [other for other in _messages(model, []) if other.DESCRIPTOR is child.DESCRIPTOR]
            if others:
                child.MergeFrom(rng.choice(others).__deepcopy__())
        else:
            setattr(message, field.name, _scalar(field, rng, getattr(message, field.name)))
    return bytes(model.SerializeToString())


def _any_message(model: Any, rng: Random) -> Any:
    """One of the model's messages; kinds of which there are many count like kinds of which there are few."""
    kinds: dict[str, list[Any]] = {}
    for message in _messages(model, []):
        kinds.setdefault(message.DESCRIPTOR.name, []).append(message)
    return rng.choice(kinds[rng.choice(list(kinds))])


def _change_repeated(values: Any, field: Any, rng: Random) -> None:
    kind = rng.randrange(4)
    index = rng.randrange(len(values)) if len(values) else 0
    if kind == 0 and len(values):
        del values[index]
    elif kind == 1 and len(values):
        values.extend([values[index]] * rng.choice((1, 1, 40)))
    elif kind == 2 and len(values) > 1:
        items = list(values)
        items = [item.__deepcopy__() for item in items] if field.type == field.TYPE_MESSAGE else items
        rng.shuffle(items)
        del values[:]
        values.extend(items)
    elif field.type == field.TYPE_MESSAGE:
        values.add()
    elif len(values) and kind < 3:
        values[index] = _scalar(field, rng, values[index])
    else:
        values.append(_scalar(field, rng, ""))


def _by_text(data: bytes, rng: Random) -> bytes:
    """A name becomes bytes that are no text, of the same length."""
    names = list(re.finditer(rb"[A-Za-z_/.]{4,40}", data[: 1 << 17]))
    if not names:
        return mutate_bytes(data, rng)
    found = rng.choice(names)
    return data[: found.start()] + rng.choice((b"\xff", b"\0", b"\xed")) * len(found[0]) + data[found.end() :]


onnx_mutation: Mutation = either((6, _by_fields), (1, _by_text), (3, mutate_bytes))
"""By fields, by names that are no text, by bytes."""
