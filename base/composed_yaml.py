"""Configs that are composed of YAML files as Hydra does it: a list of defaults, files of one tree, packages.

No code is run and no file outside the tree is read. What a config can be composed with on a command line (overrides,
sweeps, search paths) is not there: a config is what its files say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.documents import parse_yaml
from base.errors import ConfigError
from base.messages import shown, shown_file
from base.reading import read_bounded

__all__ = ["Composed", "compose_yaml"]

_MAX_BYTES = 1 << 20
_MAX_FILES = 200
_MAX_DEPTH = 16
_SELF = "_self_"
_GLOBAL = "_global_"
_DEFAULTS = "defaults"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*")
_PACKAGE = re.compile(r"\s*#\s*@package\s+(\S+)\s*")
_KEEP = "Configs name others by their place in a tree of folders; keep the folders that they came in."


@dataclass(frozen=True)
class Composed:
    """A config and where it came from.

    Attributes:
        values: What its files say together; references are not worked out (`base.interpolation`).
        files: The files, in the order in which they were first read; the config's own is the first.
    """

    values: dict[str, Any]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Entry:
    """One of the defaults: a file of the tree, and where its values go."""

    group: str
    name: str
    absolute: bool
    package: str | None
    optional: bool = False

    def config(self, folder: str) -> str:
        """Its place in the tree, seen from a file of `folder`."""
        return "/".join(part for part in ("" if self.absolute else folder, self.group, self.name) if part)


def compose_yaml(path: Path, what: str) -> Composed:
    """Reads a YAML config with its defaults.

    Later files win over earlier ones; dictionaries are joined, everything else is replaced. `# @package` in the first
    lines of a file says where its values go; without it they go where its folder says.

    Args:
        path: The config.
        what: What it is, for messages: "Model config".

    Raises:
        ConfigError: a file is missing, no plain YAML (`base.documents.read_yaml`), no dictionary, its own default, or
            has a form of defaults that is not known here; there are more than 200 files.
    """
    reader = _Reader(what)
    text = reader.text(path)
    root, config = _root_of(path, reader.entries(reader.parsed(path, text), path), what)
    reader.root = root
    values: dict[str, Any] = {}
    for package, content in reader.parts(path, config, "", None, ()):
        _merge(values, _packed(content, package))
    return Composed(values, tuple(reader.files))


def _root_of(path: Path, entries: list[_Entry | str], what: str) -> tuple[Path, str]:
    """The folder from which absolute names count, and the config's own place below it, without `.yaml`."""
    absolute = [entry for entry in entries if isinstance(entry, _Entry) and entry.absolute]
    folder = Path(path).absolute().parent
    if not absolute:
        return folder, path.stem
    wanted = f"{absolute[0].config('')}.yaml"
    for root in (folder, *folder.parents):
        if (root / wanted).is_file():
            return root, str(path.absolute().relative_to(root).with_suffix(""))
    raise ConfigError(
        f"{what} {shown_file(path)} names '/{wanted}' among its defaults, but no folder above it has such a file. "
        f"{_KEEP}"
    )


