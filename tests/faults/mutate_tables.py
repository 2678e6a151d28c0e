"""Mutations of what has a header and records: PCD files, float32 records, CSV, JSON Lines and gzip around them."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from functools import cache
from random import Random

from tests.faults.hostile_values import hostile_value
from tests.faults.mutate_bytes import Mutation, either, mutate_bytes
from tests.faults.mutate_documents import mutate_tree, to_json

__all__ = ["csv_mutation", "gzip_mutation", "lines_mutation", "pcd_mutation", "records_mutation", "words_mutation"]

_WORDS = (
    *(
        b"0",
        b"-1",
        b"1",
        b"2",
        b"3",
        b"4",
        b"8",
        b"16",
        b"1000000000",
        b"4294967296",
        b"99999999999999999999",
        b"1e9",
        b"nan",
    ),
    *(
        b"",
        b"x",
        b"F",
        b"I",
        b"U",
        b"D",
        b"\xff",
        b"\0",
        b"ascii",
        b"binary",
        b"binary_compressed",
        b"_",
        b"intensity",
        b"9" * 5000,
    ),
    *(b"x y z", b"rgb", b"0x4", b"+4", b"4.0", b"\xd9\xa3", b"1_0"),
)
_FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, 1e38, -1e38, 1e-45, 1e9)


def pcd_mutation(data: bytes, rng: Random) -> bytes:
    """Words and lines of the header, numbers of the body, bytes of the whole."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    end = data.index(b"\n", data.index(b"\nDATA") + 1) + 1
    lines, body = data[:end].splitlines(), data[end:]
    for _ in range(rng.choice((1, 1, 2))):
        index = rng.randrange(len(lines)) if lines else 0
        if not lines:
            break
        kind = rng.randrange(6)
        if kind < 3:
            words = lines[index].split(b" ")
            words[rng.randrange(len(words))] = rng.choice(_WORDS)
            lines[index] = b" ".join(words)
        elif kind == 3:
            del lines[index]
        elif kind == 4:
            lines[index:index] = [lines[index]] * rng.choice((1, 100))
        else:
            body = mutate_bytes(body, rng)
    return b"\n".join(lines) + rng.choice((b"\n", b"\n", b"\r\n", b"")) + body


def _records(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 5, 500))):
        struct.pack_into("<f", out, 4 * rng.randrange(len(data) // 4), rng.choice(_FLOATS))
    return bytes(out)


records_mutation: Mutation = either((1, _records), (2, mutate_bytes))
"""Float32 records: numbers no sensor makes, and bytes."""


def lines_mutation(data: bytes, rng: Random) -> bytes:
    """JSON Lines: a line by its values, lines as a whole, bytes."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    lines = data.splitlines()
    index = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind < 5:
        lines[index] = to_json(mutate_tree(json.loads(lines[index]), rng)).encode()
    elif kind == 5:
        del lines[index]
    elif kind == 6:
        lines[index:index] = [lines[index]] * rng.choice((1, 1, 20))
    else:
        lines[index] = to_json(hostile_value(rng)).encode()
    return rng.choice((b"\n", b"\n", b"\r\n", b" ")).join(lines) + rng.choice((b"\n", b"", b"\n\n"))


def gzip_mutation(inner: Mutation) -> Mutation:
    """A gzip stream of a mutated content, or a mutated stream."""

    def mutate(data: bytes, rng: Random) -> bytes:
        kind = rng.random()
        if kind < 0.5:
            return gzip.compress(inner(gzip.decompress(data), rng), 1, mtime=0)
        if kind < 0.9:
            return mutate_bytes(data, rng)
        return rng.choice(
            (
                *(
                    data + data,
                    data + b"\0" * 100,
                    data + b"trailing",
                    data[:-8] + b"\0" * 8,
                    data[:10],
                    gzip.decompress(data),
                ),
                *(
                    data[:10] + zlib.compress(b"x"),
                    gzip.compress(b""),
                    *_bombs(),
                ),
            )
        )

    return mutate


@cache
def _bombs() -> tuple[bytes, ...]:
    return gzip.compress(b"[" * 3_000_000), gzip.compress(b" " * 9_000_000)


def csv_mutation(data: bytes, rng: Random) -> bytes:
    """Cells, rows, the header, bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    rows = [line.split(b",") for line in data.splitlines()]
    index = rng.randrange(len(rows))
    kind = rng.randrange(5)
    if kind < 3:
        value = to_json(hostile_value(rng)).encode()
        rows[index][rng.randrange(len(rows[index]))] = rng.choice(
            (value, b'"', b'"unended', b"nan", b"", b"\0", b"a\rb", b'""')
        )
    elif kind == 3:
        rows[index : index + 1] = [rows[index]] * rng.choice((0, 2, 100))
    else:
        rows[index] = rows[index] * rng.choice((0, 2, 2000))
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


def words_mutation(data: bytes, rng: Random) -> bytes:
    """Words and lines of a text file in columns, bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    lines = data.splitlines()
    index = rng.randrange(len(lines))
    kind = rng.randrange(5)
    words = lines[index].split()
    if kind < 3 and words:
        words[rng.randrange(len(words))] = rng.choice((*_WORDS, to_json(hostile_value(rng)).encode()))
        lines[index] = b" ".join(words)
    elif kind == 3:
        lines[index : index + 1] = [lines[index]] * rng.choice((0, 2, 100))
    else:
        lines[index] = b" ".join(words * rng.choice((0, 2, 2000)))
    return b"\n".join(lines) + b"\n"
