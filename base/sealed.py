"""JSON documents that say what they are, and have a checksum over all of it: what was changed since is not read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from base.documents import read_json
from base.errors import DataError
from base.messages import shown, shown_file
from base.parsing import parse

__all__ = ["Sealed"]


@dataclass(frozen=True)
class Sealed:
    """One kind of such documents.

    Attributes:
        format: What stands under "format" in each.
        version: Of the form; documents of another one are not read.
        what: The kind, for messages: "calibration cache".
        made_by: How such files come about: "Give the file that save_calib_cache wrote."
        remedy: What to do where one is of no use.
        separators: Of the text whose SHA-256 is the checksum (`json.dumps`).
    """

    format: str
    version: int
    what: str
    made_by: str
    remedy: str
    separators: tuple[str, str] = (",", ":")

    def sealed(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """`content` with "format", "version" and "sha256".

        Raises:
            ValueError: it holds NaN or an infinity.
        """
        value = {"format": self.format, "version": self.version, **content}
        return {**value, "sha256": self._checksum(value)}

    def read(self, path: str | os.PathLike[str], form: Any = None) -> Any:
        """Reads a document.

        Args:
            path: The file.
            form: Type of all that it holds beside the checksum (`base.parsing.parse`); None: the caller looks at it.

        Returns:
            A value of `form`, or the dictionary.

        Raises:
            DataError: the file is missing, no such document, of another version or form, or was changed.
        """
        value = read_json(path, remedy=self.remedy)
        if not isinstance(value, dict) or value.get("format") != self.format:
            raise DataError(f"{shown_file(path)} is no {self.what}. {self.made_by}")
        if value.get("version") != self.version:
            raise DataError(
                f"{shown_file(path)} is a {self.what} of version {shown(value.get('version'))}; this release reads "
                f"{self.version}. {self.remedy}"
            )
        checksum = value.pop("sha256", None)
        content = value if form is None else parse(form, value, file=path, remedy=self.remedy)
        try:
            fits = checksum == self._checksum(value)
        except ValueError:  # a NaN or an infinity, which no document is written with
            fits = False
        if not fits:
            raise DataError(
                f"{shown_file(path)} was changed or damaged since it was written: its checksum does not fit. "
                f"{self.remedy}"
            )
        return content

    def _checksum(self, value: Mapping[str, Any]) -> str:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=self.separators)
        return hashlib.sha256(text.encode()).hexdigest()
