"""Artifacts that are not whole, or not of one piece, are refused by every command that would use them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

from base.wholeness import replacing
from deploy import detect, evaluate, export, predict
from export.tools import build_engines, export_onnx

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment

ENCODER, HEAD = "pts_voxel_encoder", "pts_backbone_neck_head"
QUIET = "evaluation = dict(enabled=False)\nverification = dict(enabled=False)\n"
ENGINES_ALONE = (
    "evaluation = dict(backends=dict(pytorch=dict(enabled=False), onnx=dict(enabled=False)))\n"
    "verification = dict(enabled=False)\n"
)


@pytest.fixture(scope="module")
def made(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Work folders of two whole runs, of two checkpoints."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    import torch

    folder = tmp_path_factory.mktemp("made")
    (folder / "config.py").write_text(QUIET)
    content = torch.load(deployment.checkpoint, weights_only=True)
    content["state_dict"]["pts_bbox_head.shared_conv.conv.weight"] *= 1.5
    torch.save(content, folder / "other.pth")
    runs = {"one": deployment.checkpoint, "other": folder / "other.pth"}
    for name, checkpoint in runs.items():
        options = ["--mode=both", f"--work-dir={folder / name}", f"--checkpoint={checkpoint}", "--log-level=ERROR"]
        options += [f"--deploy-config={folder / 'config.py'}", f"--model-config={deployment.model_config}"]
        assert export.main(options) == 0
        shutil.copy(checkpoint, folder / name / "checkpoint.pth")
    return {name: folder / name for name in runs}


@pytest.fixture
def work(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the first run, to spoil."""
    return Path(shutil.copytree(made["one"], tmp_path / "work"))


