"""Wrong input to the deploy command: the message, the exit code, and nothing run that should not be."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.files import sha256_file
from deploy.export import main

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment, MakeDataset, MakePoints

Deploy = Callable[..., tuple[int, str, str]]


@pytest.fixture
def deploy(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Deploy:
    """`deploy(*options)` in this process: exit code, stdout, stderr. Exports nothing unless `--mode` says so."""
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("CENTERPOINT_DEMO_DATA", raising=False)

    def run(*options: str | Path) -> tuple[int, str, str]:
        given = [str(option) for option in options]
        defaults = {
            "--mode": "onnx",
            "--deploy-config": config_file(tmp_path),
            "--model-config": deployment.model_config,
            "--checkpoint": deployment.checkpoint,
            "--data-root": deployment.data_root,
            "--num-samples": "-1",
            "--num-verify-samples": "1",
            "--work-dir": "out",
            "--log-level": "WARNING",
        }
        named = {option.split("=")[0] for option in given}
        given += [f"{key}={value}" for key, value in defaults.items() if key not in named]
        code = main(given)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def config_file(folder: Path, text: str = "") -> Path:
    """A deploy config that evaluates on the CPU."""
    file = folder / "deploy_config.py"
    if not file.exists() or text:
        file.write_text(
            "evaluation = dict(backends=dict(pytorch=dict(device='cpu'), onnx=dict(device='cpu'),"
            " tensorrt=dict(enabled=False)))\n" + text
        )
    return file


def results_of(tmp_path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((tmp_path / "out" / "results.json").read_text())
    return results


def dataset_with(tmp_path: Path, make_dataset: MakeDataset, *clouds: NDArray[np.float32]) -> Path:
    return make_dataset(tmp_path / "data", list(clouds))


def test_unknown_config_key(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path, "verificaton = dict(enabled=True)\n")
    code, out, err = deploy(f"--deploy-config={config}")
    assert (code, out) == (2, "")
    assert "deploy_config.py: unknown key 'verificaton'. Did you mean 'verification'?" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists(), "nothing starts before the configuration is right"


def test_missing_checkpoint(deploy: Deploy, tmp_path: Path) -> None:
    code, _, err = deploy("--checkpoint=nowhere.pth")
    assert code == 2
    assert f"Checkpoint '{tmp_path / 'nowhere.pth'}' does not exist. Give the weights' file with --checkpoint" in err
    assert not (tmp_path / "out").exists()


def test_checkpoint_of_another_architecture(deploy: Deploy, tmp_path: Path) -> None:
    import torch

    path = tmp_path / "other.pth"
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, path)
    code, _, err = deploy(f"--checkpoint={path}")
    assert code == 2
    assert "belongs to another architecture than the model config" in err
    assert "1 unexpected (backbone.conv1.weight)" in err
    steps = results_of(tmp_path)["steps"]
    assert [(step["name"], step["status"]) for step in steps] == [("load model", "FAILED")]
    assert "another architecture" in steps[0]["reason"]


def test_truncated_point_file(
    deploy: Deploy, tmp_path: Path, make_dataset: MakeDataset, make_points: MakePoints
) -> None:
    data = dataset_with(tmp_path, make_dataset, make_points(0), make_points(1))
    file = data / "lidar" / "00001.bin"
    file.write_bytes(file.read_bytes()[:-7])
    code, _, err = deploy(f"--data-root={data}")
    assert code == 2
    assert "00001.bin" in err
    assert "no multiple of 20" in err
    steps = {step["name"]: step["status"] for step in results_of(tmp_path)["steps"]}
    assert steps["export ONNX"] == steps["verify onnx against pytorch"] == "PASSED", "what was done before is kept"
    assert steps["evaluate pytorch"] == "FAILED"
    assert (tmp_path / "out" / "onnx" / "pts_voxel_encoder.onnx").is_file()


class Hostile:
    """Unpickling this writes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.system, (f"touch {self.witness}",))


def test_info_file_that_tries_to_run_code(
    deploy: Deploy, tmp_path: Path, make_dataset: MakeDataset, make_points: MakePoints
) -> None:
    data, witness = dataset_with(tmp_path, make_dataset, make_points(0)), tmp_path / "ran"
    (data / "centerpoint_infos_val.pkl").write_bytes(pickle.dumps({"data_list": Hostile(witness), "metainfo": {}}))
    code, _, err = deploy(f"--data-root={data}")
    assert code == 2
    assert "posix.system" in err
    assert "nothing in the file was run" in err
    assert not witness.exists()


