"""Trees of YAML files: order, packages and names as Hydra has them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from base.composed_yaml import compose_yaml
from base.errors import ConfigError


def compose(tmp_path: Path, main: str, **files: str) -> dict[str, Any]:
    """Files by name with `__` for folders; the config is `groups/main.yaml`."""
    for name, text in {"groups__main": main, **files}.items():
        file = tmp_path / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return compose_yaml(tmp_path / "groups" / "main.yaml", "Model config").values


GLOBAL = "# @package _global_\n"
OTHER = f"{GLOBAL}x: other\nd: {{a: 1, l: [1, 2]}}\n"


@pytest.mark.parametrize(
    ("order", "x"),
    [("[/o, _self_]", "main"), ("[_self_, /o]", "other"), ("[/o]", "other")],
    ids=["last wins", "self first", "self is first where it is not named"],
)
def test_order(tmp_path: Path, order: str, x: str) -> None:
    found = compose(tmp_path, f"{GLOBAL}defaults: {order}\nx: main\nd: {{b: 2, l: [3]}}\n", o=OTHER)
    assert found["x"] == x
    assert found["d"] == {"a": 1, "b": 2, "l": [3] if x == "main" else [1, 2]}  # dictionaries are joined, lists not


def test_packages(tmp_path: Path) -> None:
    """Of a header, from the whole; of a list of defaults, from the file that lists; else the folder's."""
    main = f"""{GLOBAL}defaults:
  - /with/header
  - /no/header
  - /with/header@given
  - /no/relative@_here_
  - /no/absolute@_global_.far.away
  - _self_
"""
    files = {
        "with__header": "# comes first\n# @package up.there\ndefaults: [/no/inner]\na: 1\n",
        "no__header": "b: 2\n",
        "no__inner": "c: 3\n",
        "no__relative": "d: 4\n",
        "no__absolute": "e: 5\n",
    }
    inner = {"no": {"c": 3}, "a": 1}
    assert compose(tmp_path, main, **files) == {
        "up": {"there": inner},
        "no": {"b": 2},
        "given": inner,
        "d": 4,
        "far": {"away": {"e": 5}},
    }


def test_names_are_of_the_folder_or_of_the_tree(tmp_path: Path) -> None:
    main = """# @package _global_
defaults:
  - beside
  - below/deeper
  - group: [one, two]
  - group@second: one
  - nothing: null
  - optional absent
  - optional group: absent
  - /top
"""
    found = compose(
        tmp_path,
        main,
        groups__beside=f"{GLOBAL}beside: 1\n",
        groups__below__deeper="deeper: 1\n",
        groups__group__one="one: 1\n",
        groups__group__two="two: 1\n",
        top=f"{GLOBAL}top: 1\n",
    )
    assert found == {
        "beside": 1,
        "below": {"deeper": 1},
        "group": {"one": 1, "two": 1},
        "second": {"one": 1},
        "top": 1,
    }


def test_a_config_without_defaults_is_one_file(tmp_path: Path) -> None:
    assert compose(tmp_path, "a: {b: 1}\n") == {"a": {"b": 1}}
    assert compose(tmp_path, "") == {}


def test_a_file_that_two_name_is_read_once(tmp_path: Path) -> None:
    main = f"{GLOBAL}defaults: [/a, /b, _self_]\n"
    compose(tmp_path, main, a=f"{GLOBAL}defaults: [/c]\n", b=f"{GLOBAL}defaults: [/c]\n", c="c: 1\n")
    read = compose_yaml(tmp_path / "groups" / "main.yaml", "Model config").files
    assert [file.name for file in read] == ["main.yaml", "a.yaml", "c.yaml", "b.yaml"]


@pytest.mark.parametrize(
    ("main", "message"),
    [
        ("defaults: [/absent]\n", "names '/absent.yaml' among its defaults, but no folder above it has such a file"),
        ("defaults: [/top, absent]\n", "names 'groups/absent' among its defaults, but .*absent.yaml' does not exist"),
        ("defaults: [/loop]\n", "defaults lead back to itself: .*loop"),
        ("defaults: [{override /top: x}]\n", "overrides are not"),
        ("defaults: [../top]\n", r"'../top' among its defaults is not understood"),
        ("defaults: ['/top@']\n", "among its defaults is not understood"),
        ("defaults: ['${x}']\n", "among its defaults is not understood"),
        ("defaults: [{a: 1, b: 2}]\n", "among its defaults is not understood"),
        ("defaults: {a: 1}\n", "among its defaults is not understood"),
        ("defaults: [_self_, _self_]\n", "'_self_' stands twice"),
        ("- a\n", r"is \['a'\], but must be a dictionary"),
        ("1: a\n", "must be a dictionary whose keys are names"),
        ("a: [\n", "is not valid YAML"),
        ("a: &x 1\nb: *x\n", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [true]\n", "is not valid YAML"),
        ("defaults: [/wide]\n", "is one of more than 200 files"),
    ],
)
def test_what_cannot_be_composed_is_named(tmp_path: Path, main: str, message: str) -> None:
    wide = "defaults: [" + ", ".join(f"/w{number}" for number in range(210)) + "]\n"
    many = {f"w{number}": "a: 1\n" for number in range(210)} if "wide" in main else {}
    with pytest.raises(ConfigError, match=message):
        compose(tmp_path, main, top="t: 1\n", loop="defaults: [/loop]\n", wide=wide, **many)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "main.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        compose_yaml(tmp_path / "main.yaml", "Model config")
