"""Wrong input to the deploy command: the message, the exit code, and nothing run that should not be."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.deploy.commands.in_process import Deploy, config_file, results_of

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import MakeDataset, MakePoints


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
    assert "frames without a point: 1 of 1 (100.0%)" in out
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
    code, out, _ = deploy(f"--data-root={data}")
    assert code == 1
    lost = "pillars left out: 624 of 1024 (60.9%)"
    assert f"{lost}, evaluation.gates.max_dropped_pillars_share is 0.1; raise model.data_preprocessor" in out
    assert f"{lost} in 1 of 1 frames" in out
    allowed = config_file(tmp_path, "evaluation = dict(gates=dict(max_dropped_pillars_share=0.7))\n")
    code, out, err = deploy(f"--data-root={data}", f"--deploy-config={allowed}")
    assert code == 0, err
    assert f"{lost} in 1 of 1 frames" in out
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
