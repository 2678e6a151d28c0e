"""Random programs for the reader of pickles: every name with every kind of argument, in every place.

A pickle need not be what a pickler writes. These take values that nobody expects where they stand (arrays and tensors,
whose comparisons are no truth values; tuples that are endless when written out; names) and call, build and nest them.
"""

from __future__ import annotations

import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from base.errors import CheckpointError, DataError
from base.untrusted import load_info_pickle, load_weights_file

PROGRAMS = 2_000
NUMPY = ("numpy.core.multiarray", "numpy.core.numeric")
NAMES = [
    ("numpy", "ndarray"), ("numpy", "dtype"), (NUMPY[0], "_reconstruct"), (NUMPY[0], "scalar"),
    (NUMPY[1], "_frombuffer"), ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex"),
    ("builtins", "bytes"), ("_codecs", "encode"), ("collections", "OrderedDict"),
]  # fmt: skip
TORCH_NAMES = [
    *NAMES, ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor_v3"), ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"), ("torch._tensor", "_rebuild_from_type_v2"), ("torch", "device"),
    ("torch", "FloatStorage"), ("torch", "BoolStorage"), ("torch.storage", "UntypedStorage"), ("torch", "float32"),
    ("builtins", "getattr"), ("copyreg", "_reconstructor"), ("some.package", "Class"), ("some.package", "function"),
    ("pathlib", "PosixPath"), ("torch._utils", "_rebuild_qtensor"),
]  # fmt: skip


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _call(name: bytes, *arguments: bytes) -> bytes:
    return name + b"(" + b"".join(arguments) + b"tR"


