"""Mutations of checkpoints: their tensors, the pickle in them, the entries of their archive, their bytes."""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from collections.abc import Callable
from functools import cache, lru_cache
from random import Random
from typing import Any

from tests.faults.mutate_bytes import mutate_bytes
from tests.faults.mutate_pickles import mutate_opcodes

__all__ = ["checkpoint_mutation"]


def checkpoint_mutation(data: bytes, rng: Random) -> bytes:
    """Mutates a file of `torch.save`."""
    kind = rng.random()
    if kind < 0.25:
        return _tensors(data, rng)
    if kind < 0.8:
        return _archive(data, rng)
    return mutate_bytes(data, rng)


def _tensors(data: bytes, rng: Random) -> bytes:
    import torch

    content: dict[Any, Any] = dict(_loaded(data))
    if isinstance(content.get("state_dict"), dict):
        content["state_dict"] = dict(content["state_dict"])
    for _ in range(rng.choice((1, 1, 3))):
        state = content.get("state_dict")
        holder = state if isinstance(state, dict) and rng.random() < 0.8 else content
        key = rng.choice(list(holder) or ["x"])
        value = holder.get(key)
        change = rng.randrange(4)
        if change == 0:
            holder.pop(key, None)
        elif change == 1:
            holder[rng.choice(("module." + str(key), "", "\0", 7, None, str(key) + ".0"))] = value
        elif change == 2 or not isinstance(value, torch.Tensor):
            holder[key] = rng.choice((None, "a", 1.0, 10**4400, [], {}, [value], (value, value), {"a": value}, b"x"))
        else:
            # What an earlier change made of it may take no other: a sparse tensor, one without values.
            with contextlib.suppress(RuntimeError, TypeError, NotImplementedError):
                holder[key] = rng.choice(_TENSORS)(value)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sparse and quantized tensors
        torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.9)
    return buffer.getvalue()


@lru_cache(maxsize=2)
def _loaded(data: bytes) -> dict[str, Any]:
    import torch

    content: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
    return content


def _as(kind: str) -> Callable[[Any], Any]:
    def convert(tensor: Any) -> Any:
        import torch

        return tensor.to(getattr(torch, kind))

    return convert


def _filled(value: float) -> Callable[[Any], Any]:
    return lambda tensor: tensor.float().clone().fill_(value)


def _expanded(tensor: Any) -> Any:
    """A few bytes that call themselves 64 MB."""
    return tensor.flatten()[:1].expand(1 << 24) if tensor.numel() else tensor


_KINDS = ("float64", "float16", "bfloat16", "int8", "int64", "bool", "complex64", "uint8", "float8_e4m3fn")
_TENSORS: tuple[Callable[[Any], Any], ...] = (
    *(_as(kind) for kind in _KINDS),
    *(_filled(value) for value in (float("nan"), float("inf"), 1e38)),
    *(lambda t: t[..., :0] if t.dim() else t, lambda t: t.flatten(), lambda t: t[None], _expanded),
    *(lambda t: t.to_sparse() if t.dim() else t, lambda t: t.to("meta"), lambda t: t.T if t.dim() == 2 else t),
    *(lambda t: t.float().clone().requires_grad_(), lambda t: t.numpy(), lambda t: t.tolist()),
)


def _archive(data: bytes, rng: Random) -> bytes:
    entries = list(_entries(data))
    for _ in range(rng.choice((1, 1, 2))):
        if not entries:
            break
        index = rng.randrange(len(entries))
        pickled = next((i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl")), index)
        name, content = entries[index]
        kind = rng.randrange(10)
        if kind < 4:
            entries[pickled] = (entries[pickled][0], mutate_opcodes(entries[pickled][1], rng))
        elif kind == 4:
            entries[index] = (name, mutate_bytes(content, rng))
        elif kind == 5:
            del entries[index]
        elif kind == 6:
            entries[index] = (rng.choice(("../" + name, "/" + name, "data.pkl", name + "\ud7ff", "a/" * 300)), content)
        elif kind == 7:
            entries.append(entries[index])
        elif kind == 8:
            entries[index] = (name, content[: len(content) // 2])
        else:
            more = rng.choice(("data/999", "version", "byteorder", "code/x.py", "constants.pkl"))
            entries.append((name.split("/")[0] + "/" + more, b"x"))
    return _zipped(entries, rng)


@lru_cache(maxsize=2)
def _entries(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _zipped(entries: list[tuple[str, bytes]], rng: Random) -> bytes:
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        warnings.simplefilter("ignore")  # of names that stand twice
        for name, content in entries:
            archive.writestr(name, content)
        if rng.random() < 0.02 and entries:
            archive.writestr(entries[0][0].split("/")[0] + "/data/0", _zeros(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@cache
def _zeros() -> bytes:
    """What a small archive unpacks to a lot of."""
    return bytes(96 << 20)
