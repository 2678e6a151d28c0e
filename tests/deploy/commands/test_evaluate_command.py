"""The command that scores one backend: alone, and under torchrun with two processes on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deploy.evaluate import main
from tests.base.forked_torchrun import run_forked, run_forked_torchrun

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment, MakeDataset, MakePoints

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
FORKED = ("torchrun's agent, in a copy of this process",)
COPY = ("alone, in a copy of this process",)


@pytest.fixture(scope="session")
def data(make_dataset: MakeDataset, make_points: MakePoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames, so that two processes have three and two; one without a point in range."""
    clouds = [make_points(seed, 20000 if seed == 2 else 600) for seed in range(4)]
    empty = make_points(9)
    empty[:, 0] += 1000.0
    return make_dataset(tmp_path_factory.mktemp("evaluate") / "data", [clouds[0], empty, *clouds[1:]])


@pytest.fixture(scope="session")
def onnx_dir(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.onnx_export import export_components
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from models.spec import ModelSpec

    cfg = load_model_config(deployment.model_config)
    model = build_model(cfg)
    load_checkpoint(model, deployment.checkpoint)
    folder = tmp_path_factory.mktemp("evaluate_onnx")
    export_components(model, ModelSpec.from_config(cfg), folder)
    return folder


@pytest.fixture(scope="session")
def evaluate(
    deployment: Deployment, child_environment: dict[str, str], data: Path, onnx_dir: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`evaluate(out, *options, launch=…)`: the command in its own process, or in two of torchrun."""

    def run(
        out: Path, *options: str, backend: str, launch: Sequence[str] = FORKED, root: Path = data
    ) -> subprocess.CompletedProcess[str]:
        words = ["--model-config", deployment.model_config, "--data-root", root, "--out", out, "--backend", backend]
        words += ["--checkpoint", deployment.checkpoint, "--onnx-dir", onnx_dir, "--device", "cpu", *options]
        given = [str(word) for word in words]
        if launch is COPY:
            return run_forked(lambda: main(given), out.parent)
        if launch is FORKED:
            return run_forked_torchrun(main, given, out.parent)
        return subprocess.run(
            [sys.executable, *launch, "-m", "deploy.evaluate", *given],
            cwd=out.parent,
            env={key: value for key, value in child_environment.items() if key != "OMP_NUM_THREADS"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


def evaluation(out: Path) -> dict[str, Any]:
    summary: dict[str, Any]
    (summary,) = json.loads((out / "results.json").read_text(encoding="utf-8"))["evaluations"]
    return summary


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "launches"),
    [("onnx", (COPY, TORCHRUN)), ("openvino", (COPY, FORKED)), ("pytorch", (COPY, FORKED))],
    ids=["onnx", "openvino", "pytorch"],
)
def test_two_processes_are_equal_to_one(
    evaluate: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    backend: str,
    launches: Sequence[Sequence[str]],
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for out, launch in zip((alone, shared), launches, strict=True):
        done = evaluate(out, "--warmup=1", backend=backend, launch=launch)
        assert done.returncode == 0, done.stderr[-4000:]
        # What came out is said once.
        assert done.stdout.count("p99 latency") == 1
    assert (shared / "detections.jsonl").read_bytes() == (alone / "detections.jsonl").read_bytes()
    one, two = evaluation(alone), evaluation(shared)
    for key in ("backend", "device", "precision", "num_frames", "metrics", "inputs", "decode"):
        assert two[key] == one[key], key
    assert one["num_frames"] == 5
    assert one["inputs"]["dropped_points"] > 0
    lines = (alone / "detections.jsonl").read_text(encoding="utf-8").splitlines()
    assert [len(json.loads(line)["est"]) > 0 for line in lines] == [True, False, True, True, True]
    # Each process warms up by itself; every other frame is timed.
    assert (one["warmup_frames"], len(one["samples_ms"])) == (1, 4)
    assert (two["warmup_frames"], len(two["samples_ms"])) == (2, 3)
    assert two["latency"]["total"]["count"] == 3
    run = json.loads((shared / "results.json").read_text(encoding="utf-8"))["run"]
    assert (run["processes"], run["devices"]) == (2, ["cpu", "cpu"])


@pytest.mark.slow
def test_more_processes_than_frames(evaluate: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = evaluate(tmp_path / "out", "--num-samples=1", backend="onnx")
    assert done.returncode == 0, done.stderr[-4000:]
    assert evaluation(tmp_path / "out")["num_frames"] == 1


@pytest.mark.slow
def test_a_broken_frame_of_one_process_ends_all(
    evaluate: Callable[..., subprocess.CompletedProcess[str]],
    make_dataset: MakeDataset,
    make_points: MakePoints,
    tmp_path: Path,
) -> None:
    root = make_dataset(tmp_path / "broken", [make_points(seed) for seed in range(4)])
    (root / "lidar" / "00003.bin").write_bytes(b"no")
    done = evaluate(tmp_path / "out", backend="onnx", root=root)
    assert done.returncode != 0
    assert done.stderr.count("error (input)") == 1
    assert "error (input): process 1 of 2: evaluating onnx: frame 3 of 4 cannot be read" in done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_backend_that_no_process_has_is_said_once(
    evaluate: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = evaluate(tmp_path / "out", backend="cuda")
    assert done.returncode != 0
    assert done.stderr.count("error (configuration)") == 1
    assert "exitcode  : 2" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend=onnx",), "--backend=onnx needs --onnx-dir."),
        (("--backend=tensorrt", "--onnx-dir=x"), "--backend=tensorrt needs --engine-dir."),
        (("--backend=pytorch", "--checkpoint=x", "--threads=0"), "--threads is 0; give 1 or more."),
        (("--backend=onnx", "--onnx-dir=nowhere"), "'--onnx-dir' is"),
        (("--backend=pytorch", "--checkpoint=nowhere.pth"), "nowhere.pth' does not exist"),
    ],
)
def test_wrong_arguments(
    deployment: Deployment,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    fixed = ["--model-config", deployment.model_config, "--data-root", data, "--out", tmp_path / "out"]
    assert main([*map(str, fixed), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_backend_that_cannot_run_here(
    deployment: Deployment,
    data: Path,
    onnx_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import runtime.opening
    from base.errors import BackendUnavailable

    def refuse(*_: Any, **__: Any) -> Any:
        raise BackendUnavailable("no GPU of compute capability 9.0")

    monkeypatch.setattr(runtime.opening, "open_detector", refuse)
    fixed = ["--model-config", deployment.model_config, "--data-root", data, "--out", tmp_path / "out"]
    assert main([*map(str, fixed), "--backend=cuda", f"--onnx-dir={onnx_dir}"]) == 2
    error = capsys.readouterr().err
    assert "error (machine): --backend=cuda cannot run here: no GPU of compute capability 9.0" in error


def test_a_frame_of_too_many_points_is_named_before_any_is_run(
    evaluate: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = evaluate(tmp_path / "out", "--max-points=19999", backend="onnx", launch=COPY)
    assert done.returncode == 2
    assert "frame 'frame-3' has up to 40000 points, but at most 19999 are taken (--max-points)" in done.stderr
    assert not list(tmp_path.glob("out/*.json*"))
    done = evaluate(tmp_path / "out", "--max-points=19999", "--num-samples=3", backend="onnx", launch=COPY)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_parts_merge_to_the_bytes_of_one_run(
    evaluate: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines that know nothing of each other; the merge is given their files alone."""
    one, merged = tmp_path / "one", tmp_path / "merged"
    options: tuple[tuple[Path, tuple[str, ...]], ...] = (
        (one, ("--untimed",)),
        (tmp_path / "first", ("--part=1/2",)),
        (tmp_path / "second", ("--part=2/2",)),
    )
    for out, given in options:
        done = evaluate(out, *given, backend="onnx", launch=COPY)
        assert done.returncode == 0, done.stderr[-4000:]
    first, second = tmp_path / "first" / "part-1-of-2.json", tmp_path / "second" / "part-2-of-2.json"
    assert sorted(path.name for path in second.parent.iterdir()) == [second.name]
    assert main(["--merge", str(second), str(first), "--out", str(merged)]) == 0
    printed = capsys.readouterr().out
    assert "onnx fp32 (cpu)" in printed
    assert "not told" in printed
    for name in ("results.json", "detections.jsonl"):
        assert (merged / name).read_bytes() == (one / name).read_bytes(), name
    summary = evaluation(merged)
    assert (summary["num_frames"], summary["latency"], summary["samples_ms"]) == (5, {}, [])
    assert summary["machine"]["cpu"] == ""
    assert summary["inputs"]["dropped_points"] > 0
    for arguments, message in (
        (["--merge", str(first)], "Of the 2 parts of an evaluation, 2/2 is missing."),
        (
            ["--merge", str(first), str(second), "--backend=onnx"],
            "--merge takes all from the parts; leave out --backend",
        ),
        (["--part=1/2"], "--backend is missing; give one of"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "wrong")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()
