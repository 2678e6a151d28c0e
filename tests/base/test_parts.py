"""Parts of a whole: which files merge, and what is said of those that do not."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.errors import DataError
from base.parsing import Count, Items, Record
from base.parts import read_parts, write_part
from base.shares import SHARE, WHOLE, Share

KIND = "sum"
WORK = {"model": "a", "frames": 7}


class Content(Record):
    """Numbers of the work."""

    numbers: Items[Count]


def written(folder: Path, of: int = 3, work: dict[str, Any] | None = None, total: int = 7) -> list[Path]:
    paths = []
    for number in range(1, of + 1):
        share = Share(number, of)
        paths.append(folder / f"{number}-of-{of}.json")
        write_part(paths[-1], KIND, share, work or WORK, {"numbers": list(share.indices(total))})
    return paths


@given(total=st.integers(0, 60), of=st.integers(1, 12))
def test_shares_are_everything_once(total: int, of: int) -> None:
    shares = [list(Share(number, of).indices(total)) for number in range(1, of + 1)]
    assert sorted(index for share in shares for index in share) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_on_the_command_line() -> None:
    assert SHARE("2/4") == Share(2, 4)
    assert str(SHARE("2/4")) == "2/4"
    assert SHARE("1/1") == WHOLE
    for text in ("0/4", "5/4", "2", "/", "2/", "-1/4", "1/2000", "2/4 ", "2/4/1", "٢/٤", "1e0/4"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no part of a whole: give K/N"):
            SHARE(text)
    with pytest.raises(ValueError, match="no share 3 of 2"):
        Share(3, 2)


def test_parts_come_by_number_whatever_their_order(tmp_path: Path) -> None:
    first, second, third = written(tmp_path)
    parts = read_parts([third, first, second], KIND, Content, WORK)
    assert [part.share.number for part in parts] == [1, 2, 3]
    assert [part.content.numbers for part in parts] == [(0, 3, 6), (1, 4), (2, 5)]
    assert dict(parts[0].work) == WORK
    assert [part.file for part in read_parts([third, second, first], KIND, Content)] == [first, second, third]


def test_equal_parts_are_equal_bytes(tmp_path: Path) -> None:
    write_part(tmp_path / "a.json", KIND, WHOLE, {"b": 1, "a": [2.5, "ü"]}, {"numbers": [1]})
    write_part(tmp_path / "b.json", KIND, WHOLE, {"a": [2.5, "ü"], "b": 1}, {"numbers": [1]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (lambda paths: [], "There are no parts of a sum to merge"),
        (lambda paths: paths[:2], "Of the 3 parts of a sum, 3/3 is missing."),
        (lambda paths: paths[1:2], "Of the 3 parts of a sum, 1/3, 3/3 are missing."),
        (lambda paths: [*paths, paths[1]], "are both part 2/3 of a sum. Give each once."),
    ],
)
def test_what_is_no_whole(tmp_path: Path, chosen: Callable[[list[Path]], list[Path]], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_parts(chosen(written(tmp_path)), KIND, Content, WORK)
    assert message in str(caught.value)


def test_parts_of_two_divisions(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"is part 2/2 of a sum, but .*1-of-3.json' is part 1/3: they are of two divisions"
    ):
        read_parts([written(tmp_path, 3)[0], written(tmp_path, 2)[1]], KIND, Content)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        ({"model": "b", "frames": 7}, "its model is 'b', that of"),
        ({"model": "a", "frames": 8}, "its frames is 8, that of"),
        ({"model": "a"}, "its frames is None, that of"),
        ({"model": "a", "frames": 7, "seed": 0}, "its seed is 0, that of"),
        ({"model": "a", "frames": 7.0}, "its frames is 7.0, that of"),
    ],
)
def test_parts_of_other_work(tmp_path: Path, work: dict[str, Any], message: str) -> None:
    """Among each other, and with what the command is about."""
    (tmp_path / "other").mkdir()
    mine, other = written(tmp_path), written(tmp_path / "other", work=work)
    with pytest.raises(DataError) as caught:
        read_parts([mine[0], other[1], mine[2]], KIND, Content)
    assert "2-of-3.json' is a part of another sum" in str(caught.value)
    assert message in str(caught.value)
    assert f"that of '{mine[0]}'" in str(caught.value)
    with pytest.raises(DataError) as caught:
        read_parts(other, KIND, Content, WORK)
    assert "that of this command is" in str(caught.value)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value["content"].update(numbers=[9]), "its checksum does not fit"),
        (lambda value: value["share"].update(number=3), "its checksum does not fit"),
        (lambda value: value["work"].update(model="b"), "its checksum does not fit"),
        (lambda value: value.update(version=2), "is a part of a sum of version 2; this release reads 1"),
        (lambda value: value.update(format="part of a product"), "is no part of a sum"),
        (lambda value: value.update(more=1), "more"),
        (lambda value: value.pop("work"), "work"),
        (lambda value: value["share"].update(number=0), "share.number"),
    ],
)
def test_a_damaged_part(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    paths = written(tmp_path)
    changed(paths[0], change)
    with pytest.raises(DataError) as caught:
        read_parts(paths, KIND, Content, WORK)
    assert message in str(caught.value)
    assert str(paths[0]) in str(caught.value)


def test_content_of_another_form(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    write_part(path, KIND, WHOLE, WORK, {"numbers": [1, -2]})
    with pytest.raises(DataError, match=r"content\.numbers\[1\] is -2"):
        read_parts([path], KIND, Content, WORK)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is not valid JSON"):
        read_parts([path], KIND, Content, WORK)
    with pytest.raises(DataError, match="nowhere"):
        read_parts([tmp_path / "nowhere.json"], KIND, Content, WORK)
