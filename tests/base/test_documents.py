"""JSON and YAML of anybody: equal to the standard readers on sound files, an error with a place on all others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from base.documents import MAX_DEPTH, _json_depth, parse_json, parse_yaml, read_json, read_yaml
from base.errors import ConfigError, DataError
from base.parsing import Count, Record
from base.reading import read_bounded

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Surrogates are no text; PyYAML's writer folds the other line ends.
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x85\u2028\u2029\ufeff")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=4), inner, max_size=4),
    max_leaves=20,
)


class Settings(Record):
    threads: Count


@given(PLAIN)
def test_json_round_trip(value: Any) -> None:
    assert parse_json(json.dumps(value), file="x") == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode(), file="x") == value


@given(PLAIN)
def test_json_depth_is_that_of_the_value(value: Any) -> None:
    def depth(item: Any) -> int:
        if isinstance(item, dict | list):
            return 1 + max(map(depth, item.values() if isinstance(item, dict) else item), default=0)
        return 0

    # Enough brackets in texts and beside each other that the quick way out is not taken.
    padded = ["[{" * 40 + '"\\', [[]] * 40, value]
    assert _json_depth(json.dumps(padded).encode()) == max(3, 1 + depth(value))


def test_json_depth_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps([[']]]\\"[[', [[[1]]]] * 50]).encode()
    for block in (1, 2, 3, 7):
        monkeypatch.setattr("base.documents._BLOCK", block)
        assert _json_depth(text) == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1 column 1"),
        (b'{"a": 1,\n }', "line 2 column 2"),
        (b"[" * 100_000, "nested 100000 deep; 64 is the most"),
        (b'{"a":' * 100_000, "nested 100000 deep"),
        (b"[1" + b"0" * 5000 + b"]", "limit \\(4300"),
        (b"[NaN]", "NaN is no number of JSON"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' stands twice"),
        (b'["\xff"]', "no UTF-8 text"),
        ('["ä"]'.encode("utf-16"), "no UTF-8 text"),
        (rb'["\ud800"]', "half a surrogate pair"),
        (b"[1] 2", "Extra data: line 1 column 5"),
        (b"\0" * 100, "line 1 column 1"),
    ],
)
def test_what_is_no_json_is_refused_with_a_place(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message) as caught:
        read_json(path, error=ConfigError, remedy="Write it again.")
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("Write it again.")
    assert str(caught.value).isprintable()


def test_nan_and_whole_characters_are_read_where_allowed() -> None:
    assert parse_json("[NaN, Infinity]", file="x", allow_nan=True)[1] == float("inf")
    assert parse_json(rb'["\ud83d\ude00"]', file="x") == ["😀"]
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, file="x")


def test_documents_are_typed(tmp_path: Path) -> None:
    for name, text, read in (("a.json", '{"threads": -1}', read_json), ("a.yaml", "threads: -1", read_yaml)):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(DataError, match=f"{name}': threads is -1, but must be at least 0"):
            read(path, Settings)
        path.write_text(text.replace("-1", "3"))
        assert read(path, Settings) == Settings(threads=3)


def test_only_regular_files_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"123456")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for path, message in {
        tmp_path / "absent": "does not exist",
        tmp_path / "folder": "is a folder, not a file",
        tmp_path / "pipe": "is a pipe, not a file",
        tmp_path / "link": "is a device, not a file",
        tmp_path / "loop": "cannot be read",
        tmp_path / "file" / "below": "cannot be read: Not a directory",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
        tmp_path / "a\0b": "no file can have that name",
        tmp_path / "\ud800": "no file can have that name",
        tmp_path / "file": "has 6 bytes; at most 5 are read",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            read_bounded(path, 5, "Point file", remedy="Copy it again.")
        assert str(caught.value).startswith("Point file '")
        assert str(caught.value).endswith(" Copy it again.")
        assert str(caught.value).isprintable()
    assert read_bounded(tmp_path / "file", 6) == b"123456"


def test_a_file_that_says_a_wrong_size_is_bounded() -> None:
    # Files of /proc say 0 bytes and have some.
    assert read_bounded("/proc/self/status", 1 << 20).startswith(b"Name:")
    with pytest.raises(DataError, match="more than 10 bytes"):
        read_bounded("/proc/self/status", 10)


@given(PLAIN)
def test_yaml_round_trip(value: Any) -> None:
    written = yaml.safe_dump(value, allow_unicode=True)
    if "&id" not in written:  # its writer makes anchors of empty containers that are one object
        assert parse_yaml(written, file="x") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
        ("1:30", "1:30"),
        ("010", 10),
        ("1e-3", 1e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("[yes, off, ~, 'no']", [True, False, None, "no"]),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("", None),
        ("=: 1", {"=": 1}),
        ("'1'", "1"),
        ("|\n 12\n", "12\n"),
        ("- ~\n-\n- ''", [None, None, ""]),
        ("{2: a, ~: b, x: }", {2: "a", None: "b", "x": None}),
        ("? a\n: b\n? c", {"a": "b", "c": None}),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("+1.5e+3", 1500.0),
    ],
)
def test_yaml_has_no_surprises(text: str, value: Any) -> None:
    assert parse_yaml(text, file="x") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "anchors and aliases are not read \\(line 1 column 4\\)"),
        ("b: *x", "anchors and aliases"),
        ("a: !!python/object/apply:os.system ['true']", "tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !!timestamp 2024-01-02", "tag .*timestamp"),
        ("a: 1\nb:\n  c: 1\n  c: 2", "key 'c' stands twice in one dictionary \\(line 4 column 3\\)"),
        ("? [1]\n: 2", "no key \\(line 1 column 3\\)"),
        ("a:\n\t- 1", "line 2 column 1"),
        ("a: [1, 2", "line 2 column 1"),
        ("a: 1\n---\nb: 2", "more than one document .line 2 column 1"),
        ("[" * 100_000, "more than 64 levels of nesting"),
        ("- " * 100_000 + "1", "more than 64 levels of nesting"),
        ("a: 1" + "0" * 5000, "a number of 5001 digits .line 1 column 4"),
        ("a: \x1b[31m", "not valid YAML"),
        ("a: \ud800", "not valid YAML"),
        ("@", "line 1 column 1"),
        ("- a\n" * 200_001, "more than 200000 values .line 200000 column 3"),
        ("{a: 1, a: 2}", "key 'a' stands twice"),
        ("1: a\n1.0: b", "key 1.0 stands twice"),
        ("? {a: 1}\n: 2", "a list or dictionary is no key"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_a_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, file="b.yaml", error=ConfigError)
    assert str(caught.value).startswith("'b.yaml' is not valid YAML")
    assert str(caught.value).isprintable()


@given(PLAIN)
def test_yaml_values_are_those_of_pyyaml(value: Any) -> None:
    """Where both readings of a number agree: PyYAML itself reads what its writer wrote."""
    written = yaml.safe_dump(value, allow_unicode=True, default_flow_style=True)
    if "&id" not in written:
        assert parse_yaml(written, file="x") == yaml.safe_load(written) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    assert refusal(parse_json, data).isprintable()
    assert refusal(parse_yaml, data).isprintable()


@given(st.text("{}[]:,-?!&*#|>@%'\"\\ \n\t~<=.0123e_abyn", max_size=40))
def test_any_text_of_signs_is_a_value_or_an_error(text: str) -> None:
    assert refusal(parse_json, text).isprintable()
    assert refusal(parse_yaml, text).isprintable()


def refusal(parse: Callable[..., Any], data: bytes | str) -> str:
    try:
        parse(data, file="x")
    except DataError as error:
        return str(error)
    return ""
