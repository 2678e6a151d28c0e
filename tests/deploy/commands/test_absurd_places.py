"""Places where nothing can be written: every command says so before its work, with exit code 2 and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from base.command import run_command
from base.errors import ConfigError
from base.files import user_path
from datasets import create_t4_infos
from datasets.synthetic import __main__ as synthetic
from datasets.synthetic import preview
from deploy import autoware_bundle, detect, evaluate, export, predict
from eval import score
from export.tools import build_engines, calibrate, export_onnx
from quant import centerpoint_quantization as quantization

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment

FOLDERS = {
    "predict": (predict.main, "--out", ["--points=scan.bin"]),
    "evaluate": (evaluate.main, "--out", ["--backend=pytorch", "--checkpoint=c.pth"]),
    "bundle": (autoware_bundle.main, "--out", ["--onnx-dir=onnx"]),
    "export_onnx": (export_onnx.main, "--out", ["--model-config=m.py"]),
    "build_engines": (build_engines.main, "--out", ["--onnx-dir=onnx"]),
    "calibrate": (calibrate.main, "--out", ["--model-config=m.py", "--data-root=data"]),
    "detect": (detect.main, "--out", ["--onnx-dir=onnx", "--model-config=m.py", "--data-root=data"]),
    "create_t4_infos": (create_t4_infos.main, "--out", ["--root=data"]),
    "preview": (preview.main, "--out", ["--data=data"]),
    "synthetic": (
        synthetic.main,
        "--out",
        ["--train-scenes=0", "--val-scenes=1", "--frames-per-scene=1", "--workers=1", "--overwrite"],
    ),
}
FILES: dict[str, tuple[Callable[[list[str]], int], str, list[str]]] = {
    "score": (score.main, "--out", ["--frames=frames.json"]),
    "ptq": (lambda words: quantization.main(["ptq", *words]), "--output", ["--config=m.py", "--checkpoint=c.pth"]),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    (tmp_path / "file").write_text("a file")
    return tmp_path


NAMES = {"a file": "file", "in a file": "file/inside", "too long": "n" * 300, "a device": "/dev/null"}


def place(name: str) -> str:
    return NAMES.get(name, name)


PLACES = ("a file", "in a file", "too long", "a device", "/proc/nothing", "/dev/null/x", "~nobody-of-that-name/x")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str, where: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, option, others = FOLDERS[name]
    assert main([*others, f"{option}={place(where)}"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.startswith("error (")
    assert (here / "file").read_text() == "a file"
    assert sorted(path.name for path in here.iterdir()) == ["file"]


@pytest.mark.parametrize("where", [*PLACES[1:], "/proc"])
@pytest.mark.parametrize("name", FILES)
def test_files(name: str, where: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, option, others = FILES[name]
    assert main([*others, f"{option}={place(where)}"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.startswith("error (")
    assert sorted(path.name for path in here.iterdir()) == ["file"]


@pytest.mark.parametrize("where", [*PLACES, "/proc"])
def test_the_work_folder(
    where: str, here: Path, deployment: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CENTERPOINT_DEMO_DATA", raising=False)
    options = [f"--model-config={deployment.model_config}", f"--checkpoint={deployment.checkpoint}"]
    options += [f"--data-root={deployment.data_root}", "--mode=onnx", f"--work-dir={place(where)}"]
    assert export.main(options) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(("error (configuration): ", "error (system): ", "error (input): "))
    assert sorted(path.name for path in here.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "A path is empty"),
        ("a\0b", "holds a NUL character"),
        ("a\udcff", "it is not UTF-8"),
        ("~nobody-of-that-name/x", "in the home of a user that this machine does not know"),
    ],
)
def test_what_is_no_path(text: str, message: str) -> None:
    """Of configurations and files; a command line cannot hold all of these."""
    with pytest.raises(ConfigError, match=message):
        user_path(text)


def test_a_current_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    def work() -> int:
        user_path("out")
        return 0

    assert run_command(work) == 2
    assert capsys.readouterr().err == "error (system): No such file or directory.\n"
