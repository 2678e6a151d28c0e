"""The piecewise JSON reader held against `json.loads`, with blocks so small that everything is cut somewhere."""

from __future__ import annotations

import collections
import gzip
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eval.score_stream
from base.errors import DataError
from eval.score_stream import JsonDocument, JsonLines

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval.score_stream, "_BLOCK", 3)


def read(path: Path) -> list[tuple[str, Any]]:
    return list(JsonDocument(path).members("frames"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(max_size=4).filter(lambda key: key != "frames"), VALUES, max_size=3),
    st.lists(VALUES, max_size=4),
    st.sampled_from([None, 1]),
)
def test_equals_json_loads(tmp_path: Path, others: dict[str, Any], frames: list[Any], indent: int | None) -> None:
    path = tmp_path / "document.json"
    path.write_text(json.dumps({**others, "frames": frames}, indent=indent), encoding="utf-8")
    assert read(path) == [*others.items(), *(("frames", frame) for frame in frames)]


def test_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    text = json.dumps({"a": [1, True], "frames": [{"x": -1.5e3, "y": None}, "t"], "b": {"c": 12}}, indent=1)
    for end in range(1, len(text)):
        path.write_text(text[:end])
        with pytest.raises(DataError, match=r"line \d+ column \d+ is not valid JSON: .*the file is truncated"):
            read(path)
    path.write_text(text)
    assert len(read(path)) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"frames": [{"gt": [}]}', r"line 1 column 21 is not valid JSON: frames\[0\]: Expecting value"),
        ('{\n"a": 1,\n  "frames": [1 2]}', r"line 3 column 16 .*: '2' stands where '\]' must come: after frames\[0\]"),
        ('{"frames": 5}', "'5' stands where '\\[' must come: 'frames' must be a list"),
        ('{"a" 1}', "'1' stands where ':' must come: after the key 'a'"),
        ('{"frames": []} x', "'x' follows the end of the object"),
        ("[]", "'\\[' stands where '{' must come: the file must hold one JSON object"),
        ("", "is empty"),
        ("{" + '"a": ' + "[" * 100_000, "nested too deeply|the file is truncated"),
    ],
)
def test_what_is_no_json(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "document.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read(path)


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    path.write_bytes(b'{"frames": ["\xff"]}')
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read(path)
    lines = tmp_path / "document.jsonl"
    lines.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DataError, match="is not UTF-8 text"):
        list(JsonLines(lines).values())
    packed = tmp_path / "document.json.gz"
    packed.write_bytes(b"not gzip at all")
    with pytest.raises(DataError, match="compressed with gzip, or was cut off"):
        read(packed)


def test_a_value_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval.score_stream, "_MAX_VALUE", 100)
    path = tmp_path / "document.json"
    path.write_text('{"frames": ["' + "x" * 1000)
    with pytest.raises(DataError, match=r"frames\[0\] is longer than .* MB; is a bracket missing"):
        read(path)
    lines = tmp_path / "document.jsonl"
    lines.write_text("1\n" + "2" * 1000)
    with pytest.raises(DataError, match=r"line 2 is longer than .* MB; JSON Lines hold one frame a line"):
        list(JsonLines(lines).values())


def test_items_come_before_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    path.write_text('{"frames": [{"n": 0}, {"n": 1}, oops')
    items: Iterator[tuple[str, Any]] = JsonDocument(path).members("frames")
    assert [next(items), next(items)] == [("frames", {"n": 0}), ("frames", {"n": 1})]
    with pytest.raises(DataError, match=r"frames\[2\]"):
        next(items)


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    path.write_text('{"a": 1}\n\n[2]\n3')
    assert list(JsonLines(path).values()) == [(1, {"a": 1}), (3, [2]), (4, 3)]
    path.write_text('{"a": 1}\n{"b": \n')
    with pytest.raises(DataError, match="line 2 is not valid JSON: Expecting value at column") as error:
        list(JsonLines(path).values())
    assert "truncated" not in str(error.value)
    path.write_text('{"a": 1}\n{"b": "c')
    with pytest.raises(DataError, match=r"line 2 .*the file is truncated: write or copy it again"):
        list(JsonLines(path).values())


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf[1]\n")
    assert list(JsonLines(tmp_path / "a.jsonl").values()) == [(1, [1])]
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"frames": [2]}')
    assert read(tmp_path / "a.json") == [("frames", 2)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{" + b'"a": ' + b"9" * 5000 + b"}", "an integer has more than 4,300 digits"),
        (b'{"a": ["\\ud800"]}', "half a surrogate pair"),
        (b'{"a\\uDfff": 1}', "half a surrogate pair"),
        (b"[" * 100_000, "nested too deeply|stands where '{' must come"),
        (b"{5: 1}", "5 stands where a key in quotes must come|Expecting property name enclosed in double quotes"),
    ],
)
def test_what_python_cannot_hold(tmp_path: Path, content: bytes, words: str) -> None:
    for name, reader in (("a.json", read), ("a.jsonl", lambda path: list(JsonLines(path).values()))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            reader(tmp_path / name)


def test_a_damaged_gzip_file_at_every_byte(tmp_path: Path) -> None:
    """Whatever gzip, zlib or the checksum says about it."""
    whole = gzip.compress(b'{"frames": [1, 2, 3]}\n')
    path = tmp_path / "a.json.gz"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut off|is empty"):
            read(path)
    path.write_bytes(whole)
    assert [value for _, value in read(path)] == [1, 2, 3]
    refused = 0
    for index in range(len(whole)):
        path.write_bytes(bytes((*whole[:index], whole[index] ^ 0x55, *whole[index + 1 :])))
        try:
            read(path)
        except DataError:
            refused += 1
    assert refused > len(whole) - 10, "the name, the time and the system in the header may be anything"


def test_gzip_files_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl.gz"
    text = "".join(f"[{index}]\n" for index in range(50_000)).encode()
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    for content in (b"".join(map(gzip.compress, pieces)) + b"\0" * 20_000, gzip.compress(text), gzip.compress(text, 0)):
        path.write_bytes(content)
        assert gzip.decompress(content) == text
        assert [value for _, value in JsonLines(path).values()] == [[index] for index in range(50_000)]
    monkeypatch.setattr(eval.score_stream, "_MAX_MEMBERS", 20)
    path.write_bytes(gzip.compress(b"") * 21)
    with pytest.raises(DataError, match="is made of over 20 gzip files"):
        list(JsonLines(path).values())
    path.write_bytes(gzip.compress(b"1\n") + b"rest")
    with pytest.raises(DataError, match="compressed with gzip, or was cut off"):
        list(JsonLines(path).values())


@pytest.mark.parametrize("content", [b" ", b"\n", b'{"token": 0}\n'])
def test_a_gzip_file_out_of_proportion_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(eval.score_stream, "_BLOCK", 1 << 20)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(content * (100_000_000 // len(content))))
    assert path.stat().st_size < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"unpacks to more than 100 times its size|lines are empty"):
        collections.deque(JsonLines(path).values(), maxlen=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB"


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, words in ((tmp_path / "pipe.jsonl", "is a pipe"), (Path("/dev/zero"), "is a device")):
        with pytest.raises(DataError, match=words):
            next(JsonLines(path).values())
