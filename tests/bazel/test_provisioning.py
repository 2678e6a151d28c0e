"""bazelw and its helpers: whose cache is used, how its path is written, what an unpacked root may hold.

The shell functions are sourced and called on folders made here; nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bazel.installer import install_env_module

HELPERS = Path.cwd() / "third_party/bazel"
# Each lies in one folder name of a cache's path.
FITTING = ("plain", "two words", "Jürgen", "a+b@c,d=e~f")
ODD = (
    'quo"te',
    "apo'strophe",
    "back\\slash",
    "do$lar",
    "semi;colon",
    "co:lon",
    "st*r",
    "new\nline",
    "ha#sh",
    "per%cent",
)


def shell(script: str, *, source: str = "cache.sh") -> subprocess.CompletedProcess[str]:
    """Runs lines of bash after sourcing a helper, with the helper's own strictness."""
    text = f"set -euo pipefail\nsource {shlex.quote(str(HELPERS / source))}\n{script}"
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)


def open_cache(folder: Path) -> subprocess.CompletedProcess[str]:
    return shell(f"open_cache {shlex.quote(str(folder))}")


def bazel_words(line: str) -> list[str]:
    """A bazelrc's words as Bazel's client splits them: a backslash keeps the next character, `#` ends the line."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    characters = iter(line)
    for character in characters:
        if character == "\\":
            word = (word or "") + next(characters)
        elif quote or character in "'\"":
            word = word or ""
            if character == quote:
                quote = ""
            elif quote:
                word += character
            else:
                quote = character
        elif character == "#":
            break
        elif character.isspace():
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + character
    return words if word is None else [*words, word]


@pytest.mark.parametrize("name", [*FITTING, *(name for name in ODD if "\n" not in name), "a  b", " lead"])
def test_a_path_is_one_word_of_a_bazelrc(name: str) -> None:
    written = shell(f"bazelrc_word {shlex.quote('/cache/' + name)}").stdout.removesuffix("\n")
    assert bazel_words(f"build --disk_cache={written}/disk") == ["build", f"--disk_cache=/cache/{name}/disk"]


def test_a_cache_is_made_for_its_user_alone(tmp_path: Path) -> None:
    cache = tmp_path / "made" / "two words"
    assert open_cache(cache).returncode == 0
    assert [(path.name, path.stat().st_mode & 0o777) for path in (cache, *sorted(cache.iterdir()))] == [
        ("two words", 0o700),
        ("disk", 0o700),
        ("python", 0o700),
    ]
    assert open_cache(cache).returncode == 0


@pytest.mark.parametrize("name", [*FITTING, *ODD])
def test_both_helpers_take_and_refuse_the_same_paths(name: str, tmp_path: Path) -> None:
    cache = tmp_path / name
    cache.mkdir(mode=0o700)
    by_shell = open_cache(cache)
    by_python = subprocess.run(
        [sys.executable, "-c", "import sys, pathlib; from tests.bazel.installer import install_env_module as module\n"
         "module().check_cache(pathlib.Path(sys.argv[1]))", str(cache)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    expected = 1 if name in ODD else 0
    assert (by_shell.returncode, by_python.returncode) == (expected, expected), by_shell.stderr + by_python.stderr
    if expected:
        assert "XDG_CACHE_HOME=" in by_shell.stderr
        assert "XDG_CACHE_HOME=" in by_python.stderr
        assert "Traceback" not in by_python.stderr


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
@pytest.mark.parametrize("inside", ["", "python", "provisioned.bazelrc"])
def test_a_cache_that_others_may_write_is_refused(mode: int, inside: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    if inside:
        (cache / inside).touch()
    (cache / inside).chmod(mode)
    refused = open_cache(cache)
    assert refused.returncode == 1
    assert str(cache / inside) in refused.stderr
    remedy = re.search(r"chmod -R go-w [^;]+(?=;)", refused.stderr)
    assert remedy is not None
    subprocess.run(["bash", "-c", remedy[0]], check=True)
    if inside == "python":  # a file stood for the folder
        (cache / inside).unlink()
    assert open_cache(cache).returncode == 0


def test_a_cache_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody else is made of the user who runs this: `id` and `getuid` name another for a moment."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (tmp_path / "id").write_text("#!/bin/sh\n[ $1 = -u ] && echo 12345 || echo somebody\n")
    (tmp_path / "id").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    refused = open_cache(cache)
    assert refused.returncode == 1
    assert f"{cache} is not owned by somebody" in refused.stderr
    with pytest.raises(SystemExit, match=r"not to 12345, and what lies in it is run; remove it, or name another"):
        install_env_module().check_cache(cache)


def test_bazelw_refuses_before_anything_is_run(tmp_path: Path) -> None:
    (tmp_path / "centerpoint-bazel").mkdir()
    (tmp_path / "centerpoint-bazel").chmod(0o777)
    (tmp_path / "bazelisk").write_text("#!/bin/sh\necho RAN\n")
    (tmp_path / "bazelisk").chmod(0o755)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["CENTERPOINT_PYTHON"] = sys.executable
    command = ["bash", "bazelw", "version"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (36, "")
    assert "others may write to" in refused.stderr
    (tmp_path / "centerpoint-bazel").chmod(0o755)
    accepted = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (accepted.returncode, accepted.stdout) == (0, "RAN\n"), accepted.stderr


def test_set_uid_bits_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    modes = {"su": 0o4755, "wall": 0o2755, "bash": 0o755, "data": 0o644}
    for name, mode in modes.items():
        (tmp_path / "usr/bin" / name).touch()
        (tmp_path / "usr/bin" / name).chmod(mode)
    (tmp_path / "usr/lib").symlink_to("bin")
    (tmp_path / "usr/bin").chmod(0o2755)
    dropped = shell(f"drop_privileges {shlex.quote(str(tmp_path))}", source="provision.sh")
    assert dropped.returncode == 0, dropped.stderr
    assert (tmp_path / "usr/bin").stat().st_mode & 0o7777 == 0o755
    kept = {name: (tmp_path / "usr/bin" / name).stat().st_mode & 0o7777 for name in modes}
    assert kept == {name: mode & 0o777 for name, mode in modes.items()}


RIGHT = {
    "bazel-bootstrap": "7.7.1+ds-8+b1",
    "bazel-bootstrap-data": "7.7.1+ds-8",
    "bazel-rules-python": "0.22.1-3",
    "bazel-skylib": "1.9.1-2",
    "gcc": "4:15.2.0-4",
}


def check_versions(packages: dict[str, str]) -> subprocess.CompletedProcess[str]:
    lines = "\n".join(f"{name} {version}" for name, version in packages.items())
    return shell(f"check_versions 'the suite' <<<{shlex.quote(lines)}", source="provision.sh")


def test_versions_that_the_tree_names_are_taken() -> None:
    assert check_versions(RIGHT).returncode == 0, check_versions(RIGHT).stderr
    assert check_versions(RIGHT | {"bazel-skylib": "1.3.0-1"}).returncode == 0


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("bazel-bootstrap", "7.7.2+ds-1"),
        ("bazel-bootstrap", "8.0.0-1"),
        ("bazel-bootstrap", "7.7.10-1"),
        ("bazel-bootstrap-data", "7.7.0+ds-3"),
        ("bazel-rules-python", "1.0.0-1"),
        ("bazel-skylib", "1.2.9-1"),
    ],
)
def test_another_version_is_refused_by_name(name: str, version: str) -> None:
    refused = check_versions(RIGHT | {name: version})
    assert refused.returncode == 1
    assert f"the suite: {name} is {version}; this repository needs" in refused.stderr
    assert "CENTERPOINT_DEBIAN_MIRROR" in refused.stderr


def test_a_missing_package_is_refused_by_name() -> None:
    refused = check_versions({name: version for name, version in RIGHT.items() if name != "bazel-bootstrap"})
    assert refused.returncode == 1
    assert "bazel-bootstrap is missing" in refused.stderr


def test_the_label_is_that_of_the_tree() -> None:
    """Provisioning's versions, the one of Bazel for everybody and the modules' agree."""
    facts = shell('echo "$REVISION"; printf "%s\\n" "${EXPECTED[@]}"', source="provision.sh").stdout.splitlines()
    bazel = Path(".bazelversion").read_text().strip()
    modules = dict(re.findall(r'bazel_dep\(name = "(\w+)", version = "([^"]+)"\)', Path("MODULE.bazel").read_text()))
    assert re.fullmatch(re.escape(bazel) + r"-r\d+", facts[0])
    assert facts[1:] == [
        f"bazel-bootstrap = {bazel}",
        f"bazel-bootstrap-data = {bazel}",
        f"bazel-rules-python = {modules['rules_python']}",
        f"bazel-skylib >= {modules['bazel_skylib']}",
    ]
