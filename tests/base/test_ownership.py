"""One run at a time in a folder or for a file, and no litter of killed ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from base.command import run_command
from base.errors import ConfigError
from base.files import atomic_path, write_json
from base.ownership import owned_file, owned_folder, owned_name

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_the_second_run_is_told_who_has_the_folder(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom base.ownership import owned_folder\n"
        f"with owned_folder({str(tmp_path)!r}, '--out'):\n    print('mine', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        message = (
            rf"Another run is using '.*' \(process {other.pid}\)\. Wait for it, or choose another folder with --out"
        )
        with pytest.raises(ConfigError, match=message), owned_folder(tmp_path, "--out"):
            pytest.fail("entered")
        other.kill()
    with owned_folder(tmp_path, "--out"):
        pass
    assert names(tmp_path) == [], "a lock leaves nothing behind, not even when its holder was killed"


def test_the_second_run_for_a_file(tmp_path: Path) -> None:
    with owned_file(tmp_path / "a.json", "--out"):
        with (
            pytest.raises(ConfigError, match=rf"Another run is writing '.*a\.json' \(process {os.getpid()}\)"),
            owned_file(tmp_path / "a.json", "--out"),
        ):
            pytest.fail("entered")
        with owned_file(tmp_path / "b.json", "--out"):
            write_json(tmp_path / "b.json", 1)
        write_json(tmp_path / "a.json", 1)
    assert names(tmp_path) == ["a.json", "b.json"]


def test_a_lock_that_a_killed_run_left_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / ".a.json.centerpoint.lock").touch()
    with owned_file(tmp_path / "a.json", "--out"):
        pass
    assert names(tmp_path) == []


def test_a_folder_is_made_and_removed_again_where_nothing_came_of_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), owned_folder(tmp_path / "a" / "b", "--out"):
        raise RuntimeError
    assert names(tmp_path) == []
    with pytest.raises(RuntimeError), owned_folder(tmp_path / "a" / "b", "--out") as folder:  # noqa: PT012
        (folder / "log").write_text("x")
        raise RuntimeError
    assert names(tmp_path) == ["a", "a/b", "a/b/log"]
    with pytest.raises(RuntimeError), owned_name(tmp_path / "c" / "bundle", "--out"):
        raise RuntimeError
    assert names(tmp_path) == ["a", "a/b", "a/b/log"]


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError), owned_folder(tmp_path / "empty", "--out"):
        raise RuntimeError
    assert names(tmp_path) == ["empty"]


def test_records_of_an_earlier_run_go_and_other_files_stay(tmp_path: Path) -> None:
    for name in ("results.json", "model.onnx"):
        (tmp_path / name).write_text("old")
    with owned_folder(tmp_path, "--out", records=("results.json",)):
        assert names(tmp_path) == ["model.onnx"]


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "manifest.json"
    marks = {"manifest.json": b'"schema_version"'}
    for content in ('{"name": "web page"}', "not JSON"):
        theirs.write_text(content)
        with (
            pytest.raises(ConfigError, match=r"manifest\.json' is not of this project"),
            owned_folder(tmp_path, "--out", ("manifest.json",), marks),
        ):
            pass
        assert theirs.read_text() == content
    for content in ("{}\n", '{"schema_version": 1}'):
        theirs.write_text(content)
        with owned_folder(tmp_path, "--out", ("manifest.json",), marks):
            assert names(tmp_path) == []


def test_a_link_to_a_folder_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with (
        pytest.raises(ConfigError, match=r"--out is '.*link', a symbolic link to '.*folder'"),
        owned_folder(tmp_path / "link", "--out"),
    ):
        pass


@pytest.mark.parametrize("depth", ["a.bin", "onnx/a.bin", "detections/a/b/a.bin"])
def test_what_a_killed_run_left_is_removed_wherever_it_lies(tmp_path: Path, depth: str) -> None:
    target = tmp_path / depth
    target.parent.mkdir(parents=True, exist_ok=True)
    program = (
        "import os, signal\nfrom base.files import atomic_dir, atomic_path\n"
        f"with atomic_path({str(target)!r}) as t, atomic_dir({str(target) + '_folder'!r}) as folder:\n"
        "    t.write_bytes(b'half')\n    (folder / 'half').touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(target.parent.glob(".*.part"))) == 2
    (target.parent / ".theirs.part").write_text("another program's")
    with owned_folder(tmp_path, "--out"):
        assert [p.name for p in tmp_path.rglob(".*")] == [".theirs.part"]


def test_what_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    """The folder around another run's: what that one writes is locked."""
    with owned_folder(tmp_path / "inner", "--out") as inner, atomic_path(inner / "a") as temporary:
        temporary.write_text("x")
        with owned_folder(tmp_path, "--out"):
            assert temporary.exists()
    assert names(tmp_path) == ["inner", "inner/a"]


def test_a_stopped_run_says_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock of the file system is another: behind by a tick of the kernel, or by what a server's is.
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 5)
    (tmp_path / "earlier").touch()
    os.utime(tmp_path / "earlier", (1, 1))
    with pytest.raises(KeyboardInterrupt) as caught, owned_folder(tmp_path, "--out"):  # noqa: PT012 - the body is the run
        (tmp_path / "onnx").mkdir()
        (tmp_path / "onnx" / "whole.onnx").touch()
        (tmp_path / ".half.centerpoint.part").touch()
        raise KeyboardInterrupt
    assert caught.value.__notes__ == [f"'{tmp_path}' has of this run: onnx/whole.onnx."]
    assert names(tmp_path) == ["earlier", "onnx", "onnx/whole.onnx"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "error (configuration): --out: '{}' is no folder. Choose another path."),
        ("file/inside", "error (system): '{}': Not a directory. A part of the path is a file; give a path of folders."),
        ("n" * 300, "error (system): '{}': File name too long. Give a shorter name."),
        ("/dev/null", "error (configuration): --out: '{}' is no folder. Choose another path."),
        ("/proc/nothing", "error (system): '{}': No such file or directory."),
    ],
)
def test_absurd_places(tmp_path: Path, path: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / path

    def for_a_folder() -> None:
        with owned_folder(place, "--out"):
            pytest.fail("entered")

    def for_a_file() -> None:
        with owned_file(place / "x", "--out"):
            pytest.fail("entered")

    for command in (for_a_folder, for_a_file):
        assert run_command(command) == 2
        assert capsys.readouterr().err.splitlines()[0] == message.format(place)


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"--out is '.*', which is a folder; name the file to write"),
        owned_file(tmp_path, "--out"),
    ):
        pytest.fail("entered")


def test_a_folder_in_which_others_are_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that vanish while they are looked at, or may not be read, are none of this run's business."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".x.centerpoint.part").touch()
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        if Path(path).name == "b":
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with owned_folder(tmp_path, "--out"):
        monkeypatch.undo()
        assert names(tmp_path) == ["a", "a/.x.centerpoint.part", "b", "b/.x.centerpoint.part", "c"]
