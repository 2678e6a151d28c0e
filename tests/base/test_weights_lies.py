"""Checkpoints that are broken, or lie of what they hold: each ends in a message, with bounded work."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from base.errors import CheckpointError
from base.untrusted import load_weights_file
from tests.base.weights_files import FORMATS, checkpoint, saved

ROOT = Path(__file__).resolve().parents[2]


# Pickles of tensors that torch.save never writes.
def _integer(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"


def _storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    name = b"X" + struct.pack("<I", len(key)) + key.encode()
    return (
        b"(X\x07\x00\x00\x00storagectorch\n"
        + kind.encode()
        + b"\n"
        + name
        + b"X\x03\x00\x00\x00cpu"
        + _integer(count)
        + b"tQ"
    )


def _tensor(storage: bytes, offset: int = 0, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)) -> bytes:
    name = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return (
        name
        + b"("
        + storage
        + _integer(offset)
        + _tuple(size)
        + _tuple(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


FOUR = {"0": np.arange(4, dtype=np.float32).tobytes()}
LIES = {
    "a storage of a terabyte": (_tensor(_storage(count=10**11)), FOUR, "has 16 bytes, not 100000000000 elements of 4"),
    "a storage of negative size": (_tensor(_storage(count=-4)), FOUR, "a storage of -4 elements"),
    "a storage that is not there": (_tensor(_storage(key="9")), FOUR, "its storage '9' is missing"),
    "a storage outside of the folder": (
        _tensor(_storage(key="../byteorder")),
        FOUR,
        "its storage '../byteorder' is mi",
    ),
    "a size beyond the storage": (_tensor(_storage(), size=(5,)), FOUR, "out of its storage of 4 elements"),
    "an offset beyond the storage": (_tensor(_storage(), offset=1), FOUR, "out of its storage of 4 elements"),
    "a stride beyond the storage": (_tensor(_storage(), stride=(2,)), FOUR, "out of its storage of 4 elements"),
    "a negative stride": (_tensor(_storage(), offset=3, stride=(-1,)), FOUR, "size, stride and offset"),
    "a negative size": (_tensor(_storage(), size=(-1,)), FOUR, "size, stride and offset"),
    "a size of 2^62": (_tensor(_storage(), size=(1 << 62,), stride=(0,)), FOUR, "size, stride and offset"),
    "a size of 2^61": (_tensor(_storage(), size=(1 << 61,), stride=(0,)), FOUR, "fill the memory"),
    "a size of 2^80": (_tensor(_storage(), size=(1 << 40, 1 << 40), stride=(0, 0)), FOUR, "fill the memory"),
    "a stride of 2^62": (_tensor(_storage(), size=(1,), stride=(1 << 62,)), FOUR, "size, stride and offset"),
    "one element, 2^40 times": (_tensor(_storage(), size=(1 << 20, 1 << 20), stride=(0, 0)), FOUR, "fill the memory"),
    "empty and vast": (_tensor(_storage(), size=(0, 1 << 40), stride=(1, 1)), FOUR, "an empty tensor"),
    "more strides than sizes": (_tensor(_storage(), stride=(1, 1)), FOUR, "the stride"),
    "a hundred axes": (_tensor(_storage(), size=(1,) * 100, stride=(1,) * 100), FOUR, "has the size"),
    "bytes that are no truth values": (_tensor(_storage("BoolStorage")), {"0": b"\x02" * 4}, "neither 0 nor 1"),
    "half an element": (_tensor(_storage(count=1), size=(1,)), {"0": b"abc"}, "has 3 bytes, not 1 elements of 4"),
    "a tensor of a text": (_tensor(b"X\x01\x00\x00\x00a"), FOUR, "something else than a storage"),
    "versions that are none": (
        b"ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00_metadataK\x05sb",
        FOUR,
        "that are not the _metadata of a state_dict",
    ),
    "a version that is a text": (
        b"ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00_metadata}X\x00\x00\x00\x00"
        b"}X\x07\x00\x00\x00versionX\x01\x00\x00\x00asssb",
        FOUR,
        "are not the versions of modules",
    ),
    "a size of a list": (b"ctorch\nSize\n]\x85R", FOUR, "'torch.Size' is called with a value of type list"),
}


@pytest.mark.parametrize("case", LIES)
def test_tensors_that_lie_are_refused(case: str, tmp_path: Path) -> None:
    content, storages, message = LIES[case]
    path = checkpoint(tmp_path / "m.pth", b"\x80\x02}X\x01\x00\x00\x00w" + content + b"s.", storages)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights_file(path)
    assert "m.pth' (" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (_tensor(_storage("QInt8Storage")), "torch.QInt8Storage"),
        (b"ctorch.storage\n_load_from_bytes\nC\x01a\x85R", "torch.storage._load_from_bytes"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n)R", "torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_tensors_of_other_kinds_are_skipped(tmp_path: Path, content: bytes, name: str) -> None:
    path = checkpoint(tmp_path / "m.pth", b"\x80\x02}X\x01\x00\x00\x00w" + content + b"s.", FOUR)
    assert repr(load_weights_file(path)["w"]) == f"<skipped {name}>"


def test_the_same_tensors_without_a_lie(tmp_path: Path) -> None:
    for content, expected in {
        _tensor(_storage()): [0.0, 1.0, 2.0, 3.0],
        _tensor(_storage(), offset=1, size=(3,)): [1.0, 2.0, 3.0],
        _tensor(_storage(), size=(2,), stride=(3,)): [0.0, 3.0],
        _tensor(_storage(), size=(2, 0), stride=(9, 9)): [[], []],
        _tensor(_storage(), size=(), stride=()): 0.0,
    }.items():
        path = checkpoint(tmp_path / "m.pth", b"\x80\x02}X\x01\x00\x00\x00w" + content + b"s.", FOUR)
        assert load_weights_file(path)["w"].tolist() == expected
        assert torch.load(path, weights_only=True)["w"].tolist() == expected


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    """200 kB of them unpack to 200 MB."""
    with zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"}" + b"0}" * 10_000_000 + b".")
    with pytest.raises(CheckpointError, match=r"'a/data\.pkl' is compressed, and torch\.save compresses nothing"):
        load_weights_file(tmp_path / "m.pth")


def _patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    at = data.rindex(signature) + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("signature", "offset", "value", "message"),
    [
        (b"PK\x01\x02", 42, b"\x00\x00\x00\x00", "overlaps another one|is not where its directory says"),
        (b"PK\x01\x02", 24, b"\xff\xff\xff\x7f", "is compressed"),
        (b"PK\x01\x02", 8, b"\x01\x00", "is encrypted"),
        (b"PK\x01\x02", 46, b"\xff\xff", "is no text"),
        (b"PK\x01\x02", 28, b"\xff\xff", "its zip directory is broken"),
        (b"PK\x05\x06", 16, b"\xf0\xff\xff\x7f", "its directory is said to lie at bytes 2147483632"),
        (b"PK\x05\x06", 10, b"\x09\x00", "which says 9"),
        (b"PK\x05\x06", 20, b"\x09\x00", "is not the end of the file"),
        (b"PK\x05\x06", 10, b"\xff\xff", "no end for large files"),
    ],
)
def test_directories_that_lie_are_refused(
    tmp_path: Path, signature: bytes, offset: int, value: bytes, message: str
) -> None:
    path = checkpoint(tmp_path / "m.pth", b"\x80\x02}X\x01\x00\x00\x00w" + _tensor(_storage()) + b"s.", FOUR)
    path.write_bytes(_patched(path.read_bytes(), signature, offset, value))
    with pytest.raises(CheckpointError, match=message):
        load_weights_file(path)


def test_damaged_weights_are_noticed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m.pth", b"\x80\x02}X\x01\x00\x00\x00w" + _tensor(_storage()) + b"s.", FOUR)
    path.write_bytes(path.read_bytes().replace(FOUR["0"], FOUR["0"][:-1] + b"\x41"))
    with pytest.raises(CheckpointError, match="'archive/data/0' is damaged: the checksum does not fit"):
        load_weights_file(path)


def test_checkpoints_without_checksums_load(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved({"w": torch.ones(2)}, tmp_path / "m.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_weights_file(path)["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\x1f\x8babc", "compressed by gzip"),
        (b"<!DOCTYPE html>", "a web page"),
        (pickle.dumps({"w": 1}), "it is a pickle, but not one of torch.save"),
        (b"abc", "it is no checkpoint of torch.save"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_weights_file(tmp_path / "m.pth")


def test_files_that_are_large_for_nothing(tmp_path: Path) -> None:
    path = saved({"w": torch.ones(1)}, tmp_path / "m.pth")
    for size, message in (
        (64 << 30, "it is too large: at most 17179869184 bytes"),
        (2 << 30, r"it has a hole at byte \d+"),
    ):
        os.truncate(path, size)
        with pytest.raises(CheckpointError, match=rf"\({size} bytes\) was refused: {message}"):
            load_weights_file(path)


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")  # what it is about
def test_torchscript_and_other_archives_are_named(tmp_path: Path) -> None:
    program = torch.jit.trace(nn.ReLU(), torch.ones(1))  # type: ignore[no-untyped-call]  # torch gives it no types
    torch.jit.save(program, str(tmp_path / "m.pt"))
    with pytest.raises(CheckpointError, match=r"TorchScript program|is compressed"):
        load_weights_file(tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme", "a")
    with pytest.raises(CheckpointError, match=r"no data\.pkl is in it"):
        load_weights_file(tmp_path / "a.zip")
    with pytest.raises(CheckpointError, match=r"Checkpoint .* is a folder, not a file"):
        load_weights_file(tmp_path)


def _small(**options: Any) -> bytes:
    buffer = io.BytesIO()
    state = OrderedDict(w=torch.ones(2, 3).half(), b=torch.tensor(True), n=torch.tensor(3))
    torch.save({"state_dict": state, "meta": {"epoch": 3, "lr": np.float64(0.1)}}, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", FORMATS[2:4], ids=str)
def test_cut_files_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    data, path = _small(**options), tmp_path / "m.pth"
    # Every length near either end, where headers and directory are; every third between them.
    for length in sorted({*range(0, len(data), 3), *range(150), *range(len(data) - 150, len(data))}):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=rf"\({length} bytes\) was refused"):
            load_weights_file(path)


@pytest.mark.parametrize("options", FORMATS[2:4], ids=str)
def test_mutated_files_end_in_a_value_or_a_message(tmp_path: Path, options: dict[str, Any]) -> None:
    data, path = _small(**options), tmp_path / "m.pth"
    numbers = random.Random(0)
    for _ in range(1500):
        mutated = bytearray(data)
        for _ in range(numbers.choice((1, 1, 2, 8))):
            at = numbers.randrange(len(mutated))
            match numbers.randrange(3):
                case 0:
                    mutated[at] = numbers.randrange(256)
                case 1:
                    del mutated[at : at + numbers.randrange(1, 9)]
                case _:
                    mutated[at] ^= 1 << numbers.randrange(8)
        path.write_bytes(mutated)
        try:
            repr(load_weights_file(path))
        except CheckpointError:
            continue


BOMBS: dict[str, Callable[[], bytes]] = {
    "a nested tuple as a key": lambda: b"\x80\x02}N" + b"\x85" * 400_000 + b"Ns.",
    "nested lists": lambda: b"\x80\x02}K\x01" + b"]" * 400_000 + b"a" * 399_999 + b"s.",
    "empty dictionaries": lambda: b"\x80\x02" + b"}" * 8_000_000 + b".",
    "tensors by the million": lambda: (
        b"\x80\x02}X\x01\x00\x00\x00w](" + _storage() + b"q\x000" + _tensor(b"h\x00") * 20_000 + b"es."
    ),
    "a long text in every key": lambda: (
        b"\x80\x02}(" + b"".join(b"X\x00\x04\x00\x00" + b"%1024d" % i + b"N" for i in range(2000)) + b"u."
    ),
}
_CHILD = """
import resource, sys
import torch
from base.errors import CheckpointError
from base.untrusted import load_weights_file
with open('/proc/self/statm') as memory:
    before = int(memory.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (before + (1 << 30), before + (1 << 30)))
resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
for path in sys.argv[1:]:
    try:
        load_weights_file(path)
        print('read')
    except CheckpointError as error:
        print(str(error).partition(' was refused: ')[2])
"""


def test_bombs_stay_within_a_gibibyte_and_a_few_seconds(tmp_path: Path) -> None:
    """All of them in one process of limited memory and time; a crash or a kill would lose the lines that follow."""
    paths = [str(checkpoint(tmp_path / f"{number}.pth", make(), FOUR)) for number, make in enumerate(BOMBS.values())]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, *paths],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert (child.returncode, child.stderr) == (0, "")
    lines = child.stdout.splitlines()
    assert len(lines) == len(BOMBS), child.stdout
    assert [line == "read" for line in lines] == [False, False, False, True, True]
