"""Info files: what plain pickles hold is read back equal; everything else ends in a message, with bounded work."""

from __future__ import annotations

import gzip
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from base.errors import DataError
from base.untrusted import load_info_pickle

ROOT = Path(__file__).resolve().parents[2]
PROTOCOLS = range(6)
MANY = 3_000  # mutated files


def same(ours: Any, theirs: Any) -> None:
    """Equal values of equal types, arrays with their dtype, shape and memory order."""
    assert type(ours) is type(theirs)
    if isinstance(ours, np.ndarray):
        theirs = theirs.astype(theirs.dtype.newbyteorder("="))  # protocol 5 alone keeps a foreign order
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.flags.f_contiguous == theirs.flags.f_contiguous
        assert ours.flags.writeable
        if ours.dtype.hasobject:
            same(ours.ravel().tolist(), theirs.ravel().tolist())
        else:
            assert ours.tobytes() == theirs.tobytes()
    elif isinstance(ours, dict):
        same(list(ours), list(theirs))
        same(list(ours.values()), list(theirs.values()))
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(ours, np.generic):
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


def read(data: bytes, folder: Path) -> Any:
    path = folder / "infos.pkl"
    path.write_bytes(data)
    return load_info_pickle(path)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
)
KEYS = st.text() | st.integers() | st.booleans() | st.tuples(st.integers(), st.text()) | st.floats(allow_nan=False)
PLAIN_DTYPES = st.sampled_from(
    ["?", "i1", "<i2", ">i4", "i8", "u1", "u2", "u4", ">u8", "f2", "f4", ">f8", "c8", "c16", "S3", "<U2", ">U4"]
)
ARRAYS = PLAIN_DTYPES.flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
        elements=st.text("aé☃😀", max_size=2) if "U" in dtype else None,
    )
)
NUMBERS = ARRAYS.filter(lambda array: array.size > 0).map(lambda array: array.reshape(-1)[0])
VALUES = st.recursive(
    SCALARS | ARRAYS | ARRAYS.map(np.asfortranarray) | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.lists(inner, max_size=3).map(lambda values: [values, values])
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_what_pickle_reads(protocol: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("infos")

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(VALUES)
    def check(value: Any) -> None:
        data = pickle.dumps(value, protocol=protocol)
        same(read(data, folder), pickle.loads(data))

    check()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_values_stay_shared(tmp_path: Path, protocol: int) -> None:
    matrix, array = [[1.0, 2.0]], np.arange(3.0)
    value = read(pickle.dumps([matrix, array, matrix, array], protocol=protocol), tmp_path)
    assert value[0] is value[2]
    assert value[1] is value[3]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_arrays_of_plain_values(tmp_path: Path, protocol: int) -> None:
    array = np.empty((2, 2), dtype=object)
    array[:] = [["car", None], [[1.0, 2.0], {"a": np.float32(1)}]]
    for value in (array, np.asfortranarray(array), np.array([], dtype=object), np.array("one", dtype=object)):
        data = pickle.dumps({"names": value}, protocol=protocol)
        same(read(data, tmp_path), pickle.loads(data))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_as_numpy_1_spells_them(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"a": np.eye(3), "n": np.int64(7)}, protocol=protocol)
    old = data.replace(b"numpy._core.", b"numpy.core.") if protocol < 4 else _shorter_texts(data)
    assert old != data
    same(read(old, tmp_path), pickle.loads(data))


def _shorter_texts(data: bytes) -> bytes:
    """Protocol 4 has the length of a text in front of it, and that of the whole frame."""
    new, old = b"numpy.core.multiarray", b"numpy._core.multiarray"
    body = data[11:].replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
    return data[:3] + struct.pack("<Q", len(body)) + body


def test_texts_and_memo_of_python_2(tmp_path: Path) -> None:
    """Its cPickle wrote `str` as BINSTRING, and numbered what it memoised from 1."""
    data = b"\x80\x02}q\x01U\x05tokenq\x02T\x03\x00\x00\x00abcq\x03sU\x01ah\x03\x87."
    assert read(data, tmp_path) == ({"token": "abc"}, "a", "abc")


# Bytes by opcode, for files that no pickler writes.
def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _call(module: str, name: str, *arguments: bytes) -> bytes:
    return _global(module, name) + b"(" + b"".join(arguments) + b"tR"


def _dtype(code: str, state: bytes = b"") -> bytes:
    return _call("numpy", "dtype", _text(code), b"\x89\x88") + (state + b"b" if state else b"")


def _array(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    made = _call("numpy.core.multiarray", "_reconstruct", _global("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
    return made + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def _bytes(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


EIGHT = _bytes(bytes(8))
HOSTILE = {
    "a shell command": (_call("posix", "system", _text("true")), r"it asks for 'posix\.system'"),
    "a class": (b"\x80\x02cbuiltins\nobject\n)\x81.", r"it asks for 'builtins\.object'"),
    "the constructor of arrays": (_call("numpy", "ndarray", b"K\x01\x85", _dtype("O"), EIGHT), r"it calls 'numpy\.nda"),
    "an object array over bytes": (_array(b"K\x01\x85", _dtype("O"), EIGHT), "does not hold a list of as many values"),
    "an object from bytes": (_call("numpy.core.multiarray", "scalar", _dtype("O"), EIGHT), "else than a plain dtype"),
    "a void dtype": (_dtype("V8"), "dtype 'V8'"),
    "a dtype with fields": (_dtype("f8,O"), "dtype 'f8,O'"),
    "a dtype by its class": (_call("numpy", "dtype", _global("numpy", "ndarray")), "without the name of a plain dtype"),
    "fields behind a plain name": (
        _dtype("f8", b"(K\x03X\x01\x00\x00\x00<N(X\x01\x00\x00\x00at}K\x08K\x08K\x00t"),
        "has fields or metadata",
    ),
    "flags that lie": (
        _dtype("f8", b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ft"),
        r"size, alignment and flags \(-1, -1, 63\), not \(8, 8, 0\)",
    ),
    "a size that lies": (_dtype("f4", b"(K\x03X\x01\x00\x00\x00<NNNK\x40J\xff\xff\xff\xffK\x00t"), r"\(64, -1, 0\)"),
    "a shape beyond its bytes": (_array(b"M\xe8\x03\x85", _dtype("f8"), EIGHT), "has 8 bytes, not 8000"),
    "a shape of 2^62": (
        _array(b"\x8a\x08" + (1 << 62).to_bytes(8, "little") + b"\x85", _dtype("f8"), EIGHT),
        "has 8 b",
    ),
    "a negative shape": (_array(b"J\xff\xff\xff\xffK\xff\x86", _dtype("f8"), EIGHT), r"has the shape \[-1, 255\]"),
    "a shape of truth values": (_array(b"\x88\x85", _dtype("f8"), EIGHT), r"has the shape \[True\]"),
    "empty and vast": (
        _array(b"K\x00J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", _dtype("f8"), _bytes(b"")),
        "an empty array",
    ),
    "items of no size": (_array(b"J\xff\xff\xff\x7f\x85", _dtype("S0"), _bytes(b"")), "has 0 bytes, not 0"),
    "strides": (_call("numpy", "ndarray", b"K\x04\x85", _dtype("u1"), EIGHT, b"K\x00", b"M\xff\xff\x85"), "it calls"),
    "numbers that are no characters": (_array(b"K\x01\x85", _dtype("U1"), _bytes(b"\xff" * 4)), "no characters"),
    "half a character": (_array(b"K\x01\x85", _dtype("U1"), _bytes(b"\x00\xd8\x00\x00")), "no characters"),
    "bytes that are no truth values": (_array(b"K\x01\x85", _dtype("b1"), _bytes(b"\x02")), "neither 0 nor 1"),
    "another class of array": (
        _call("numpy.core.multiarray", "_reconstruct", _global("numpy", "dtype"), b"K\x00\x85", b"C\x01b"),
        "only numpy.ndarray is plain",
    ),
    "an array that contains itself": (
        _call("numpy.core.multiarray", "_reconstruct", _global("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
        + b"q\x00(K\x01K\x01\x85"
        + _dtype("O")
        + b"\x89]h\x00atb",
        "an array contains itself",
    ),
    "a codec that multiplies": (_call("_codecs", "encode", _bytes(b"AA"), _text("hex")), "with the codec 'hex'"),
    "a codec of quadratic time": (_call("_codecs", "encode", _text("é"), _text("punycode")), "the codec 'punycode'"),
    "a codec that is a module": (_call("_codecs", "encode", _text("x"), _text("os.path")), r"the codec 'os\.path'"),
    "characters beyond latin1": (_call("_codecs", "encode", _text("☃"), _text("latin1")), "a text in it is no text"),
    "bytes of any length": (_call("builtins", "bytes", b"J\xff\xff\xff\x7f"), "'builtins.bytes' is called with arg"),
    "a set of a text": (_call("builtins", "set", _text("abc")), "something else than one list"),
    "a number of a text": (_call("builtins", "complex", _text("1e9")), "something else than two floats"),
    "an ordered dictionary of a list": (_call("collections", "OrderedDict", b"]"), "is called with arguments"),
    "attributes": (
        _call("collections", "OrderedDict") + b"}X\x01\x00\x00\x00aK\x01sb",
        "sets attributes of a dictionary",
    ),
    "a call of a text": (_text("a") + b")R", "it calls a value of type str"),
    "an argument that is no tuple": (_global("numpy", "dtype") + b"]R", "in place of arguments"),
    "a stored pointer": (_text("a") + b"Q", "outside of itself"),
    "an extension's code": (b"\x82\x01", "an opcode that info files"),
    "a list that contains itself": (b"]q\x00h\x00a", "contains itself"),
    "a dictionary that contains itself": (b"}q\x00K\x01h\x00s", "contains itself"),
    "a key that is a list": (b"}]K\x01s", "value of type list is the key"),
    "a set with a dictionary": (b"\x8f(}\x90", "value of type dict is the key"),
    "a key without a value": (b"}(K\x01K\x02K\x03u", "has no value"),
    "a dtype as a value": (_dtype("f8"), r"it asks for 'numpy\.dtype\('f8'\)', which is no value"),
    "a class as a value": (_global("numpy", "ndarray"), r"'numpy\.ndarray', which is no value"),
    "an array without content": (
        _call("numpy.core.multiarray", "_reconstruct", _global("numpy", "ndarray"), b"K\x00\x85", b"C\x01b"),
        "an array contains itself",
    ),
    "a memo number of a billion": (b"Nr\xff\xff\xff\x3f", "it numbers a value 1073741823, and has 7 bytes"),
    "a value that it does not have": (b"h\x07", "value number 7, which it does not have"),
    "nothing on the stack": (b"0", "a value that it uses is missing"),
    "no mark": (b"]e", "a value that it uses is missing"),
    "a future protocol": (b"\x80\x09N", "protocol 9; 5 is the highest"),
    "an integer of 200 bytes": (b"\x8a\xc8" + bytes(200), "an integer of 200 bytes"),
    "an integer of negative size": (b"\x8b\xff\xff\xff\xff", "an integer of -1 bytes"),
    "digits without end": (b"I" + b"1" * 5000 + b"\n", "no end within 100 bytes"),
    "a number that is none": (b"Fabc\n", "a number in it is no number"),
    "a text that is none": (b"X\x01\x00\x00\x00\xff", "a text in it is no text"),
    "half a character in a text": (b"V\\ud800\n", "a text in it is no text"),
    "more after its end": (b"N.N", r"2 bytes follow after its end \(byte 2\)"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_with_what_and_where(case: str, tmp_path: Path) -> None:
    data, message = HOSTILE[case]
    with pytest.raises(DataError, match=message) as caught:
        read(data + b".", tmp_path)
    text = str(caught.value)
    assert text.startswith(f"Info file '{tmp_path / 'infos.pkl'}' ({len(data) + 1} bytes) was refused: ")
    assert text.endswith("nothing in the file was run. Write the info file again from its dataset.")


def _doubling(levels: int, make: bytes = b"]q\x00K\x01a", wrap: bytes = b"\x86q") -> bytes:
    """Each level holds the one before twice."""
    steps = b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + wrap + bytes([i + 1]) + b"0" for i in range(levels))
    return make + b"0" + steps + b"h" + bytes([levels])


def _colliding() -> bytes:
    """Integers with one hash."""
    prime = (1 << 61) - 1
    numbers = b"".join(b"\x8a\x0a" + (i * prime).to_bytes(10, "little") + b"N" for i in range(1, 200_000))
    return b"}(" + numbers + b"u"


BOMBS: dict[str, Callable[[], bytes]] = {
    "nested lists": lambda: b"]" * 400_000 + b"a" * 399_999,
    "nested tuples": lambda: b"N" + b"\x85" * 400_000,
    "a nested tuple as a key": lambda: b"}N" + b"\x85" * 400_000 + b"Ns",
    "a tuple that doubles, as a key": lambda: b"}" + _doubling(60) + b"Ns",
    "tuples that double": lambda: _doubling(60),
    "tuples that double in a set": lambda: b"\x8f(" + _doubling(60) + b"\x90",
    "a long text, often": lambda: (
        b"X" + struct.pack("<I", 400_000) + b"a" * 400_000 + b"q\x000](" + b"h\x00" * 400_000 + b"e"
    ),
    "a large array, often": lambda: (
        b"B"
        + struct.pack("<I", 1 << 20)
        + bytes(1 << 20)
        + b"q\x000"
        + _dtype("u1")
        + b"q\x010]("
        + (_call("numpy.core.numeric", "_frombuffer", b"h\x00", b"h\x01", b"J\x00\x00\x10\x00\x85", _text("C")) * 2000)
        + b"e"
    ),
    "one list, often made a set": lambda: (
        b"]q\x00("
        + b"".join(b"M" + struct.pack("<H", i) for i in range(60_000))
        + b"e0("
        + _call("builtins", "set", b"h\x00") * 20_000
        + b"t"
    ),
    "empty sets": lambda: b"\x8f" * 4_000_000,
    "empty dictionaries": lambda: b"}" * 8_000_000,
    "empty lists": lambda: b"]" * 8_000_000,
    "dictionaries of one": lambda: b"}NNs" * 2_000_000,
    "keys that collide": _colliding,
    "an object array that doubles": lambda: (
        b"]q\x000"
        + b"".join(
            _array(b"K\x02\x85", _dtype("O"), b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e")
            + b"q"
            + bytes([i + 1])
            + b"0"
            for i in range(60)
        )
        + b"h\x3c"
    ),
    "frames without end": lambda: b"\x95" + bytes(8) + b"(" * 5_000_000,
}
_CHILD = """
import resource, sys
from base.errors import DataError
from base.untrusted import load_info_pickle
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
for path in sys.argv[1:]:
    try:
        load_info_pickle(path)
    except DataError as error:
        print(str(error).partition(" was refused: ")[2])
"""


def test_bombs_stay_within_a_gibibyte_and_a_few_seconds(tmp_path: Path) -> None:
    """All of them in one process of limited memory and time; a crash or a kill would lose the lines that follow."""
    paths = []
    for number, make in enumerate(BOMBS.values()):
        path = tmp_path / f"{number:02}.pkl"
        path.write_bytes(make() + b".")
        paths.append(str(path))
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, *paths],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert len(child.stdout.splitlines()) == len(BOMBS), child.stdout


def _small_info() -> dict[str, Any]:
    """As a dataset's, with every kind of value that info files have."""
    sample = {
        "token": "a1",
        "timestamp": 1.5,
        "ego2global": np.eye(4),
        "lidar_points": {"lidar_path": "lidar/0.bin", "num_pts_feats": 5},
        "instances": [{"bbox_3d": [1.0, 2.0, 3.0], "bbox_label": 1, "bbox_3d_isvalid": True, "velocity": (0.5, -0.5)}],
        "gt_names": np.array(["car", "truck"]),
        "mixed": np.array(["car", None], dtype=object),
        "count": np.int64(3),
        "nothing": None,
        "tags": {"a", "b"},
        "raw": b"\x00\x01",
        "large": 2**70,
    }
    return {"data_list": [sample, dict(sample)], "metainfo": {"classes": ["car", "truck"], "version": OrderedDict(a=1)}}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_mutated_files_end_in_a_value_or_a_message(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(_small_info(), protocol=protocol)
    random_numbers = random.Random(protocol)
    refused = 0
    for _ in range(MANY // 4):
        mutated = bytearray(data)
        for _ in range(random_numbers.choice((1, 1, 2, 8))):
            at = random_numbers.randrange(len(mutated))
            match random_numbers.randrange(4):
                case 0:
                    mutated[at] = random_numbers.randrange(256)
                case 1:
                    del mutated[at : at + random_numbers.randrange(1, 9)]
                case 2:
                    mutated[at:at] = mutated[at // 2 : at // 2 + random_numbers.randrange(1, 30)]
                case _:
                    mutated[at] ^= 1 << random_numbers.randrange(8)
        try:
            repr(read(bytes(mutated), tmp_path))  # what is read is whole: nothing in it fails when it is looked at
        except DataError:
            refused += 1
    assert refused > MANY // 8


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cut_files_are_refused(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(_small_info(), protocol=protocol)
    for length in sorted({*range(0, len(data), 5), *range(100), *range(len(data) - 100, len(data))}):
        with pytest.raises(DataError, match=rf"\({length} bytes\) was refused"):
            read(data[:length], tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"abc"), "it is compressed by gzip; unpack it with 'gunzip'"),
        (b'{"data_list": []}', "it looks like JSON"),
        (b"PK\x03\x04abc", "it is a zip archive"),
        (b"\x93NUMPY\x01\x00", "it is an array of numpy"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(content, tmp_path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "": "is a folder",
        "pipe": "is a pipe",
        "none.pkl": "does not exist",
        "none\0.pkl": "no file can have that name",
        "a" * 300: "name too long",
    }.items():
        # A path of more than 300 characters is cut in its middle: as much of this one as every message shows.
        with pytest.raises(DataError, match=rf"Info file '{str(tmp_path)[:100]}.* {message}"):
            load_info_pickle(tmp_path / name)
    with pytest.raises(DataError, match="'/dev/zero' is a device, not a file"):
        load_info_pickle("/dev/zero")


def test_files_that_are_large_for_nothing(tmp_path: Path) -> None:
    """Holes take no room on the disk, and all of the memory."""
    for size, message in (
        (64 << 30, "it is too large: at most 4294967296 bytes"),
        (2 << 30, r"it has a hole at byte \d+"),
    ):
        with (tmp_path / "infos.pkl").open("wb") as file:
            file.write(b"\x80\x04]")
            file.truncate(size)
        with pytest.raises(DataError, match=rf"\({size} bytes\) was refused: {message}"):
            load_info_pickle(tmp_path / "infos.pkl")


def test_reading_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    import gc

    before = (gc.isenabled(), sys.getrecursionlimit(), resource.getrlimit(resource.RLIMIT_AS))
    read(pickle.dumps([1]), tmp_path)
    with pytest.raises(DataError):
        read(b"", tmp_path)
    assert (gc.isenabled(), sys.getrecursionlimit(), resource.getrlimit(resource.RLIMIT_AS)) == before
