"""Mutations of bytes that know nothing of a format: flips, cuts, insertions, splices, repetitions."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

__all__ = ["Mutation", "either", "mutate_bytes"]

Mutation = Callable[[bytes, Random], bytes]
"""From a good file's bytes to a bad one's; the same generator state gives the same bytes."""

_WORDS = tuple(
    value.to_bytes(size, order, signed=value < 0)
    for value in (0, 1, -1, 0x7F, -0x80, 0x7FFF, 0x7FFFFFFF, -0x80000000, 0x10000)
    for size in (1, 2, 4, 8)
    for order in ("little", "big")
    if -(1 << (8 * size - 1)) <= value < 1 << (8 * size - 1)
)
_MAX_BYTES = 1 << 20


def either(*weighted: tuple[float, Mutation]) -> Mutation:
    """One of several mutations, drawn with the weights given."""

    def mutate(data: bytes, rng: Random) -> bytes:
        (chosen,) = rng.choices([mutation for _, mutation in weighted], [weight for weight, _ in weighted])
        return chosen(data, rng)

    return mutate


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """One to four mutations, one after another; the result is no longer than a mebibyte or than the data."""
    out = data
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        out = rng.choice(_KINDS)(out, rng)
    return out[: max(_MAX_BYTES, len(data))]


def _place(data: bytes, rng: Random) -> int:
    """A place in the data; headers and trailers are as likely as everything between."""
    near = min(len(data), 256)
    return rng.choice((rng.randrange(near + 1), len(data) - rng.randrange(near + 1), rng.randrange(len(data) + 1)))


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 1024, 1 << 16)))


def _flip(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 16))):
        if out:
            out[min(_place(data, rng), len(out) - 1)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _set(data: bytes, rng: Random) -> bytes:
    place, word = _place(data, rng), rng.choice(_WORDS)
    return data[:place] + word + data[place + len(word) :]


def _cut_end(data: bytes, rng: Random) -> bytes:
    return data[: _place(data, rng)]


def _cut(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _insert(data: bytes, rng: Random) -> bytes:
    place = _place(data, rng)
    return (
        data[:place]
        + rng.choice((rng.choice(_WORDS), rng.randbytes(rng.choice((1, 7, 300))), b"\0" * 64))
        + data[place:]
    )


def _splice(data: bytes, rng: Random) -> bytes:
    (start, end), place = _span(data, rng), _place(data, rng)
    return data[:place] + data[start:end] + data[place:]


def _overwrite(data: bytes, rng: Random) -> bytes:
    (start, end), place = _span(data, rng), _place(data, rng)
    return data[:place] + data[start:end] + data[place + end - start :]


def _repeat(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * min(rng.choice((1, 10, 1000)), _MAX_BYTES // max(1, end - start)) + data[end:]


def _blank(data: bytes, rng: Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.choice((b"\0", b"\xff", b" ")) * (end - start) + data[end:]


def _whole(data: bytes, rng: Random) -> bytes:
    return rng.choice(
        (b"", b"\0", data * 2, b"\xef\xbb\xbf" + data, data[::-1], b"\x80\x05.", b"PK\x05\x06" + b"\0" * 18)
    )


_KINDS: tuple[Mutation, ...] = (
    *(_flip, _flip, _set, _set, _cut_end, _cut, _insert, _splice, _overwrite, _repeat, _blank, _whole),
)
