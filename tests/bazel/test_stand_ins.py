"""The wheels of our own in the lock: what they are made of, that the lock pins them, and what they are there for."""

from __future__ import annotations

import hashlib
import importlib.machinery
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path.cwd()
FOLDER = ROOT / "third_party/python"
WHEELS = sorted(FOLDER.glob("wheels/*.whl"))


def rebuild(out: Path) -> list[str]:
    """Runs the builder; the requirement lines that it prints."""
    command = [sys.executable, str(FOLDER / "build_wheels.py"), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_committed_wheels_are_what_the_builder_makes(tmp_path: Path) -> None:
    rebuild(tmp_path)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_bytes() for path in WHEELS}


def test_a_wheel_that_the_table_no_longer_names_goes(tmp_path: Path) -> None:
    (tmp_path / "gone-1-py3-none-any.whl").write_bytes(b"")
    rebuild(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(WHEELS)


def test_the_lock_pins_each_of_them(tmp_path: Path) -> None:
    lock = (ROOT / "requirements_lock.txt").read_text()
    pins = rebuild(tmp_path)
    assert len(pins) == len(WHEELS) > 1
    for pin in pins:
        name, _, version = pin.partition("==")
        wheel = FOLDER / "wheels" / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert f"\n{pin} \\\n    --hash=sha256:{digest}\n" in lock


def test_the_wheel_of_the_operator_holds_the_source_of_the_repository() -> None:
    (wheel,) = [path for path in WHEELS if path.name.startswith("centerpoint_mmcv_ext")]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert archive.read("mmcv/_ext.py") == (ROOT / "third_party/mmcv_ext/_ext.py").read_bytes()


def test_all_others_are_empty() -> None:
    for path in WHEELS:
        if not path.name.startswith("centerpoint_mmcv_ext"):
            with zipfile.ZipFile(path) as archive:
                assert all(".dist-info/" in name for name in archive.namelist()), path.name


def test_no_package_that_the_environment_has_asks_for_one_that_it_lacks() -> None:
    """What pip demands of a lock with hashes; it is why the empty wheels exist."""
    result = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_mmdet3d_is_imported_first_and_finds_the_operator(tmp_path: Path) -> None:
    """In an interpreter that knows nothing of this repository."""
    code = "from mmdet3d.apis import init_model; import mmcv._ext; print(mmcv._ext.__file__)"
    command = [sys.executable, "-I", "-W", "ignore", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.search(r"/mmcv/_ext\.", result.stdout)


def test_a_compiled_extension_in_the_same_folder_wins(tmp_path: Path) -> None:
    compiled = tmp_path / f"_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    for path in (tmp_path / "_ext.py", compiled):
        path.write_bytes(b"")
    spec = importlib.machinery.PathFinder.find_spec("_ext", [str(tmp_path)])
    assert spec is not None
    assert spec.origin == str(compiled)
