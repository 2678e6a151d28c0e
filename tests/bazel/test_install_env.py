"""The environment's installer: its folder follows the lock, and a killed run is not taken for a finished one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def install_env() -> ModuleType:
    path = Path.cwd() / "third_party/python/install_env.py"
    spec = importlib.util.spec_from_file_location("install_env", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_key_follows_the_lock(install_env: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("a==1\n")
    first = install_env.environment_key([lock])
    assert install_env.environment_key([lock]) == first
    lock.write_text("a==2\n")
    assert install_env.environment_key([lock]) != first


def test_failed_install_leaves_no_environment(
    install_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("no-such-distribution==1 --hash=sha256:" + "0" * 64 + "\n")
    cache = tmp_path / "cache"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(install_env, "pip_install", killed)
    monkeypatch.setattr(sys, "argv", ["install_env", "--lock", str(lock), "--cache", str(cache)])
    with pytest.raises(KeyboardInterrupt):
        install_env.main()
    assert not (cache / install_env.environment_key([lock])).exists()


def test_finished_environment_is_used_again(
    install_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("a==1\n")
    calls: list[object] = []
    monkeypatch.setattr(install_env, "pip_install", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "argv", ["install_env", "--lock", str(lock), "--cache", str(tmp_path / "cache")])
    assert install_env.main() == 0
    assert install_env.main() == 0
    assert len(calls) == 1
    printed = capsys.readouterr().out.split()
    assert printed[0] == printed[1]
    assert Path(printed[0], "bin", "python").exists()


def test_locks_name_no_host_and_no_path() -> None:
    text = (Path.cwd() / "requirements_lock.txt").read_text()
    assert "://" not in text
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    options = [line for line in lines if line.startswith("-")]
    assert options == ["--find-links third_party/python/wheels"]  # relative to the lock, inside the repository
    packages = [line for line in lines if line not in options]
    assert len(packages) > 50
    assert all("==" in line and line.endswith("\\") for line in packages)
