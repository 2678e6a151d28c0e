"""The environment's installer: its folder follows the lock, and a killed run is not taken for a finished one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.bazel.installer import install_env_module


@pytest.fixture
def install_env() -> ModuleType:
    return install_env_module()


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

    def pip_install(python: Path, *arguments: object) -> None:
        calls.append(arguments)
        site = python.parents[1] / "lib/python3.11/site-packages"
        distribute(site, "a", "1")
        (site / "a").mkdir()

    monkeypatch.setattr(install_env, "pip_install", pip_install)
    monkeypatch.setattr(install_env, "seal", lambda *_: None)  # test_relocatable.py
    monkeypatch.setattr(sys, "argv", ["install_env", "--lock", str(lock), "--cache", str(tmp_path / "cache")])
    assert install_env.main() == 0
    assert install_env.main() == 0
    assert len(calls) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == printed[1]
    facts = json.loads(printed[0])
    assert facts["lock"] == hashlib.sha256(lock.read_bytes()).hexdigest()
    assert facts["python"] == sys.version
    python = Path(facts["folder"], "bin", "python")
    assert subprocess.check_output([python, "-I", "-c", "import a; print(a.__path__)"], text=True)


def distribute(site: Path, name: str, version: str) -> None:
    """What an installed distribution leaves of itself."""
    metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


LOCK = """# made by hand
torch==2.13.0+cpu \\
    --hash=sha256:00
Typing_Extensions==4.1 \\
    --hash=sha256:00
omegaconf[extra]==2.3 ; python_version >= "3.8" \\
    --hash=sha256:00
"""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, ""),
        ({"torch": "2.13.0"}, "torch is 2.13.0, the lock says 2.13.0+cpu"),
        ({"typing-extensions": ""}, "typing-extensions is missing, the lock says 4.1"),
        ({"omegaconf": "2.4"}, "omegaconf is 2.4, the lock says 2.3"),
    ],
)
def test_installed_versions_are_the_locked_ones(
    changed: dict[str, str], message: str, install_env: ModuleType, tmp_path: Path
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK)
    versions = {"torch": "2.13.0+cpu", "typing-extensions": "4.1", "omegaconf": "2.3"} | changed
    for name, version in versions.items():
        if version:
            distribute(tmp_path / "site", name, version)
    if not message:
        install_env.check_versions(tmp_path / "site", [lock])
        return
    with pytest.raises(SystemExit) as ended:
        install_env.check_versions(tmp_path / "site", [lock])
    assert str(ended.value).endswith(f"was installed: {message}")


def test_every_pin_of_the_lock_is_known(install_env: ModuleType) -> None:
    lock = Path.cwd() / "requirements_lock.txt"
    pins = [line for line in lock.read_text().splitlines() if line[:1].isalnum()]
    assert len(install_env.locked_versions([lock])) == len(pins)


def test_locks_name_no_host_and_no_path() -> None:
    text = (Path.cwd() / "requirements_lock.txt").read_text()
    assert "://" not in text
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    options = [line for line in lines if line.startswith("-")]
    assert options == ["--find-links third_party/python/wheels"]  # relative to the lock, inside the repository
    packages = [line for line in lines if line not in options]
    assert len(packages) > 50
    assert all("==" in line and line.endswith("\\") for line in packages)