DTYPE = _call(_name("numpy", "dtype"), _text("f8"), b"\x89\x88") + b"(K\x03" + _text("<") + b"NNNJ\xff\xff\xff\xff"
DTYPE += b"J\xff\xff\xff\xffK\x00tb"
ARRAY = _call(_name(NUMPY[0], "_reconstruct"), _name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
FILLED = ARRAY + b"(K\x01K\x02\x85" + DTYPE + b"\x89C\x10" + bytes(16) + b"tb"
DOUBLING = b"N\x85" + b"q\xc8h\xc8\x86" * 60
VALUES = [
    b"N", b"\x88", b"K\x00", b"K\x01", b"K\x02", b"J\xff\xff\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8a\x14" + b"\x7f" * 20, b"G?\xf0\x00\x00\x00\x00\x00\x00", b"C\x10" + bytes(16), b"C\x00", _text("f8"),
    _text("<"), _text("latin1"), _text("storage"), _text("0"), _text("cpu"), _text("C"), _text("_metadata"),
    _text("version"), _text("O"), b")", b"K\x02\x85", b"K\x02K\x01\x86", b"]", b"]K\x01a", b"}",
    b"}" + _text("version") + b"K\x01s", b"\x8f", DTYPE,
    FILLED, ARRAY, DOUBLING, b"N" + b"\x85" * 300, b"]" * 90 + b"a" * 89, _call(_name("collections", "OrderedDict")),
    _call(_name("numpy", "dtype"), _text("O"), b"\x89\x88"), b"]" + FILLED + b"a",
]  # fmt: skip
TENSOR = _call(
    _name("torch._utils", "_rebuild_tensor_v2"),
    b"(" + _text("storage") + _name("torch", "FloatStorage") + _text("0") + _text("cpu") + b"K\x04tQ",
    b"K\x00", b"K\x04\x85", b"K\x01\x85", b"\x89", _call(_name("collections", "OrderedDict")),
)  # fmt: skip
TORCH_VALUES = [
    *VALUES,
    TENSOR,
    TENSOR,
    b"(" + _text("storage") + _name("torch", "FloatStorage") + _text("0") + _text("cpu") + b"K\x04tQ",
]


STORAGE = (_text("storage"), _name("torch", "FloatStorage"), _text("0"), _text("cpu"), b"K\x04")
# Calls as picklers write them, and what is built after them: one of the arguments is then another value.
CALLS = [
    (
        _name("numpy", "dtype"),
        [_text("f8"), b"\x89", b"\x88"],
        [b"K\x03", _text("<"), b"N", b"N", b"N", *[b"J\xff\xff\xff\xff"] * 2, b"K\x00"],
    ),
    (
        _name(NUMPY[0], "_reconstruct"),
        [_name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b"],
        [b"K\x01", b"K\x02\x85", DTYPE, b"\x89", b"C\x10" + bytes(16)],
    ),
    (_name(NUMPY[1], "_frombuffer"), [b"C\x10" + bytes(16), DTYPE, b"K\x02\x85", _text("C")], []),
    (_name(NUMPY[0], "scalar"), [DTYPE, b"C\x08" + bytes(8)], []),
    (_name("_codecs", "encode"), [_text("a"), _text("latin1")], []),
    (_name("builtins", "set"), [b"]K\x01a"], []),
    (_name("builtins", "complex"), [b"G?\xf0\x00\x00\x00\x00\x00\x00"] * 2, []),
]
TORCH_CALLS = [
    *CALLS,
    (
        _name("torch._utils", "_rebuild_tensor_v2"),
        [b"(" + b"".join(STORAGE) + b"tQ", b"K\x00", b"K\x02K\x02\x86", b"K\x02K\x01\x86", b"\x89", b"N"],
        [],
    ),
    (
        _name("torch._utils", "_rebuild_tensor_v3"),
        [
            b"(" + b"".join(STORAGE) + b"tQ",
            b"K\x00",
            b"K\x02\x85",
            b"K\x01\x85",
            b"\x89",
            b"N",
            _name("torch", "int8"),
            b"}",
        ],
        [],
    ),
    (_name("torch._utils", "_rebuild_parameter"), [TENSOR, b"\x88", b"N"], []),
    (_name("torch", "Size"), [b"K\x02K\x02\x86"], []),
    (_name("torch", "device"), [_text("cuda"), b"K\x01"], []),
    (_name("builtins", "getattr"), [_name("some.package", "Class"), _text("method")], []),
    (_name("collections", "OrderedDict"), [], [b"}" + _text("_metadata") + b"}s"]),
]


def _replaced(numbers: random.Random, arguments: list[bytes], pushes: list[bytes]) -> bytes:
    given = list(arguments)
    for _ in range(numbers.choice((0, 1, 1, 2))):
        if given:
            given[numbers.randrange(len(given))] = numbers.choice(pushes)
    return b"(" + b"".join(given) + b"t"


def _program(
    numbers: random.Random,
    names: list[tuple[str, str]],
    values: list[bytes],
    calls: list[tuple[bytes, list[bytes], list[bytes]]],
) -> bytes:
    """Values in a memo, and opcodes on them; the last one is the value of a dictionary."""
    memo = [numbers.choice(values) for _ in range(10)] + [_name(*numbers.choice(names)) for _ in range(4)]
    out = [b"\x80\x04"]
    for index, value in enumerate(memo):
        out.append(value + b"q" + bytes([index]) + b"0")
    pushes = [b"h" + bytes([index]) for index in range(len(memo))]
    out += [b"}", _text("w")]
    for _ in range(numbers.randrange(1, 6)):
        name, given, state = numbers.choice(calls)
        arguments = b"".join(numbers.choice(pushes) for _ in range(numbers.randrange(8)))
        call = name + _replaced(numbers, given, pushes) + b"R"
        built = call + _replaced(numbers, state, pushes) + b"b" if state and len(state) > 1 else call
        if len(state) == 1:
            built = call + (state[0] if numbers.random() < 0.3 else numbers.choice(pushes)) + b"b"
        steps = [
            numbers.choice(pushes) + b"(" + arguments + b"tb",
            numbers.choice(pushes) + b"(" + arguments + b"tR",
            numbers.choice(pushes) + b"(" + arguments + b"t\x81",
            numbers.choice(pushes) + b")" + numbers.choice(pushes) + b"\x92",
            numbers.choice(pushes) + numbers.choice(pushes) + b"b",
            b"](" + arguments + b"e",
            b"\x8f(" + arguments + b"\x90",
            b"(" + arguments + b"\x91",
            b"}(" + arguments + b"u",
            b"(" + arguments + b"d",
            _replaced(numbers, list(STORAGE), pushes) + b"Q",
            numbers.choice(pushes) + numbers.choice(pushes) + b"\x93",
            numbers.choice(pushes) + b"2\x86",
        ]
        out.append(built if numbers.random() < 0.7 else numbers.choice(steps))
        out.append(numbers.choice([b"", b"", b"\x85", b"h\x00\x86"]))
        out.append(b"q\x10")
        pushes.append(b"h\x10")
        out.append(b"0")
    return b"".join(out) + numbers.choice((pushes[-1], numbers.choice(pushes))) + b"s."


@pytest.mark.parametrize("seed", range(4))
def test_programs_for_info_files(tmp_path: Path, seed: int) -> None:
    numbers = random.Random(seed)
    path = tmp_path / "infos.pkl"
    outcomes = set()
    for _ in range(PROGRAMS // 4):
        path.write_bytes(_program(numbers, NAMES, VALUES, CALLS))
        try:
            repr(load_info_pickle(path))
            outcomes.add("read")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("seed", range(4))
def test_programs_for_checkpoints(tmp_path: Path, seed: int) -> None:
    numbers = random.Random(seed)
    path = tmp_path / "m.pth"
    outcomes = set()
    for _ in range(PROGRAMS // 4):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", _program(numbers, TORCH_NAMES, TORCH_VALUES, TORCH_CALLS))
            archive.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())
        try:
            repr(load_weights_file(path))
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
