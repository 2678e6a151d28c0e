"""Makes the wheels of stand_ins.toml, byte for byte the same on every machine; prints a requirement line for each.

    python3.11 third_party/python/build_wheels.py                 # third_party/python/wheels/*.whl
    python3.11 third_party/python/build_wheels.py --out FOLDER

A wheel is a zip file of the files that the table names and of three files of metadata. Entries are stored, not
deflated (zlib's versions differ), sorted, and dated 1980-01-01. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TABLE = HERE / "stand_ins.toml"


@dataclass(frozen=True)
class StandIn:
    """One wheel of the table.

    Attributes:
        name: The distribution's name, as a requirement spells it.
        version: With a local part (`0+unused`): no index serves such a version. Where there are files, that part
            is made of their content, so that pip replaces the wheel of older files.
        summary: One sentence for `pip show`.
        requires: Requirements of the wheel.
        files: Path in site-packages by path in the repository.
    """

    name: str
    version: str
    summary: str
    requires: tuple[str, ...]
    files: Mapping[str, str]

    @property
    def requirement(self) -> str:
        """The pin, without its hash."""
        return f"{self.name}=={self.version}"

    @property
    def stem(self) -> str:
        """Name and version as file names spell them."""
        return f"{self.name.replace('-', '_')}-{self.version}"

    @property
    def filename(self) -> str:
        """The wheel's file name: pure Python, any platform."""
        return f"{self.stem}-py3-none-any.whl"

    def content(self, root: Path) -> dict[str, bytes]:
        """Every file of the wheel by its path in the archive; `root` is the repository's."""
        info = f"{self.stem}.dist-info"
        metadata = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        metadata += [f"Summary: {self.summary}", *(f"Requires-Dist: {line}" for line in self.requires)]
        wheel = ["Wheel-Version: 1.0", "Generator: build_wheels.py", "Root-Is-Purelib: true", "Tag: py3-none-any"]
        entries = {path: (root / source).read_bytes() for path, source in sorted(self.files.items())}
        entries[f"{info}/METADATA"] = "".join(f"{line}\n" for line in metadata).encode()
        entries[f"{info}/WHEEL"] = "".join(f"{line}\n" for line in wheel).encode()
        record = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in entries.items()]
        entries[f"{info}/RECORD"] = "".join(f"{line}\n" for line in [*record, f"{info}/RECORD,,"]).encode()
        return entries

    def write(self, folder: Path, root: Path) -> Path:
        """Writes the wheel into `folder`; `root` is the repository's."""
        target = folder / self.filename
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for path, data in self.content(root).items():
                entry = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as Unix writes them, wherever this runs
                archive.writestr(entry, data)
        return target


def _digest(data: bytes) -> str:
    """SHA-256 as RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def read_table(path: Path = TABLE) -> list[StandIn]:
    """The table's wheels, sorted by name."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    wheels = []
    for name, entry in sorted(table.items()):
        files: dict[str, str] = entry.get("files", {})
        digest = hashlib.sha256()
        for installed, source in sorted(files.items()):
            digest.update(f"{installed} {hashlib.sha256((ROOT / source).read_bytes()).hexdigest()}\n".encode())
        version = f"{entry['version']}+{digest.hexdigest()[:8] if files else 'unused'}"
        wheels.append(StandIn(name, version, entry["summary"], tuple(entry.get("requires", ())), files))
    return wheels


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the wheels of stand_ins.toml.")
    parser.add_argument("--out", type=Path, default=HERE / "wheels", help="folder of the wheels (emptied of others)")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    wheels = read_table()
    for stale in set(folder.glob("*.whl")) - {folder / wheel.filename for wheel in wheels}:
        stale.unlink()
    for wheel in wheels:
        wheel.write(folder, ROOT)
        sys.stdout.write(f"{wheel.requirement}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
