"""Where a command would write lies a file of somebody else: it stays, and the command says so and ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.spawner import Spawner
from tests.faults.writers import WRITERS, Writer, inputs

_THEIRS = b"\x80\x02what took somebody a week\n"
# Pictures of a preview, which have numbers for names, and logs of builders.
_PASSED_OVER = ("bev_", ".engine.log")
_A_FILE = [writer for writer in WRITERS if writer.out != "out"]
_INTO_FOLDERS = [writer for writer in WRITERS if writer.out == "out" and not writer.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("theirs")
    inputs(made)
    return made


@pytest.fixture
def empty(folder: Path) -> Iterator[Path]:
    yield folder
    shutil.rmtree(folder / "out", ignore_errors=True)


def _run(writer: Writer, folder: Path, commands: Spawner) -> tuple[int, str]:
    process = commands.start(writer.module, writer.command_line(folder), folder, folder / "run.log")
    return process.wait(), process.output()


@pytest.mark.parametrize("writer", _INTO_FOLDERS, ids=lambda writer: writer.name)
def test_no_file_of_somebody_else_is_replaced(writer: Writer, empty: Path, commands: Spawner) -> None:
    out = empty / "out"
    code, said = _run(writer, empty, commands)
    assert code == 0, said
    written = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    names = [name for name in written if not any(part in name.name for part in _PASSED_OVER)]
    assert names
    for name in names:
        shutil.rmtree(out)
        (out / name).parent.mkdir(parents=True)
        (out / name).write_bytes(_THEIRS)
        code, said = _run(writer, empty, commands)
        assert (out / name).read_bytes() == _THEIRS, f"{name} is lost: {said[-300:]}"
        assert code == 2, said
        assert "Traceback" not in said
        assert str(out / name) in said or f"'{out}' is not replaced" in said


@pytest.mark.parametrize("writer", _A_FILE, ids=lambda writer: writer.name)
def test_no_input_is_replaced(writer: Writer, empty: Path, commands: Spawner) -> None:
    """What the command writes to is one of the files that it reads, by the same name and by another."""
    given = [argument.rpartition("=")[2] for argument in writer.command_line(empty)]
    files = sorted({Path(name) for name in given if Path(name).is_file() and Path(name).is_relative_to(empty)})
    for file in files:
        before = file.read_bytes()
        link = empty / f"link{(empty / writer.out).suffix}"
        os.link(file, link)
        for out in (file, link):
            wanted = [argument.replace(str(empty / writer.out), str(out)) for argument in writer.command_line(empty)]
            process = commands.start(writer.module, wanted, empty, empty / "run.log")
            assert process.wait() == 2, process.output()
            assert file.read_bytes() == before, f"{file.name} is lost"
        link.unlink()