def test_checkpoint_that_tries_to_run_code(deploy: Deploy, tmp_path: Path) -> None:
    import torch

    path, witness = tmp_path / "hostile.pth", tmp_path / "ran"
    torch.save({"state_dict": Hostile(witness)}, path)
    code, _, err = deploy(f"--checkpoint={path}")
    assert code == 2
    assert "was refused" in err
    assert "Nothing in it was run" in err
    assert not witness.exists()


def test_empty_cloud_is_scored_and_counted(
    deploy: Deploy, tmp_path: Path, make_dataset: MakeDataset, make_points: MakePoints
) -> None:
    data = dataset_with(tmp_path, make_dataset, np.zeros((0, 5), np.float32), make_points(1))
    code, _, err = deploy(f"--data-root={data}", "--num-verify-samples=2")
    assert code == 0, err
    results = results_of(tmp_path)
    assert (results["verifications"][0]["num_frames"], results["verifications"][0]["num_empty_frames"]) == (1, 1)
    assert {item["num_frames"] for item in results["evaluations"]} == {2}


def test_only_empty_clouds_cannot_pass(deploy: Deploy, tmp_path: Path, make_dataset: MakeDataset) -> None:
    data = dataset_with(tmp_path, make_dataset, np.zeros((0, 5), np.float32))
    code, out, _ = deploy(f"--data-root={data}")
    assert code == 1
    assert "no frame was compared (1 had no point in the model's range)" in out
    assert results_of(tmp_path)["verifications"][0]["passed"] is False


def test_nan_points_are_dropped_with_a_warning(
    deploy: Deploy, tmp_path: Path, make_dataset: MakeDataset, make_points: MakePoints
) -> None:
    points = make_points(2)
    points[::10, 0] = np.nan
    data = dataset_with(tmp_path, make_dataset, points)
    code, _, err = deploy(f"--data-root={data}")
    assert code == 0, err
    assert "dropped 60 of 600 points with NaN or infinite values" in err


