"""Checkpoints: what torch saves is read as torch reads it; everything else ends in a message, with bounded work."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from base.errors import CheckpointError
from base.untrusted import load_weights_file

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth"
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
)  # fmt: skip
NEW_DTYPES = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)
FORMATS: list[dict[str, Any]] = [
    {},
    {"pickle_protocol": 4},
    {"pickle_protocol": 5},
    {"_use_new_zipfile_serialization": False},
    {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
]


def same(ours: Any, theirs: Any) -> None:
    """Equal values of equal types; tensors with dtype, shape, strides and place in their storage."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
        assert (ours.storage_offset(), ours.requires_grad) == (theirs.storage_offset(), theirs.requires_grad)
        assert _content(ours) == _content(theirs)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key, value in ours.items():
            same(value, theirs[key])
        if isinstance(ours, OrderedDict):
            assert vars(ours) == vars(theirs)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


def _content(tensor: torch.Tensor) -> bytes:
    """All bytes of a tensor's storage, also those outside of the tensor."""
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return whole.numpy().tobytes()


def saved(value: Any, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def checkpoint(path: Path, content: bytes, storages: dict[str, bytes] | None = None, folder: str = "archive") -> Path:
    """A checkpoint of any pickle and any storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", content)
        archive.writestr(f"{folder}/byteorder", "little")
        archive.writestr(f"{folder}/version", "3")
        for key, data in (storages or {}).items():
            archive.writestr(f"{folder}/data/{key}", data)
    return path


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_reads_what_torch_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    grid = torch.arange(12.0).reshape(3, 4)
    value = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [grid, grid.T, grid[1:], grid.view(-1)[3:], grid.expand(5, 3, 4), grid[:, ::2]],
        "dtypes": [torch.ones(3).to(dtype) for dtype in DTYPES],
        "empty": [torch.zeros(0, 3), torch.zeros(0)],
        "scalar": torch.tensor(5),
        "parameter": [nn.Parameter(grid), nn.Parameter(torch.tensor(3), requires_grad=False)],
        "meta": {"shape": grid.shape, "dtype": torch.float16, "device": torch.device("cuda", 1), "set": {1, 2}},
        "numpy": [np.float32(2), np.ones((2, 2)), np.int64(3)],
        "attributes": pickle.loads(pickle.dumps(torch.arange(2.0))),
    }
    if options.get("_use_new_zipfile_serialization", True):  # torch cannot read these from its older format
        value["new"] = [torch.ones(4).to(dtype) for dtype in NEW_DTYPES]
    path = saved(value, tmp_path / "m.pth", **options)
    same(load_weights_file(path), torch.load(path, weights_only=False))


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_tied_weights_stay_tied(tmp_path: Path, options: dict[str, Any]) -> None:
    weight = torch.zeros(4)
    loaded = load_weights_file(saved({"a": weight, "b": weight, "c": weight[1:]}, tmp_path / "m.pth", **options))
    loaded["a"] += 1
    assert loaded["b"].tolist() == [1.0] * 4
    assert loaded["c"].tolist() == [1.0] * 3


TENSORS = st.builds(
    lambda dtype, shape, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=4),
    st.integers(0, 99),
)
STATES = st.dictionaries(st.text(), TENSORS | st.integers() | st.floats(allow_nan=False) | st.text(), max_size=5)


def test_random_state_dicts(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("states")

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(STATES, st.sampled_from(FORMATS))
    def check(state: dict[str, Any], options: dict[str, Any]) -> None:
        path = saved(state, folder / "m.pth", **options)
        # torch's own restricted unpickler knows protocols 2 and 3 alone.
        same(load_weights_file(path), torch.load(path, weights_only="pickle_protocol" not in options))

    check()


def test_the_demo_checkpoint() -> None:
    same(load_weights_file(DEMO), torch.load(DEMO, weights_only=True))


def test_a_checkpoint_of_a_training_run(tmp_path: Path) -> None:
    """As mmengine's Runner saves it: weights, optimizer, schedule, curves, and functions by name."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Toy(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, inputs: torch.Tensor, mode: str = "tensor") -> Any:
            loss = self.layer(inputs).mean()
            return {"loss": loss} if mode == "loss" else [loss]

    runner = Runner(
        model=Toy(),
        work_dir=str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 1))),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
        param_scheduler={"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 2},
        default_hooks={"logger": {"type": "LoggerHook", "interval": 1}},
        experiment_name="toy",
    )
    runner.train()
    path = tmp_path / "epoch_1.pth"
    ours, theirs = load_weights_file(path), torch.load(path, weights_only=False)
    assert set(ours) == set(theirs) == {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers"}
    for part in ("meta", "state_dict", "optimizer"):
        same(ours[part], theirs[part])
    curves = ours["message_hub"]["log_scalars"]
    assert set(curves) == set(theirs["message_hub"]["log_scalars"])
    assert {repr(curve) for curve in curves.values()} == {
        "<skipped mmengine.logging.history_buffer.HistoryBuffer>",
    }


class Settings(dict[str, Any]):
    """A dictionary of a class of its own, as Lightning's hyper-parameters are."""


def test_objects_beside_the_weights_are_skipped(tmp_path: Path) -> None:
    """As Lightning's .ckpt: hyper-parameters of any class, callbacks, loops."""
    from omegaconf import OmegaConf

    value = {
        "state_dict": OrderedDict(w=torch.ones(2)),
        "hyper_parameters": Settings(lr=0.1, config=OmegaConf.create({"a": {"b": [1, 2]}})),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": Path("a")}},
        "others": [argparse.Namespace(a=1), datetime(2024, 1, 1), partial(int, base=2), defaultdict(list), nn.ReLU],
        "np": {"dtype": np.dtype("float32"), "type": np.float32},
    }
    path = saved(value, tmp_path / "last.ckpt")
    loaded = load_weights_file(path)
    same(loaded["state_dict"], value["state_dict"])
    assert repr(loaded["hyper_parameters"]) == f"<skipped {__name__}.Settings>"
    assert loaded["callbacks"]["ModelCheckpoint"]["best_model_score"] == 0.5
    assert repr(loaded["callbacks"]["ModelCheckpoint"]["dirpath"]) == "<skipped pathlib.PosixPath>"
    assert len(loaded["others"]) == 5


class Called:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Called(os.mkdir, "owned"), r"it calls '(posix|os)\.mkdir'"),
        (Called(eval, "1"), r"it calls 'builtins\.eval'"),
        (Called(subprocess.Popen, ["true"]), r"it calls 'subprocess\.Popen'"),
        (Called(getattr, Path, "cwd"), r"it asks for 'pathlib\.Path\.cwd'"),
        (Called(getattr, "a", "b"), r"calls 'builtins\.getattr' with a value of type str"),
        (Called(torch.hub.load, "a", "b"), r"it calls 'torch\.hub\.load'"),
        (Called(np.load, "a"), r"it calls 'numpy\.load'"),
        (Called(bytearray, 1 << 30), "Nothing in it was run"),
    ],
)
@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_functions_are_never_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Called, message: str, options: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved({"state_dict": {"w": torch.ones(1)}, "meta": value}, tmp_path / "m.pth", **options)
    if value.call[0] is bytearray:
        assert repr(load_weights_file(path)["meta"]) == "<skipped builtins.bytearray>"
    else:
        with pytest.raises(CheckpointError, match=message):
            load_weights_file(path)
    assert not (tmp_path / "owned").exists()


def test_whole_models_are_named(tmp_path: Path) -> None:
    path = saved(nn.Linear(1, 1), tmp_path / "m.pth")
    with pytest.raises(
        CheckpointError, match=r"an object of class 'torch\.nn\.modules\.linear\.Linear', such as a whole"
    ):
        load_weights_file(path)


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
