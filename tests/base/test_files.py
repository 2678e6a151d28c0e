"""Files are whole or absent, JSON is stable, paths are the user's."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from base.errors import DataError
from base.files import atomic_dir, atomic_path, read_json, sha256_file, user_path, write_json

ROOT = Path(__file__).resolve().parents[2]


def test_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="disk on fire"), atomic_path(target) as temporary:  # noqa: PT012 - the body is the write
        temporary.write_bytes(b"half")
        raise RuntimeError("disk on fire")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_killed_write_leaves_no_target(tmp_path: Path) -> None:
    target = tmp_path / "model.engine"
    program = (
        "import sys, time\nfrom base.files import atomic_path\n"
        f"with atomic_path({str(target)!r}) as t:\n"
        "    t.write_bytes(b'half')\n    print('writing', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, env=_env())
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"writing"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not target.exists()
    assert all(p.name.startswith(".") for p in tmp_path.iterdir())


def test_atomic_dir_replaces_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with atomic_dir(target) as temporary:
        (temporary / "stale").write_text("x")
    with atomic_dir(target) as temporary:
        (temporary / "fresh").write_text("y")
        assert (target / "stale").exists()
    assert sorted(p.name for p in target.iterdir()) == ["fresh"]


def test_artifacts_are_readable_by_others(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("x")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_bytes_do_not_depend_on_insertion_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1, 2]})
    time.sleep(0.01)
    write_json(tmp_path / "b.json", {"a": [1, 2], "b": 1})
    assert sha256_file(tmp_path / "a.json") == sha256_file(tmp_path / "b.json")
    assert read_json(tmp_path / "a.json") == {"a": [1, 2], "b": 1}
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"map": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_broken_json_names_file_and_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1,')
    with pytest.raises(DataError, match=r"a\.json' is not valid JSON: .*line 1"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"b\.json' does not exist"):
        read_json(tmp_path / "b.json")


def test_sha256_is_the_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"centerpoint")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"centerpoint").hexdigest()


def test_relative_paths_start_where_the_command_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    assert user_path("work_dirs") == tmp_path / "work_dirs"
    assert user_path("/abs") == Path("/abs")
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY")
    assert user_path("x") == Path.cwd() / "x"


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
