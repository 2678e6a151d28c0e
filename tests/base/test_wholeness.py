"""Files that belong together: a folder with one of them new and one of them old does not pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import ConfigError, DataError
from base.files import atomic_path, write_json
from base.manifests import read_manifest
from base.wholeness import replacing, require_whole

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("encoder.onnx", "head.onnx")


def write(folder: Path, text: str, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text)


def is_whole(folder: Path) -> bool:
    try:
        require_whole(folder, "Export again.")
    except ConfigError:
        return False
    return True


def test_nothing_is_left_where_all_went_well(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replacing(tmp_path / "onnx", NAMES) as folder:
            write(folder, text)
        assert is_whole(tmp_path / "onnx")
    assert sorted(p.name for p in (tmp_path / "onnx").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("written", [0, 1, 2])
@pytest.mark.parametrize("old", [0, 1, 2])
def test_killed_between_two_files(tmp_path: Path, old: int, written: int) -> None:
    write(tmp_path, "old", NAMES[:old])
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom base.wholeness import replacing\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"with replacing(folder, {NAMES!r}):\n"
        f"    for name in {NAMES[:written]!r}:\n"
        "        (folder / 'x').write_text('new')\n        (folder / 'x').replace(folder / name)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    texts = {name: (tmp_path / name).read_text() for name in NAMES if (tmp_path / name).exists()}
    # A folder that lacks a file is seen to lack it; one with both, of two runs, must say so.
    if set(texts.values()) == {"old", "new"}:
        assert not is_whole(tmp_path)
    with replacing(tmp_path, NAMES):
        write(tmp_path, "newest")
    assert is_whole(tmp_path)


def test_a_failure_before_the_first_file_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "old")
    with pytest.raises(OSError, match="full"), replacing(tmp_path, NAMES):
        raise OSError(28, "full")
    assert is_whole(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(NAMES)


def test_a_failure_between_two_files_is_seen(tmp_path: Path) -> None:
    write(tmp_path, "old")
    with pytest.raises(OSError, match="full"), replacing(tmp_path, NAMES):  # noqa: PT012 - the body is the work
        write(tmp_path, "new", NAMES[:1])
        raise OSError(28, "full")
    with pytest.raises(ConfigError, match=r"between the first file and the last\. Export again\."):
        require_whole(tmp_path, "Export again.")
    # A later failure that changes nothing does not make it whole.
    with pytest.raises(RuntimeError), replacing(tmp_path, NAMES):
        raise RuntimeError
    assert not is_whole(tmp_path)


def test_blocks_within_each_other_end_with_the_outermost(tmp_path: Path) -> None:
    write(tmp_path, "old")
    with replacing(tmp_path, (*NAMES, "manifest.json")):
        with replacing(tmp_path, NAMES):
            write(tmp_path, "new")
        assert (tmp_path / ".centerpoint.unfinished").exists()
        assert is_whole(tmp_path), "whoever writes it may read it"
    assert is_whole(tmp_path)


def test_a_busy_run_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "old")
    code = f"from base.wholeness import require_whole\nrequire_whole({str(tmp_path)!r}, 'Wait.')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with replacing(tmp_path, NAMES):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert "ConfigError" in done.stderr
    assert "may hold files of two runs" in done.stderr


@pytest.mark.parametrize("name", ["../x.engine", "/etc/passwd", "..", "a/b"])
def test_a_manifest_names_files_beside_it(tmp_path: Path, name: str) -> None:
    entry = {"file": name, "bytes": 1, "sha256": "0" * 64}
    content = {"schema_version": 1, "kind": "engine", "inputs": {}, "outputs": {"engine": entry}, "settings": {}}
    write_json(tmp_path / "a.json", {**content, "versions": {}})
    with pytest.raises(DataError, match=r"outputs\.engine\.file .* must be a file's name without its folder"):
        read_manifest(tmp_path / "a.json", "Make it again.")
