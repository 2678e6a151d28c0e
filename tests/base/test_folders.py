"""A folder that is made as a whole replaces its own former self, and nothing that is somebody else's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from base import folders
from base.errors import ConfigError
from base.files import atomic_dir, atomic_path
from base.signals import Stopped, listening

ROOT = Path(__file__).resolve().parents[2]


def make(target: Path, **files: str) -> Path:
    with atomic_dir(target) as temporary:
        for name, text in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(text)
    return target


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(target: Path, reason: str) -> None:
    before = content(target)
    with pytest.raises(ConfigError, match=reason), atomic_dir(target):
        pytest.fail("the work was begun")
    assert content(target) == before
    assert not [p.name for p in target.parent.iterdir() if p.name.endswith(".part")]


def test_what_it_made_it_replaces_again_and_again(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        make(tmp_path / "out", a=text, **{"inner/b": text})
        assert content(tmp_path / "out") == {"a": text, "inner/b": text}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.centerpoint.made", "out"]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert content(make(tmp_path / "out", a="new")) == {"a": "new"}


def test_a_folder_of_files_that_nobody_vouches_for(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    refused(tmp_path / "out", r"out' is not replaced: no command of this project made it .*holds 'thesis\.tex'.*Choose")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda out: (out / "notes.txt").write_text("mine"), "'notes.txt' in it was added since it was made"),
        (lambda out: (out / ".git").mkdir(), r"'\.git/' in it was added"),
        (lambda out: (out / "inner" / "more").write_text("mine"), "'inner/more' in it was added"),
        (lambda out: (out / "inner" / "b").write_text("tuned by hand"), "'inner/b' in it was changed"),
        (lambda out: (out / "link").symlink_to("/etc"), "'link' in it was added"),
    ],
)
def test_what_was_put_into_its_folder_stays(tmp_path: Path, change: Callable[[Path], object], reason: str) -> None:
    out = make(tmp_path / "out", a="a", **{"inner/b": "b"})
    change(out)
    refused(out, reason)


def test_a_removed_file_is_nobody_s_loss(tmp_path: Path) -> None:
    out = make(tmp_path / "out", a="a", b="b")
    (out / "b").unlink()
    assert content(make(out, a="new")) == {"a": "new"}


def test_a_file_that_comes_during_the_work_stays(tmp_path: Path) -> None:
    out = make(tmp_path / "out", a="a")
    with pytest.raises(ConfigError, match=r"'late' in it was added"), atomic_dir(out) as temporary:  # noqa: PT012
        (temporary / "new").write_text("new")
        (out / "late").write_text("mine")
    assert content(out) == {"a": "a", "late": "mine"}


def test_the_current_folder_and_what_it_lies_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make(tmp_path / "out", **{"inner/b": "b"})
    monkeypatch.chdir(out / "inner")
    refused(out, "the current folder lies in it")
    monkeypatch.chdir(out)
    refused(out, "the current folder is there")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(out / "inner")
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path / "link"))
    refused(out, "the current folder lies in it")


def test_home_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make(tmp_path / "out", a="a")
    monkeypatch.setenv("HOME", str(out))
    refused(out, "your home is there")


def test_what_is_read_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = make(tmp_path / "out", model="weights")
    with pytest.raises(ConfigError, match=r"'.*model', which is read, lies in it"), atomic_dir(out, [out / "model"]):
        pass
    assert content(out) == {"model": "weights"}


def test_links_files_and_mounts(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", a="a")
    (tmp_path / "link").symlink_to(elsewhere)
    refused(tmp_path / "link", r"it is a symbolic link to '.*elsewhere'")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="it is no folder"), atomic_dir(tmp_path / "file"):
        pass
    with pytest.raises(ConfigError, match="a file system is mounted there"), atomic_dir("/"):
        pass


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    out = make(tmp_path / "out", a="a")
    with pytest.raises(OSError, match="disk"), atomic_dir(out) as temporary:  # noqa: PT012 - the body is the work
        (temporary / "new").write_text("half")
        raise OSError(28, "disk")
    assert content(out) == {"a": "a"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.centerpoint.made", "out"]


def test_two_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_dir(out) as temporary:
        (temporary / "first").write_text("1")
        with pytest.raises(ConfigError, match=rf"Another run \(process {os.getpid()}\) is writing '.*out'"):
            make(out, second="2")
    assert content(out) == {"first": "1"}


def test_a_folder_that_another_run_uses(tmp_path: Path) -> None:
    from base.ownership import owned_folder

    out = make(tmp_path / "out", a="a")
    with owned_folder(out, "--out"), pytest.raises(ConfigError, match=r"Another run .* is using '.*out'"):
        make(out, a="b")
    assert content(out) == {"a": "a"}


# Ends itself with SIGKILL in the n-th call of the system that changes names in folders.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from base import folders, leftovers
left = int(sys.argv[2])
def counted(call):
    def then(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return then
for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (Path, "write_text"), (shutil, "rmtree"),
                    (folders, "_exchange")):
    setattr(owner, name, counted(getattr(owner, name)))
if sys.argv[3] == "two steps":
    folders._exchange = lambda one, other: False
with folders.atomic_dir(sys.argv[1]) as temporary:
    for name in "abc":
        (temporary / name).write_text("new")
print("done")
"""