def test_more_pillars_than_max_voxels_are_dropped_and_counted(
    deploy: Deploy, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    # One point in the middle of each of the 32 x 32 pillars, of which the model takes 400.
    centers = (np.arange(32) + 0.5) * 0.32 - 5.12
    grid = np.stack(np.meshgrid(centers, centers), axis=-1).reshape(-1, 2)
    points = np.concatenate([grid, np.zeros((1024, 3))], axis=1).astype(np.float32)
    data = dataset_with(tmp_path, make_dataset, points)
    code, _, err = deploy(f"--data-root={data}")
    assert code == 0, err
    for item in results_of(tmp_path)["evaluations"]:
        assert item["inputs"]["mean_voxels"] == 400
        assert item["inputs"]["dropped_voxels"] == 1024 - 400


def test_profile_that_does_not_fit_the_grid(deploy: Deploy, tmp_path: Path) -> None:
    shape = "[1, 32, 760, 760]"
    text = (
        "backend_config = dict(model_inputs=[dict(input_shapes=dict(spatial_features=dict("
        f"min_shape={shape}, opt_shape={shape}, max_shape={shape})))])\n"
    )
    code, _, err = deploy(f"--deploy-config={config_file(tmp_path, text)}", "--mode=both")
    assert code == 2
    assert "spatial_features.min_shape' is [1, 32, 760, 760], but model 'tiny_deployment' has [1, 32, 32, 32]" in err
    assert not (tmp_path / "out").exists()


def test_mode_trt_without_onnx_path(deploy: Deploy) -> None:
    code, _, err = deploy("--mode=trt")
    assert code == 2
    assert "'export.onnx_path' is not set. Set it to the folder that holds pts_voxel_encoder.onnx" in err


@pytest.mark.parametrize("kind", ["file", "half"])
def test_mode_trt_with_a_wrong_onnx_path(deploy: Deploy, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "onnx_in"
    if kind == "file":
        path.write_text("")
        message = "which is a file; it must be a folder with pts_voxel_encoder.onnx, pts_backbone_neck_head.onnx"
    else:
        path.mkdir()
        (path / "pts_voxel_encoder.onnx").write_text("")
        message = "which lacks pts_backbone_neck_head.onnx"
    code, _, err = deploy("--mode=trt", f"--onnx-path={path}")
    assert code == 2
    assert message in err


def test_missing_dataset_names_the_generator(deploy: Deploy, tmp_path: Path) -> None:
    code, _, err = deploy("--data-root=nowhere")
    assert code == 2
    assert f"Dataset folder '{tmp_path / 'nowhere'}' does not exist" in err
    assert "python -m datasets.synthetic --out" in err
    assert not (tmp_path / "out").exists()


def test_more_frames_than_there_are(deploy: Deploy) -> None:
    code, _, err = deploy("--num-samples=1000")
    assert code == 2
    assert "'evaluation.num_samples' is 1000, but" in err
    assert "has 3 validation frames" in err


def test_nothing_to_do(deploy: Deploy, tmp_path: Path) -> None:
    text = "evaluation = dict(enabled=False)\n"
    code, _, err = deploy(f"--deploy-config={config_file(tmp_path, text)}", "--mode=none")
    assert code == 2
    assert "there is nothing to do" in err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_seen_before_the_work(deploy: Deploy, small_disk: Path) -> None:
    code, _, err = deploy(f"--work-dir={small_disk / 'out'}")
    assert code == 2
    assert "MiB free; this run needs about" in err
    assert list(small_disk.iterdir()) == []


def test_disk_that_fills_up_during_the_export(
    deploy: Deploy, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.plan._check_space", lambda plan: None)
    (small_disk / "ballast").write_bytes(bytes(200 * 1024))
    code, _, err = deploy(f"--work-dir={small_disk / 'out'}")
    assert code == 2
    assert "No space left on device. Free space or choose another folder." in err
    assert [p.name for p in (small_disk / "out" / "onnx").iterdir()] == ["pts_voxel_encoder.onnx"], (
        "no half file is left"
    )


def test_full_disk_simulated(deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same wherever a disk cannot be mounted: writing the second component fails as a full disk makes it fail."""
    write = Path.write_bytes

    def fill_up(self: Path, data: bytes) -> int:
        if "pts_backbone_neck_head" in self.name:
            write(self, data[:100])
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    code, _, err = deploy()
    assert code == 2
    assert "pts_backbone_neck_head.onnx'" in err
    assert "No space left on device" in err
    assert [p.name for p in (tmp_path / "out" / "onnx").iterdir()] == ["pts_voxel_encoder.onnx"]
    failed = [step["name"] for step in results_of(tmp_path)["steps"] if step["status"] == "FAILED"]
    assert failed == ["export ONNX"]


def test_failed_comparison_is_exit_code_1_and_named(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path, "verification = dict(tolerance=dict(rot=1e-12))\n")
    code, out, _ = deploy(f"--deploy-config={config}")
    assert code == 1
    assert "rot: largest difference" in out
    assert "FAILED" in out.splitlines()[-1]
    steps = {step["name"]: step["status"] for step in results_of(tmp_path)["steps"]}
    assert steps["verify onnx against pytorch"] == "FAILED"
    assert steps["evaluate onnx"] == "PASSED", "a failed comparison does not end the run"


SCENARIO = """
verification = dict(scenarios=dict(none=[dict(ref_backend="pytorch", test_backend="onnx")]))
"""


def test_debug_divergence_names_the_layer_of_a_spoilt_file(deploy: Deploy, tmp_path: Path) -> None:
    import onnx

    assert deploy("--mode=onnx")[0] == 0
    path = tmp_path / "out" / "onnx" / "pts_backbone_neck_head.onnx"
    model = onnx.load(path)
    name = "/pts_backbone/blocks.1/blocks.1.0/Conv.weight"
    (tensor,) = [item for item in model.graph.initializer if item.name == name]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[[0, 2]] = values[[2, 0]]
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)
    code, out, _ = deploy("--mode=none", "--debug-divergence", f"--deploy-config={config_file(tmp_path, SCENARIO)}")
    assert code == 1
    assert "first differs at node '/pts_backbone/blocks.1/blocks.1.0/Conv'" in out
    assert f"weight '{name}': channels 0 and 2 of axis 0 are exchanged" in out
    (verification,) = results_of(tmp_path)["verifications"]
    (divergence,) = verification["divergences"]
    assert divergence["outputs"] == ["heatmap", "reg", "height", "dim", "rot", "vel"]
    assert divergence["tensors_compared"] < 25


def test_accuracy_gate(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    config.write_text(config.read_text().replace("dict(backends", "dict(min_map=0.99, max_map_drop=0.001, backends"))
    code, out, _ = deploy(f"--deploy-config={config}")
    assert code == 1
    assert "is below evaluation.min_map = 0.99" in out
    assert "evaluation.max_map_drop is 0.001" not in out, "ONNX is as accurate as PyTorch"


def test_gates_by_class_and_range(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    gates = "gates=dict(max_drop=0.0, max_drop_per_class=dict(car=0.02), max_drop_per_range=0.02, judge='worst_bound')"
    config.write_text(config.read_text().replace("dict(backends", f"dict({gates}, backends"))
    code, out, _ = deploy(f"--deploy-config={config}")
    results = results_of(tmp_path)
    keys = [gate["key"] for gate in results["gates"]]
    where = "evaluation.gates.max_drop"
    assert keys == [where, f"{where}_per_class.car", f"{where}_per_range"]
    # ONNX equals PyTorch on these frames; only the class that has no detection and no object could not be judged.
    assert {gate["status"] for gate in results["gates"]} == {"PASSED"}
    assert code == 0
    assert f"{where}_per_class.car" in out
    (comparison,) = results["comparisons"]
    assert (comparison["label_a"], comparison["label_b"]) == ("pytorch fp32 (cpu)", "onnx fp32 (cpu)")
    assert comparison["num_resamples"] == 1000


def test_a_gate_on_an_unknown_class_is_refused(deploy: Deploy, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    gates = "gates=dict(max_drop_per_class=dict(cart=0.02))"
    config.write_text(config.read_text().replace("dict(backends", f"dict({gates}, backends"))
    code, _, err = deploy(f"--deploy-config={config}")
    assert code == 2
    assert "'evaluation.gates.max_drop_per_class.cart' names no class of model" in err
    assert "Did you mean 'car'?" in err
    config.write_text(config.read_text().replace("max_drop_per_class=dict(cart", "max_drop_per_range=dict(near"))
    code, _, err = deploy(f"--deploy-config={config}")
    assert code == 2
    assert "'evaluation.gates.max_drop_per_range.near' names no range of model" in err


def test_artifacts_of_another_checkpoint_are_not_taken(deploy: Deploy, deployment: Deployment, tmp_path: Path) -> None:
    import torch

    assert deploy()[0] == 0
    other = tmp_path / "other.pth"
    checkpoint = torch.load(deployment.checkpoint, weights_only=True)
    checkpoint["meta"] = {"seed": 6}
    torch.save(checkpoint, other)
    code, _, err = deploy("--mode=none", f"--checkpoint={other}")
    assert code == 2
    assert f"was exported from other weights (sha256 {sha256_file(deployment.checkpoint)})" in err
    assert deploy("--mode=none")[0] == 0
    code, _, err = deploy("--mode=none", "--rot-y-axis-reference")
    assert code == 2
    assert "rotation convention 'x_axis_counterclockwise', which is not the model of this run" in err


def test_rotation_convention_keeps_the_boxes(deploy: Deploy, tmp_path: Path) -> None:
    assert deploy("--rot-y-axis-reference")[0] == 0
    pytorch, onnx = results_of(tmp_path)["evaluations"]
    assert pytorch["backend"] == "pytorch"
    # PyTorch is scored unconverted; headings and distances of the same boxes differ in their last digits.
    assert numbers(onnx["metrics"]["ranges"]) == pytest.approx(numbers(pytorch["metrics"]["ranges"]), abs=1e-5)


def test_what_the_vehicle_sees_is_in_results_and_report(deploy: Deploy, tmp_path: Path) -> None:
    code, out, _ = deploy("--decode=both")
    assert code == 0
    results = results_of(tmp_path)
    assert [item["label"] for item in results["vehicle"]] == ["pytorch fp32 (cpu)", "onnx fp32 (cpu)"]
    assert [len(item["steps"]) for item in results["vehicle"]] == [4, 4]
    assert results["run"]["decode"] == "both"
    for name in results["candidates"].values():
        assert len((tmp_path / "out" / name).read_text().splitlines()) == 3
    assert "in the vehicle" in out
    assert "What the vehicle sees" in (tmp_path / "out" / "report.html").read_text()


def test_the_node_s_decode_alone(deploy: Deploy, tmp_path: Path) -> None:
    assert deploy("--decode=autoware")[0] == 0
    results = results_of(tmp_path)
    assert [item["decode"] for item in results["evaluations"]] == ["autoware", "autoware"]
    assert results["evaluations"][0]["metrics"] == results["vehicle"][0]["metrics"]


def test_a_bundle_that_is_none_or_not_used(deploy: Deploy, tmp_path: Path) -> None:
    code, _, err = deploy("--bundle=nowhere", "--decode=both")
    assert code == 2
    assert "evaluation.autoware.bundle" in err
    assert "nowhere' is no bundle that Autoware's lidar_centerpoint can use" in err
    code, _, err = deploy("--bundle=nowhere")
    assert code == 2
    assert "'evaluation.decode' is 'training', which does not use it" in err


def numbers(value: Any) -> list[float]:
    """Every number inside, in order; NaN where there is none."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [] if value is None or isinstance(value, str) else [float(value)]


def test_two_runs_in_one_folder(deploy: Deploy, tmp_path: Path) -> None:
    from deploy.work_dir import owned_work_dir

    with owned_work_dir(tmp_path / "out"):
        code, _, err = deploy()
    assert code == 2
    assert "Another run is using" in err


def only_tensorrt(folder: Path) -> Path:
    """A config that asks for nothing but an evaluation with engines, which were never built."""
    backends = "pytorch=dict(enabled=False), onnx=dict(enabled=False)"
    return config_file(folder, f"evaluation = dict(backends=dict({backends}))\n")


def test_a_run_of_skipped_steps_alone_does_not_pass(deploy: Deploy, tmp_path: Path) -> None:
    code, out, _ = deploy(f"--deploy-config={only_tensorrt(tmp_path)}", "--mode=none")
    assert code == 1
    assert "mode 'none' makes no engines, and no current ones are in" in out
    assert out.splitlines()[-1].startswith("FAILED (2 passed, 1 skipped; nothing that was asked for could be done)")


def test_strict_makes_a_skipped_step_a_failure(deploy: Deploy, tmp_path: Path) -> None:
    config = only_tensorrt(tmp_path)
    assert deploy(f"--deploy-config={config}")[0] == 0
    code, out, _ = deploy(f"--deploy-config={config}", "--strict")
    assert code == 1
    assert "--strict allows no skipped step" in out.splitlines()[-1]


def test_fp16_is_verified_as_fp16_also_when_only_evaluated(deploy: Deploy, tmp_path: Path) -> None:
    scenarios = "verification = dict(scenarios=dict(none=[dict(ref_backend='pytorch', test_backend='onnx')]))\n"
    config = config_file(tmp_path, scenarios)
    assert deploy(f"--deploy-config={config}", "--precision=fp16")[0] == 0
    exported = results_of(tmp_path)
    code, out, _ = deploy(f"--deploy-config={config}", "--mode=none")
    assert code == 0, out
    evaluated = results_of(tmp_path)
    for results in (exported, evaluated):
        assert results["run"]["precision"] == "fp16"
        assert results["verifications"][0]["precision"] == "fp16"
    assert evaluated["verifications"][0]["outputs"] == exported["verifications"][0]["outputs"]


def test_dataset_of_the_build_is_found_from_anywhere(
    deploy: Deploy, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.config.paths import repository_root

    monkeypatch.setenv("CENTERPOINT_DEMO_DATA", os.path.relpath(deployment.data_root, repository_root()))
    code, _, err = deploy("--data-root=elsewhere")
    assert code == 2, "a dataset that is named comes first"
    assert "elsewhere' does not exist" in err
    config = config_file(tmp_path)
    arguments = {
        "--deploy-config": config,
        "--model-config": deployment.model_config,
        "--checkpoint": deployment.checkpoint,
        "--num-samples": "1",
        "--num-verify-samples": "1",
        "--work-dir": "out",
        "--mode": "onnx",
        "--log-level": "ERROR",
    }
    assert main([f"{key}={value}" for key, value in arguments.items()]) == 0
    dataset = Path(results_of(tmp_path)["run"]["dataset"])
    assert dataset.samefile(deployment.data_root)
