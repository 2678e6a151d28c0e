"""Whether files are those that a provenance statement is about, `python -m deploy.inspect FOLDER --verify`.

bazel/private/write_provenance.py writes the statement. It says what was made of what; that it was not forged is for
a signature over the file to say, which is checked before (`deploy.inspect_signature`, docs/artifacts.md).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from base.documents import read_json
from base.errors import ConfigError
from base.files import sha256_file
from base.messages import shown
from base.parsing import Record, RelativePath, misfit
from base.tables import text_table

__all__ = ["PROVENANCE", "FileVerdict", "statement_file", "verdict_text", "verify_provenance"]

PROVENANCE = "provenance.json"


class _Digest(Record):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Subject(Record):
    name: RelativePath
    digest: _Digest


class _Statement(Record):
    """in-toto's statement; the predicate is for people to read."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[_Subject], Field(min_length=1)]
    predicate_type: Annotated[Literal["https://slsa.dev/provenance/v1"], Field(alias="predicateType")]
    predicate: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FileVerdict:
    """One file of the statement.

    Attributes:
        name: Its place below the folder of the artifacts.
        verdict: "as stated", "changed", "missing", or "not stated": in one of the folders, and no word of it.
    """

    name: str
    verdict: str


def statement_file(path: Path) -> Path:
    """The statement that `path` is, or that lies in it.

    Raises:
        ConfigError: there is none.
    """
    file = path / PROVENANCE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"'{file}' does not exist. Give the {PROVENANCE} of a provenance target, or its folder.")
    return file


def verify_provenance(path: Path, root: Path | None = None) -> tuple[FileVerdict, ...]:
    """Holds files against a statement. Artifacts whose whole folder is not here are left out.

    Args:
        path: provenance.json, or the folder that it lies in.
        root: Folder that holds the artifacts' folders; by default the one beside the statement's own folder.

    Raises:
        ConfigError: there is no statement, or none of its files is there.
        DataError: it is no such statement.
    """
    file = statement_file(path)
    statement = read_json(file, _Statement)
    base = file.resolve().parent.parent if root is None else root
    stated = {subject.name: subject.digest.sha256 for subject in statement.subject}
    if len(stated) != len(statement.subject):
        raise misfit(file, ("subject",), f"{len(statement.subject)} files", "a file is named twice")
    folders = sorted({name.partition("/")[0] for name in stated if "/" in name})
    here = {folder for folder in folders if (base / folder).is_dir()}
    if not here:
        named = ", ".join(map(shown, folders)) or "its files"
        raise ConfigError(f"None of {named} is in '{base}'. Name the folder that holds them with --root.")
    verdicts = [
        FileVerdict(name, _verdict(base / name, digest))
        for name, digest in stated.items()
        if name.partition("/")[0] in here
    ]
    for folder in sorted(here):
        for place, _, names in os.walk(base / folder):
            found = ((Path(place) / name).relative_to(base).as_posix() for name in names)
            verdicts += [FileVerdict(name, "not stated") for name in found if name not in stated]
    return tuple(sorted(verdicts, key=lambda item: item.name))


def verdict_text(verdicts: Sequence[FileVerdict]) -> str:
    """A table of the files that are not as stated, and the count of those that are."""
    wrong = [(item.verdict, item.name) for item in verdicts if item.verdict != "as stated"]
    counted = f"{len(verdicts) - len(wrong)} of {len(verdicts)} files are as stated"
    return counted if not wrong else f"{counted}\n{text_table(('verdict', 'file'), wrong)}"


def _verdict(file: Path, digest: str) -> str:
    if not file.is_file():
        return "missing"
    return "as stated" if sha256_file(file) == digest else "changed"