@pytest.fixture
def deploy(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """`deploy(work, *options)`: the run that would use the engines of a work folder; exit code and messages."""
    (tmp_path / "config.py").write_text(ENGINES_ALONE)

    def run(work: Path, *options: str) -> tuple[int, str]:
        given = [f"--work-dir={work}", f"--deploy-config={tmp_path / 'config.py'}", "--log-level=WARNING"]
        given += [f"--model-config={deployment.model_config}", f"--data-root={deployment.data_root}"]
        given += ["--num-samples=-1", "--num-verify-samples=1"]
        capsys.readouterr()
        code = export.main(["--mode=none", f"--checkpoint={work / 'checkpoint.pth'}", *given, *options])
        return code, capsys.readouterr().err

    return run


def test_what_a_run_made_is_taken(deploy: Callable[..., tuple[int, str]], work: Path) -> None:
    code, error = deploy(work)
    # Without a GPU nothing else can be done with them than to accept them.
    assert "error" not in error
    assert code in (0, 1)
    results = json.loads((work / "results.json").read_text())
    reasons = [step["reason"] for step in results["steps"] if step["status"] == "SKIPPED"]
    assert all("CUDA" in reason or "GPU" in reason for reason in reasons)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def swap(path: Path, work: Path, other: Path) -> None:
    shutil.copy(other / path.relative_to(work), path)


def swap_with_manifest(work: Path, other: Path) -> None:
    for suffix in (".engine", ".engine.json"):
        swap(work / "tensorrt" / f"{HEAD}{suffix}", work, other)


SPOILT: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "no manifest": (
        lambda work, other: (work / "tensorrt" / f"{HEAD}.engine.json").unlink(),
        rf"{HEAD}.engine' has no manifest ('{HEAD}.engine.json')",
    ),
    "a truncated engine": (
        lambda work, other: cut(work / "tensorrt" / f"{ENCODER}.engine"),
        f"{ENCODER}.engine' is not the file that its manifest '{ENCODER}.engine.json' describes",
    ),
    "an engine with a changed byte": (
        lambda work, other: (work / "tensorrt" / f"{HEAD}.engine").write_bytes(
            (work / "tensorrt" / f"{HEAD}.engine").read_bytes()[:-1] + b"\0"
        ),
        f"{HEAD}.engine' is not the file that its manifest",
    ),
    "an engine of another run": (
        lambda work, other: swap(work / "tensorrt" / f"{HEAD}.engine", work, other),
        f"{HEAD}.engine' is not the file that its manifest",
    ),
    "an engine and its manifest of another run": (
        swap_with_manifest,
        f"{HEAD}.engine' was built from another '{HEAD}.onnx' than the one in",
    ),
    "half a folder": (
        lambda work, other: (work / "tensorrt" / f"{HEAD}.engine").unlink(),
        f"which lacks {HEAD}.engine",
    ),
    "a manifest that is none": (
        lambda work, other: (work / "tensorrt" / f"{HEAD}.engine.json").write_text("{}"),
        f"{HEAD}.engine.json'",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_engines_are_refused(
    deploy: Callable[..., tuple[int, str]], made: dict[str, Path], work: Path, case: str
) -> None:
    spoil, message = SPOILT[case]
    spoil(work, made["other"])
    code, error = deploy(work)
    assert code == 2
    assert message in error
    assert "Build them with --mode=trt or --mode=both." in error


def test_onnx_of_one_checkpoint_beside_engines_of_another(
    deploy: Callable[..., tuple[int, str]], made: dict[str, Path], work: Path
) -> None:
    shutil.rmtree(work / "onnx")
    shutil.copytree(made["other"] / "onnx", work / "onnx")
    shutil.copy(made["other"] / "checkpoint.pth", work / "checkpoint.pth")
    code, error = deploy(work)
    assert code == 2
    assert f"{ENCODER}.engine' was built from another" in error


def test_engines_of_another_checkpoint_without_their_onnx(
    deploy: Callable[..., tuple[int, str]], made: dict[str, Path], work: Path
) -> None:
    shutil.rmtree(work / "onnx")
    shutil.copy(made["other"] / "checkpoint.pth", work / "checkpoint.pth")
    code, error = deploy(work)
    assert code == 2
    assert "was built from an export of other weights" in error


def test_two_engines_of_two_runs_without_their_onnx(
    made: dict[str, Path], work: Path, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".engine", ".engine.json"):
        swap(work / "tensorrt" / f"{HEAD}{suffix}", work, made["other"])
    options = ["--backend=tensorrt", f"--engine-dir={work / 'tensorrt'}", f"--out={work / 'scores'}", "--device=cuda:0"]
    options += [f"--model-config={deployment.model_config}", f"--data-root={deployment.data_root}"]
    assert evaluate.main(options) == 2
    assert "come from different exports: by their weights" in capsys.readouterr().err


def test_engines_in_the_other_rotation_convention(deploy: Callable[..., tuple[int, str]], work: Path) -> None:
    shutil.rmtree(work / "onnx")
    code, error = deploy(work, "--rot-y-axis-reference")
    assert code == 2
    assert "rotation convention 'x_axis_counterclockwise', which is not the model of this run" in error


def test_predict_refuses_an_engine_that_nobody_vouches_for(
    work: Path, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "tensorrt" / f"{HEAD}.engine.json").unlink()
    points = next((deployment.data_root / "lidar").glob("*.bin"))
    options = [f"--points={points}", f"--out={work / 'prediction'}", "--backend=tensorrt"]
    options += [f"--engine-dir={work / 'tensorrt'}", f"--model-config={deployment.model_config}"]
    assert predict.main([*options, f"--checkpoint={deployment.checkpoint}", "--device=cuda:0"]) == 2
    assert "has no manifest" in capsys.readouterr().err
    assert not (work / "prediction").exists()


def score_onnx(deployment: Deployment, folder: Path, out: Path, *options: str) -> int:
    given = [f"--model-config={deployment.model_config}", f"--data-root={deployment.data_root}", "--device=cpu"]
    return evaluate.main(
        ["--backend=onnx", f"--onnx-dir={folder}", f"--out={out}", "--num-samples=1", *given, *options]
    )


def test_two_onnx_files_of_two_runs(
    made: dict[str, Path], work: Path, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    swap(work / "onnx" / f"{HEAD}.onnx", work, made["other"])
    assert score_onnx(deployment, work / "onnx", work / "scores") == 2
    assert "come from different exports: by their weights" in capsys.readouterr().err


def test_onnx_files_from_elsewhere_are_taken_and_the_log_says_so(
    work: Path, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (ENCODER, HEAD):
        model = onnx.load(work / "onnx" / f"{name}.onnx")
        del model.metadata_props[:]
        onnx.save(model, work / "onnx" / f"{name}.onnx")
    assert score_onnx(deployment, work / "onnx", work / "scores") == 0
    error = capsys.readouterr().err
    assert error.count("nothing vouches for it but its names and shapes") == 2


def test_a_run_that_was_stopped_between_two_files(
    deploy: Callable[..., tuple[int, str]],
    made: dict[str, Path],
    work: Path,
    deployment: Deployment,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every reader refuses the folder; the next export makes it whole."""
    with pytest.raises(RuntimeError), replacing(work / "onnx", [f"{ENCODER}.onnx", f"{HEAD}.onnx"]):  # noqa: PT012
        swap(work / "onnx" / f"{ENCODER}.onnx", work, made["other"])
        raise RuntimeError
    refusal = "may hold files of two runs"
    config, options = tmp_path / "config.py", [f"--onnx-dir={work / 'onnx'}", f"--out={tmp_path / 'out'}"]
    model = [f"--model-config={deployment.model_config}", f"--data-root={deployment.data_root}"]
    assert score_onnx(deployment, work / "onnx", work / "scores") == 2
    assert refusal in capsys.readouterr().err
    assert build_engines.main([*options, "--builder=tensorrt_rtx"]) == 2
    assert refusal in capsys.readouterr().err
    assert detect.main([*options, *model]) == 2
    assert refusal in capsys.readouterr().err
    config.write_text(QUIET)
    code, error = deploy(work, "--mode=trt", f"--onnx-path={work / 'onnx'}")
    assert code == 2
    assert refusal in error
    assert deploy(work, "--mode=both")[0] == 0
    assert deploy(work, "--mode=trt", f"--onnx-path={work / 'onnx'}")[0] == 0


def test_engines_of_a_build_that_was_stopped_between_two(deploy: Callable[..., tuple[int, str]], work: Path) -> None:
    names = [f"{name}.engine{suffix}" for name in (ENCODER, HEAD) for suffix in ("", ".json")]
    with pytest.raises(RuntimeError), replacing(work / "tensorrt", names):  # noqa: PT012 - the body is the build
        os.utime(work / "tensorrt" / names[0])
        raise RuntimeError
    code, error = deploy(work)
    assert code == 2
    assert "may hold files of two runs" in error
    assert "Build them with --mode=trt or --mode=both." in error


def test_a_folder_with_a_manifest_is_held_to_it(
    deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest of export.tools.export_onnx; an export without one takes a stale one away."""
    folder = tmp_path / "onnx"
    options = [f"--model-config={deployment.model_config}", f"--checkpoint={deployment.checkpoint}", f"--out={folder}"]
    assert export_onnx.main(options) == 0
    assert score_onnx(deployment, folder, tmp_path / "scores") == 0
    model = onnx.load(folder / f"{HEAD}.onnx")
    model.producer_version = "edited"
    onnx.save(model, folder / f"{HEAD}.onnx")
    capsys.readouterr()
    assert score_onnx(deployment, folder, tmp_path / "scores") == 2
    error = capsys.readouterr().err
    assert f"{HEAD}.onnx' is not the file that its manifest 'manifest.json' describes" in error
    assert "If it was changed on purpose, remove the manifest." in error
    (folder / "manifest.json").unlink()
    assert score_onnx(deployment, folder, tmp_path / "scores") == 0


def workers_of(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task")
    try:
        children = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        return [pid for pid in children if b"export.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except FileNotFoundError:
        return []


def test_a_worker_whose_command_was_killed_changes_nothing(
    made: dict[str, Path], child_environment: dict[str, str], tmp_path: Path
) -> None:
    """It ends; and it could not write the engine if it did not: nobody told it where."""
    out = tmp_path / "engines"
    shutil.copytree(made["other"] / "tensorrt", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    command = [sys.executable, "-m", "export.tools.build_engines", f"--onnx-dir={made['one'] / 'onnx'}"]
    with subprocess.Popen([*command, f"--out={out}"], env=child_environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (workers := workers_of(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert workers
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")} == before
    assert build_engines.main([f"--onnx-dir={made['one'] / 'onnx'}", f"--out={out}", "--log-level=ERROR"]) == 0
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_two_commands_in_one_folder(deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from base.ownership import owned_folder

    points = next((deployment.data_root / "lidar").glob("*.bin"))
    model = [f"--model-config={deployment.model_config}", f"--checkpoint={deployment.checkpoint}"]
    commands = {
        predict.main: [f"--points={points}", *model],
        evaluate.main: ["--backend=pytorch", f"--data-root={deployment.data_root}", *model],
        export_onnx.main: model,
        build_engines.main: [f"--onnx-dir={tmp_path}"],
        detect.main: [f"--onnx-dir={tmp_path}", f"--data-root={deployment.data_root}", model[0]],
    }
    with owned_folder(tmp_path / "out", "--out"):
        for main, options in commands.items():
            assert main([*options, f"--out={tmp_path / 'out'}"]) == 2
            error = capsys.readouterr().err
            assert f"Another run is using '{tmp_path / 'out'}' (process {os.getpid()})" in error
            assert "choose another folder with --out" in error
