"""requirements.in names what the code imports, and docs/design/dependencies.md says why and under which licence."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.dependencies import BEGIN, END, PACKAGES, imports_of, licence

ROOT = Path.cwd()  # the runfiles tree under Bazel, the repository's root otherwise
PAGE = ROOT / "docs" / "design" / "dependencies.md"
# What is used where it is installed, and never in the lock.
OPTIONAL = {"perception_eval", "tensorrt", "no_such_package_x", "PIL", "nuscenes"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    lines = (ROOT / "requirements.in").read_text(encoding="utf-8").split()
    return [normal(re.split(r"[=<>\[;]", line)[0]) for line in lines]


def reasons() -> dict[str, tuple[str, str]]:
    """Package -> (reason, licence) of the page's first table."""
    text = PAGE.read_text(encoding="utf-8").split("## What was tried")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {normal(name): (reason, terms) for names, reason, terms in rows[1:] for name in names.split(", ")}


def test_what_is_imported_is_required() -> None:
    distributions = metadata.packages_distributions()
    required = set(requirements())
    for name, packages in imports_of(ROOT, (*PACKAGES, "tests")).items():
        if name in OPTIONAL:
            continue
        owners = {normal(owner) for owner in distributions[name]}
        # cuda-python is a name for the parts that it brings.
        owners |= {"cuda-python"} if name == "cuda" else set()
        assert owners & required, f"{name}, imported by {sorted(packages)}, is not in requirements.in"


def test_every_requirement_has_its_reason() -> None:
    names = requirements()
    assert len(names) == len(set(names)) > 30
    assert sorted(reasons()) == sorted(names)


@pytest.mark.parametrize("name", sorted(reasons()))
def test_its_licence_is_the_stated_one(name: str) -> None:
    stated = reasons()[name][1]
    if name.startswith("centerpoint-"):  # this repository's own, under its licence
        assert stated == "Apache"
        return
    try:
        own = licence(name)
    except metadata.PackageNotFoundError:
        assert name in ("pip", "wheel", "setuptools"), f"{name} is not installed"
        return
    assert any(word in own for word in stated.split(", ")), f"{name}: {own}"


def test_the_costs_are_of_what_is_imported() -> None:
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = {name.partition(".")[0] for name in re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)}
    assert rows == set(imports_of(ROOT)) - OPTIONAL