@pytest.mark.parametrize("way", ["one step", "two steps"])
def test_killed_anywhere_it_is_old_or_new_and_the_next_run_clears_up(tmp_path: Path, way: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    old, new = dict.fromkeys("ab", "old"), dict.fromkeys("abc", "new")
    outcomes = set()
    for number in range(1, 40):
        out = make(tmp_path / str(number) / "out", **old)
        command = [sys.executable, "-c", KILLED, str(out), str(number), way]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            assert content(out) == new
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        found = content(out) if out.exists() else {}
        outcomes.add("absent" if not found else "old" if found == old else "new")
        assert found in ((old, new, {}) if way == "two steps" else (old, new))
        # The next run, with other content.
        assert content(make(out, d="newer")) == {"d": "newer"}
        assert sorted(p.name for p in out.parent.iterdir()) == [".out.centerpoint.made", "out"]
    else:
        pytest.fail("the command has more steps than were tried")
    assert number > 8
    assert outcomes == ({"old", "new", "absent"} if way == "two steps" else {"old", "new"})


@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_waits_until_what_is_removed_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A former folder, or what failed work has written: removed file by file, with a signal after the first."""
    out = make(tmp_path / "out", a="former", b="former")
    remove = shutil.rmtree

    def interrupted(path: Path) -> None:
        next(path.iterdir()).unlink()
        os.kill(os.getpid(), signal.SIGINT)
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(Stopped), listening(), atomic_dir(out) as temporary:  # noqa: PT012 - the body is the work
        for name in "ab":
            (temporary / name).write_text("new")
        if fails:
            raise OSError(28, "disk")
    assert content(out) == dict.fromkeys("ab", "former" if fails else "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.centerpoint.made", "out"]


def test_what_was_moved_aside_comes_back(tmp_path: Path) -> None:
    """A kill between the two renames, then a run that fails: the former folder is there again."""
    out = make(tmp_path / "out", a="old")
    out.rename(tmp_path / ".out.centerpoint.old")
    with pytest.raises(RuntimeError, match="bad input"), atomic_dir(out):
        raise RuntimeError("bad input")
    assert content(out) == {"a": "old"}


def test_where_folders_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", a="old")
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    assert content(make(tmp_path / "out", b="new")) == {"b": "new"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.centerpoint.made", "out"]


def test_a_file_does_not_take_the_place_of_a_device_or_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(Exception, match="is no regular file but a device, a pipe or a socket"), atomic_path(path):
            pytest.fail("entered")
    with pytest.raises(IsADirectoryError), atomic_path(tmp_path):
        pytest.fail("entered")
    assert not Path("/dev/null").is_file()


def test_a_link_to_a_file_is_replaced_and_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "mine").symlink_to("theirs")
    with atomic_path(tmp_path / "mine") as temporary:
        temporary.write_text("mine")
    assert ((tmp_path / "mine").read_text(), (tmp_path / "theirs").read_text()) == ("mine", "theirs")


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127)
    with atomic_path(target) as temporary:
        temporary.write_text("x")
    assert target.read_text() == "x"
