"""References between values: OmegaConf's own answers, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
from omegaconf import OmegaConf

from base.errors import ConfigError
from base.interpolation import References

DOCUMENTS: list[dict[str, Any]] = [
    {"a": 1, "b": "${a}", "c": "${b}", "text": "x${a}y${c}", "none": None, "d": "${none}", "e": "is ${none}"},
    {"list": [1, "${b.c}", {"x": "${list.0}"}], "b": {"c": "deep"}, "i": "${list[2].x}", "j": "${list.1}"},
    {"b": {"c": {"d": 7, "e": "${.d}", "f": "${..g}", "h": "${...top}"}, "g": True}, "top": 2.5, "s": "${b.g} ${top}"},
    {"one": {"two": "${three}"}, "three": {"four": [1, 2], "five": "${.four}"}, "six": "${one.two.five.1}"},
    {"name": "b", "a": {"b": 3}, "c": "${a.${name}}", "d": "${${pointer}}", "pointer": "name"},
    {"escaped": r"\${a} and ${a}", "a": "v"},
    {"whole": "${tree}", "tree": {"x": {"y": "${leaf}"}, "z": ["${leaf}"]}, "leaf": False},
]


@pytest.mark.parametrize("values", DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_values_are_those_of_omegaconf(values: dict[str, Any]) -> None:
    expected = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    references = References(values, "config.yaml")
    assert {key: references.value(key) for key in values} == expected


@pytest.mark.parametrize("seed", range(20))
def test_random_documents(seed: int) -> None:
    """Each value refers to some that were made before it, alone or in text, so that there is no circle."""
    chance = random.Random(seed)
    values: dict[str, Any] = {"k0": "start", "k1": {"x": 1, "y": [2, 3.5]}}
    for index in range(2, 25):
        known = chance.choice(list(values))
        scalar = chance.choice(["k0", "k1.x", "k1.y.0", "k1.y[1]"])
        values[f"k{index}"] = chance.choice(
            [f"${{{known}}}", f"<${{{scalar}}}|${{{scalar}}}>", {"in": f"${{{known}}}", "text": f"${{{scalar}}}"}]
        )
    expected = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    references = References(values, "config.yaml")
    assert {key: references.value(key) for key in values} == expected


def test_only_what_is_asked_for_must_make_sense() -> None:
    references = References({"good": 1, "bad": "${nowhere}", "open": "???", "there": {"x": "${bad}"}}, "config.yaml")
    assert references.value("good") == 1
    assert references.value("absent", "deeper") is None
    assert (references.holds("good"), references.holds("open"), references.holds("no")) == (True, False, False)


def test_variables_are_those_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the environment")
    values = {"root": "${oc.env:ROOT}/x", "other": "${oc.env:SECRET}", "default": "${oc.env:SECRET,y}"}
    references = References(values, "config.yaml", {"ROOT": "/data"})
    assert references.value("root") == "/data/x"
    for key in ("other", "default"):
        with pytest.raises(
            ConfigError, match=rf"config.yaml': {key} uses .*SECRET.*\$\{{oc.env:ROOT\}} are understood"
        ):
            references.value(key)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": "${b}"}, r"a refers to '\$\{b\}', but nothing stands there"),
        ({"a": "${.a.b}"}, r"a refers to"),
        ({"a": "${......a}"}, r"a refers to '\$\{......a\}', but nothing"),
        ({"a": "${b", "b": 1}, r"a is '\$\{b', in which a '\$\{' is not closed"),
        ({"a": "x${b}", "b": {"c": 1}}, r"a puts '\$\{b\}' into a text, but that is"),
        ({"a": "${b}", "b": "???"}, r"b is '\?\?\?', which another file"),
        ({"a": "${b}", "b": "${a}"}, r"does one refer to itself"),
        ({"a": "x${b}", "b": "y${a}"}, r"does one refer to itself"),
        ({"a": {"b": "${a}"}}, r"does one refer to itself"),
        ({"a": "${now:%Y}"}, r"a uses '\$\{now:%Y\}'"),
        ({"a": "${}"}, r"a refers to"),
    ],
)
def test_what_leads_nowhere_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        References(values, "config.yaml").value("a")


def test_documents_that_grow_are_given_up() -> None:
    texts = {"t0": "x" * 100, **{f"t{n}": f"${{t{n - 1}}}" * 10 for n in range(1, 12)}}
    with pytest.raises(ConfigError, match="more values, or a longer text, than is read"):
        References(texts, "config.yaml").value("t11")
    trees = {"t0": 1, **{f"t{n}": {"a": f"${{t{n - 1}}}", "b": f"${{t{n - 1}}}"} for n in range(1, 19)}}
    with pytest.raises(ConfigError, match="more values, or a longer text, than is read"):
        References(trees, "config.yaml").value("t18")
