"""Configs are programs: whatever one raises is an error that names the file, the line and the cause."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from base.errors import ConfigError
from base.python_configs import run_config


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        run_config(path, "Model config", missing="Give its path.")
    return str(caught.value)


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "cause", "line"),
    [
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError: division by zero", 2),
        ("raise SystemExit(3)\n", "SystemExit: 3", 1),
        ("x = (\n", "SyntaxError: '(' was never closed", 1),
        ("x = 1\ntype Y = int\n", "SyntaxError: invalid syntax", 2),
        ("def f():\n    return f()\n\nf()\n", "RecursionError: maximum recursion depth exceeded", 2),
        ("assert False, 'no'\n", "AssertionError: no", 1),
        ("x = [0] * 10**13\n", "MemoryError", 1),
        ("raise BaseExceptionGroup('g', [KeyError('k')])\n", "ExceptionGroup: g", 1),
        (
            "class E(Exception):\n    def __str__(self):\n        raise ValueError\n\nraise E\n",
            "E: <exception str()",
            5,
        ),
        ("__import__('not_to_be_found')\n", "ModuleNotFoundError: No module named 'not_to_be_found'", 1),
    ],
)
def test_the_cause_and_its_line(tmp_path: Path, text: str, cause: str, line: int) -> None:
    message = refused(written(tmp_path, "config.py", text))
    assert message.startswith(f"Model config '{tmp_path}/config.py' cannot be read: ")
    assert cause in message
    assert f"({tmp_path}/config.py, line {line})" in message


def test_the_line_may_be_a_bases(tmp_path: Path) -> None:
    written(tmp_path, "base.py", "\n\nx = unknown\n")
    message = refused(written(tmp_path, "config.py", "_base_ = ['base.py']\n"))
    assert f"NameError: name 'unknown' is not defined ({tmp_path}/base.py, line 3)" in message
    message = refused(written(tmp_path, "other.py", "_base_ = ['none.py']\n"))
    assert "none.py" in message
    assert "Configs name their _base_ files relative to themselves" in message


def test_bases_that_lead_back(tmp_path: Path) -> None:
    written(tmp_path, "a.py", "_base_ = 'b.py'\n")
    written(tmp_path, "b.py", "_base_ = ['a.py']\n")
    assert "its _base_ leads back to itself: a.py → b.py → a.py" in refused(tmp_path / "a.py")


def test_values_that_hold_themselves(tmp_path: Path) -> None:
    assert "Does a value hold itself?" in refused(written(tmp_path, "a.py", "x = []\nx.append(x)\n"))


def test_what_is_no_python_file(tmp_path: Path) -> None:
    assert "does not exist. Give its path." in refused(tmp_path / "none.py")
    assert "is a folder" in refused(tmp_path)
    assert "no file can have that name" in refused(Path("a\0b.py"))
    (tmp_path / "binary.py").write_bytes(b"\xff\x00" * 9)
    assert "it is no text in UTF-8" in refused(tmp_path / "binary.py")
    assert "its name does not end in .py" in refused(written(tmp_path, "config.yaml", "x: 1\n"))
    os.mkfifo(tmp_path / "pipe.py")
    assert "is a pipe" in refused(tmp_path / "pipe.py")
    with (tmp_path / "large.py").open("wb") as stream:
        stream.truncate(1 << 30)
    assert "at most 1048576 are read" in refused(tmp_path / "large.py")


def test_a_signal_is_no_error_of_the_config(tmp_path: Path) -> None:
    file = written(tmp_path, "config.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        run_config(file, "Model config")


def test_a_config_from_outside_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "base.python_configs"):
        assert run_config(written(tmp_path, "config.py", "x = 1\n"), "Model config").x == 1
        shipped = Path(__file__).parents[2] / "configs" / "deploy" / "deploy_config.py"
        run_config(shipped, "Deploy config")
    (record,) = caplog.records
    assert "is Python from outside the repository and runs with your rights" in record.getMessage()


def test_a_link_to_a_config_of_the_repository_is_not_outside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    link = tmp_path / "config.py"
    link.symlink_to(os.path.realpath(Path(__file__).parents[2] / "configs" / "deploy" / "deploy_config.py"))
    with caplog.at_level(logging.INFO, "base.python_configs"):
        run_config(link, "Deploy config")
    assert not caplog.records
