"""Values of any kind either fit a type exactly or are one short, printable error with place, value and demand."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator

from base.errors import ConfigError, DataError
from base.messages import printable, shown, shown_place
from base.parsing import (
    Count,
    FiniteFloat,
    Int64,
    Items,
    NonEmptyStr,
    PositiveFloat,
    Record,
    RelativePath,
    Share,
    Vector3,
    misfit,
    parse,
)


class Instance(Record, extra="ignore"):
    bbox_3d: Items[FiniteFloat]
    label: Count | None = None


class Sample(Record):
    token: NonEmptyStr
    lidar_path: RelativePath = "a.bin"
    instances: Items[Instance] = ()
    size: Vector3 = (1.0, 1.0, 1.0)
    mode: Literal["both", "onnx"] = "both"
    either: Count | list[Count] = 0


class Info(Record):
    data_list: list[Sample]

    @field_validator("data_list")
    @classmethod
    def _not_empty(cls, value: list[Sample]) -> list[Sample]:
        if not value:
            raise ValueError("must hold a sample")
        return value


class Plain(Record):
    threads: Count = 1


def info(**changes: Any) -> dict[str, Any]:
    return {"data_list": [{"token": "a"}, {"token": "b", **changes}]}


def test_sound_values_come_back_typed() -> None:
    parsed = parse(
        Info, info(instances=[{"bbox_3d": [1, 2.5], "other": None, "label": 3}], size=[1, 2, 3]), file="infos.pkl"
    )
    sample = parsed.data_list[1]
    assert sample.instances[0].bbox_3d == (1.0, 2.5)
    assert sample.instances[0].label == 3
    assert sample.size == (1.0, 2.0, 3.0)
    assert parse(dict[str, Plain], {"a": {"threads": 2}}, file="x") == {"a": Plain(threads=2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": ""}, "data_list[1].token is '', but must be text that is not empty"),
        ({"token": b"b"}, "data_list[1].token is 1 bytes, but must be text"),
        ({"token": "a\0b"}, "data_list[1].token is 'a\\x00b', but must not hold a NUL character"),
        ({"token": "\ud800"}, "data_list[1].token is '\\ud800', but must be valid Unicode text"),
        ({"lidar_path": "/etc/shadow"}, "data_list[1].lidar_path is '/etc/shadow', but must be a relative path"),
        ({"lidar_path": "a/../../x"}, "data_list[1].lidar_path is 'a/../../x', but must not leave its folder"),
        ({"instances": {}}, "data_list[1].instances is {}, but must be a list"),
        ({"instances": [3]}, "data_list[1].instances[0] is 3, but must be a dictionary"),
        ({"instances": [{}]}, "data_list[1].instances[0] lacks 'bbox_3d'"),
        (
            {"instances": [{"bbox_3d": [0, 1, math.nan]}]},
            "data_list[1].instances[0].bbox_3d[2] is nan, but must be a finite number",
        ),
        ({"instances": [{"bbox_3d": [True]}]}, "bbox_3d[0] is True, but must be a number"),
        ({"instances": [{"bbox_3d": ["3"]}]}, "bbox_3d[0] is '3', but must be a number"),
        ({"instances": [{"bbox_3d": [10**400]}]}, "bbox_3d[0] is an integer of 1329 bits, but must be a number"),
        ({"instances": [{"bbox_3d": [], "label": 2**31}]}, "label is 2147483648, but must be at most 2147483647"),
        ({"instances": [{"bbox_3d": [], "label": True}]}, "label is True, but must be a whole number or null"),
        ({"instances": [{"bbox_3d": [], "label": 1.0}]}, "label is 1.0, but must be a whole number"),
        ({"size": [1]}, "data_list[1].size has 1 values, but must have 3"),
        ({"size": [1, 2, 3, 4]}, "data_list[1].size is [1, 2, 3, 4], but must be at most 3 values long"),
        ({"mode": "bth"}, "data_list[1].mode is 'bth', but must be 'both' or 'onnx'"),
        ({"either": "x"}, "data_list[1].either is 'x', but must be a whole number or a list"),
        ({"lidr_path": "a"}, "data_list[1].lidr_path is no known key (did you mean 'lidar_path'?)"),
    ],
)
def test_a_misfit_names_file_place_value_and_demand(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(Info, info(**changes), file="data/infos.pkl", remedy="Write it again.")
    assert str(caught.value).startswith("'data/infos.pkl': data_list[1].")
    assert message in str(caught.value)
    assert str(caught.value).endswith(". Write it again.")


@pytest.mark.parametrize(
    "value", [{1.0, 2.0, 3.0}, {1.0: 0, 2.0: 0, 3.0: 0}.keys(), range(3), iter([1.0]), "abc", b"abc"]
)
def test_only_lists_and_tuples_are_lists(value: Any) -> None:
    with pytest.raises(DataError, match="but must be a list"):
        parse(Vector3, value, file="x")
    with pytest.raises(DataError, match="but must be a list"):
        parse(Annotated[Items[FiniteFloat], Field(min_length=1)], value, file="x")


def test_many_misfits_are_three_and_a_count() -> None:
    with pytest.raises(
        DataError, match=r"\[0\] is -1.*\[1\] is -2.*\[2\] is -3, but must be at least 0; and 97 more\.$"
    ):
        parse(list[Count], [-1 - n for n in range(100)], file="x")


def test_error_kind_place_and_the_document_itself() -> None:
    with pytest.raises(ConfigError, match=r"^'c.py': evaluation\.threads is '1', but must be a whole number\.$"):
        parse(Count, "1", file="c.py", at=["evaluation", "threads"], error=ConfigError)
    with pytest.raises(DataError, match=r"^'x': it is \[\], but must be a dictionary\.$"):
        parse(Info, [], file="x")
    with pytest.raises(DataError, match="data_list is \\[\\], but must hold a sample"):
        parse(Info, {"data_list": []}, file="x")
    with pytest.raises(DataError, match=r"key 3 of it must be text"):
        parse(dict[str, Count], {3: 4}, file="x")


def test_unknown_keys_in_lists_and_unions_are_suggested() -> None:
    with pytest.raises(DataError, match=r"\[0\]\.thread is no known key \(did you mean 'threads'\?\)"):
        parse(list[Plain], [{"thread": 1}], file="x")
    with pytest.raises(DataError, match=r"a\.tokn is no known key \(did you mean 'token'\?\)"):
        parse(dict[str, Sample | None], {"a": {"token": "t", "tokn": 1}}, file="x")
    with pytest.raises(DataError, match=r"zzz is no known key \(known are bbox_3d, label\)"):
        parse(Annotated[Strict, Field()], {"bbox_3d": [], "zzz": 1}, file="x")


class Strict(Record):
    bbox_3d: Items[FiniteFloat]
    label: Count = 0


def test_misfit_has_the_form_of_parse() -> None:
    error = misfit("t/sample.json", [3, "token"], "abc", "must be unique", remedy="Fetch it again.")
    assert isinstance(error, DataError)
    assert str(error) == "'t/sample.json': [3].token is 'abc', but must be unique. Fetch it again."


HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**4290, max_value=10**4400)
    | st.floats()
    | st.text(max_size=200)
    | st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=5)
    | st.binary(max_size=20)
    | st.complex_numbers()
    | st.dates(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=6),
    max_leaves=12,
)
KINDS = [Info, Sample, list[Sample], dict[str, Plain], Vector3, Share, Int64, PositiveFloat | list[NonEmptyStr] | None]


@given(value=HOSTILE, kind=st.sampled_from(KINDS), key=st.sampled_from(["token", "instances", "size", "either", "x"]))
def test_anything_is_either_typed_or_a_short_printable_error(value: Any, kind: Any, key: str) -> None:
    for candidate in (value, info(**{key: value}), {"token": "a", key: value}, [value]):
        message = refusal(kind, candidate)
        assert message.isprintable()
        assert len(message) < 2500


def refusal(kind: Any, value: Any) -> str:
    try:
        parse(kind, value, file="x.json", remedy="Write it again.")
    except DataError as error:
        return str(error)
    return ""


@given(value=HOSTILE)
def test_shown_values_are_short_and_printable(value: Any) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) < 800
    assert shown_place(["a", value, 3]).isprintable()


def test_paths_and_long_texts() -> None:
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert shown("x" * 10**6) == f"'{'x' * 60}'… (1000000 characters)"
    assert shown(list(range(10**6))) == "[0, 1, 2, 3, … 1000000 in all]"
    assert shown_place(["data_list", 3, "a b", "bbox_3d", 2]) == "data_list[3]['a b'].bbox_3d[2]"