class _Reader:
    """Reads files of one tree, each once."""

    def __init__(self, what: str) -> None:
        self.root = Path()
        self.files: dict[Path, tuple[str, dict[str, Any]]] = {}
        self._what = what

    def text(self, path: Path) -> str:
        """The text of a file."""
        data = read_bounded(path, _MAX_BYTES, self._what, error=ConfigError)
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._what} {shown_file(path)} is no text in UTF-8 ({error}).") from None

    def parsed(self, path: Path, text: str) -> dict[str, Any]:
        """The values of a file."""
        if path not in self.files:
            if len(self.files) >= _MAX_FILES:
                raise ConfigError(f"{self._what} {shown_file(path)} is one of more than {_MAX_FILES} files.")
            values = parse_yaml(text, file=path, error=ConfigError)
            values = {} if values is None else values
            if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
                raise ConfigError(
                    f"{self._what} {shown_file(path)} is {shown(values)}, but must be a dictionary whose keys are "
                    "names."
                )
            self.files[path] = (text, values)
        return self.files[path][1]

    def parts(
        self, path: Path, config: str, parent: str, entry: _Entry | None, children: tuple[str, ...]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(package, values) of a file and of its defaults, in the order in which they are merged."""
        if config in children or len(children) > _MAX_DEPTH:
            chain = " → ".join([*children[-4:], config])
            raise ConfigError(f"{self._what} {shown_file(path)}: its defaults lead back to itself: {chain}.")
        text = self.files[path][0] if path in self.files else self.text(path)
        values = self.parsed(path, text)
        folder = config.rpartition("/")[0]
        package = _package(text, folder if entry is None else entry.group, config, parent, entry)
        for item in self.entries(values, path):
            if isinstance(item, str):
                yield package, {key: value for key, value in values.items() if key != _DEFAULTS}
                continue
            name = item.config(folder)
            file = self.root / f"{name}.yaml"
            if file.is_file():
                yield from self.parts(file, name, package, item, (*children, config))
            elif not item.optional:
                raise ConfigError(
                    f"{self._what} {shown_file(path)} names '{name}' among its defaults, but {shown_file(file)} does "
                    f"not exist. {_KEEP}"
                )

    def entries(self, values: Mapping[str, Any], path: Path) -> list[_Entry | str]:
        """The list of defaults of a file, with `_self_` for the file itself."""
        listed = values.get(_DEFAULTS, [])
        if not isinstance(listed, list):
            raise self._unknown(path, listed)
        found: list[_Entry | str] = []
        for item in listed:
            if item == _SELF:
                found.append(_SELF)
            elif isinstance(item, str):
                found += self._entry(path, item, None, item)
            elif isinstance(item, dict) and len(item) == 1:
                ((key, value),) = item.items()
                for name in value if isinstance(value, list) else [value]:
                    if name is not None:  # a group of which nothing is chosen
                        found += self._entry(path, key, name, item)
            else:
                raise self._unknown(path, item)
        if found.count(_SELF) > 1:
            raise ConfigError(f"{self._what} {shown_file(path)}: '{_SELF}' stands twice among its defaults.")
        return found if _SELF in found else [_SELF, *found]

    def _entry(self, path: Path, key: Any, name: Any, item: Any) -> Iterator[_Entry]:
        if not isinstance(key, str) or not isinstance(name, str | None):
            raise self._unknown(path, item)
        optional = key.startswith("optional ")
        place, at, package = key.removeprefix("optional ").strip().partition("@")
        absolute, place = place.startswith("/"), place.removeprefix("/")
        group, name = (place.rpartition("/")[0], place.rpartition("/")[2]) if name is None else (place, name)
        name = name.removesuffix(".yaml")
        parts = [part for part in (*group.split("/"), *name.split("/")) if part]
        if not name or not all(_PART.fullmatch(part) for part in parts) or (at and not package):
            raise self._unknown(path, item)
        yield _Entry(group, name, absolute, package or None, optional)

    def _unknown(self, path: Path, item: Any) -> ConfigError:
        return ConfigError(
            f"{self._what} {shown_file(path)}: {shown(item)} among its defaults is not understood here. Known are a "
            "file of the tree ('/folder/name', 'name'), {folder: name}, '@package' behind either, 'optional' before "
            f"it, and '{_SELF}'; overrides are not: write what they choose."
        )


def _package(text: str, group: str, config: str, parent: str, entry: _Entry | None) -> str:
    """The dotted place of a file's values; "" is the whole config.

    What the list of defaults says is seen from the file that lists it; what the file itself says from the whole.
    """
    given = None if entry is None else entry.package
    if given is not None:
        given = parent if given == "_here_" else given
        chosen = given if given.startswith(_GLOBAL) or given == parent else f"{parent}.{given}"
    elif (header := _header(text)) is not None:
        chosen = header if header.startswith(_GLOBAL) else f"{_GLOBAL}.{header}"
    else:
        chosen = f"{parent}.{group.replace('/', '.')}"
    chosen = chosen.replace("_group_", config.rpartition("/")[0].replace("/", "."))
    chosen = chosen.replace("_name_", config.rpartition("/")[2])
    return ".".join(part for part in chosen.rpartition(_GLOBAL)[2].split(".") if part)


def _header(text: str) -> str | None:
    for line in text.splitlines():
        found = _PACKAGE.fullmatch(line)
        if found:
            return found[1]
        if line.strip() and not line.lstrip().startswith("#"):
            return None
    return None


def _packed(content: dict[str, Any], package: str) -> dict[str, Any]:
    for key in reversed(package.split(".") if package else []):
        content = {key: content}
    return content


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Joins dictionaries; of everything else the later stands. `into` and `other` share no dictionary afterwards."""
    for key, value in other.items():
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value
