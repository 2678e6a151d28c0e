"""Writes an in-toto statement of what artifacts were made of: `write_provenance PLAN OUT`, a build action.

The plan (bazel/provenance.bzl) names files as Bazel knows them; this adds their digests. Files of the artifacts are
named by their place below the package, sources by their place in the repository. A folder that is a source (a dataset,
the Python environment) has one digest: that of the lines `SHA-256  path` of its files, sorted by path, as sha256sum
prints them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BUILD_TYPE = "urn:centerpoint:bazel:artifact:v1"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, links followed, sorted by its path."""
    found = (Path(place) / name for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def tree_sha256(folder: Path) -> str:
    """One digest of a folder."""
    lines = (f"{sha256_of(file)}  {file.relative_to(folder).as_posix()}\n" for file in files_below(folder))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Digests:
    """Digests of files and folders, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def of(self, path: str) -> dict[str, str]:
        """`{"sha256": …}` of a file, `{"sha256Tree": …}` of a folder."""
        if path not in self._known:
            place = Path(path)
            known = {"sha256Tree": tree_sha256(place)} if place.is_dir() else {"sha256": sha256_of(place)}
            self._known[path] = known
        return self._known[path]


def statement(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The statement, in one order whatever the order of the plan's files."""
    digests = Digests()
    package = plan["package"] + "/"

    def contents(files: Iterable[Mapping[str, str]]) -> dict[str, dict[str, str]]:
        """Name -> digest, of every file of folders that were made."""
        result = {}
        for file in files:
            place, name = Path(file["path"]), file["name"].removeprefix(package)
            inner = files_below(place) if place.is_dir() else [place]
            for one in inner:
                below = "" if one == place else "/" + one.relative_to(place).as_posix()
                result[name + below] = digests.of(str(one))
        return result

    made = {file["path"] for step in plan["steps"] for file in step["outputs"]}
    sources = {
        file["name"]: digests.of(file["path"])
        for step in plan["steps"]
        for file in (*step["inputs"], *step["tools"])
        if file["path"] not in made
    }
    steps = [
        {
            "target": step["target"],
            "rule": step["rule"],
            "parameters": json.loads(step["parameters"]),
            "inputs": sorted(file["name"] for file in step["inputs"]),
            "outputs": contents(step["outputs"]) if step["rule"] != "t4_dataset" else trees(step["outputs"], digests),
        }
        for step in plan["steps"]
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": n, "digest": d} for n, d in sorted(contents(plan["subjects"]).items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"target": plan["name"], "version": plan["version"]},
                "internalParameters": {"steps": steps},
                "resolvedDependencies": [{"name": n, "digest": d} for n, d in sorted(sources.items())],
            },
            "runDetails": {"builder": {"id": "urn:centerpoint:bazel"}},
        },
    }


def trees(files: Iterable[Mapping[str, str]], digests: Digests) -> dict[str, dict[str, str]]:
    """Name -> digest of folders with very many files."""
    return {file["name"]: digests.of(file["path"]) for file in files}


def main() -> int:
    """Command line."""
    plan, out = Path(sys.argv[1]), Path(sys.argv[2])
    text = json.dumps(statement(json.loads(plan.read_text(encoding="utf-8"))), indent=2, sort_keys=True)
    out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
