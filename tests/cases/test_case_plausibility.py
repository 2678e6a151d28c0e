"""Clouds and annotations that make a number without meaning, through the commands: refused, failed or told."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datasets import create_t4_infos
from datasets.synthetic.dataset_writer import DatasetConfig, generate
from deploy import evaluate, export, predict
from eval.results import read_results
from models.build import build_model
from models.config import load_model_config
from quant import centerpoint_quantization

DEPLOYMENT = Path(__file__).parents[1] / "data" / "deploy" / "tiny_deployment.py"
CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]
INFOS = "centerpoint_infos_val.pkl"
Run = Callable[..., tuple[int, str, str]]
Cloud = NDArray[np.float32]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T4 dataset of two key frames, raw tables beside its info file."""
    root = tmp_path_factory.mktemp("case") / "data"
    config = DatasetConfig({"val": 1}, frames_per_scene=2, seed=5, key_every=2, sweeps=1, tables=True)
    generate(config, root, workers=1)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a small model: 10 m wide, with room for all pillars."""
    folder = tmp_path_factory.mktemp("model")
    config = folder / "small.py"
    voxels = "model = dict(data_preprocessor=dict(voxel_layer=dict(max_voxels=(1024, 1024))))\n"
    config.write_text(f"_base_ = [{str(DEPLOYMENT)!r}]\n{voxels}")
    torch.set_num_threads(1)
    network: Any = build_model(load_model_config(config), seed=5)
    with torch.no_grad():  # so that there are boxes
        network.pts_bbox_head.task_heads[0].heatmap[-1].bias.fill_(-0.5)
    path = folder / "small.pth"
    torch.save({"state_dict": network.state_dict(), "meta": {"dataset_meta": {"classes": CLASSES}}}, path)
    return [f"--model-config={config}", f"--checkpoint={path}"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its exit code, standard output and standard error."""

    def run(command: Any, *arguments: object) -> tuple[int, str, str]:
        code = command.main([*map(str, arguments), "--log-level=WARNING"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def with_clouds(data: Path, folder: Path, change: Callable[[Cloud], NDArray[Any] | bytes]) -> Path:
    """The dataset with other point files."""
    root = folder / "data"
    root.mkdir()
    (root / INFOS).write_bytes((data / INFOS).read_bytes())
    for path in (data / "lidar").rglob("*.bin"):
        target = root / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        made = change(np.fromfile(path, "<f4").reshape(-1, 5))
        target.write_bytes(made if isinstance(made, bytes) else np.ascontiguousarray(made).tobytes())
    return root


def with_infos(data: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The dataset with another info file, each of whose objects is changed."""
    root = folder / "data"
    root.mkdir()
    (root / "lidar").symlink_to(data / "lidar")
    content = pickle.loads((data / INFOS).read_bytes())  # our own file
    for sample in content["data_list"]:
        for instance in sample["instances"]:
            change(instance)
    (root / INFOS).write_bytes(pickle.dumps(content))
    return root


def of(columns: Any, change: Callable[[Cloud], NDArray[Any]]) -> Callable[[Cloud], NDArray[Any]]:
    def changed(points: Cloud) -> NDArray[Any]:
        points[:, columns] = change(points[:, columns])
        return points

    return changed


def halved(points: Cloud) -> Cloud:
    points[::2] = 0
    return points


# What becomes of every cloud -> what the evaluation does, and says.
KINDS: dict[str, tuple[Callable[[Cloud], NDArray[Any] | bytes], int, str]] = {
    "float64": (lambda points: points.astype("<f8"), 2, "it holds float64, 5 a point"),
    "float16": (lambda points: points.astype("<f2"), 2, "it holds float16, 5 a point"),
    "big-endian": (lambda points: points.astype(">f4"), 2, "it holds big-endian float32, 5 a point"),
    "centimetres as int16": (lambda points: (points * 100).clip(-32768, 32767).astype("<i2"), 2, "int16, 5 a point"),
    "four columns": (lambda points: points[: len(points) // 5 * 5, :4], 2, "its values look like 4 a point"),
    "text": (lambda points: "\n".join(map(str, points[:50].tolist())).encode(), 2, "it is text, not float32"),
    "millimetres": (of(slice(0, 3), lambda xyz: xyz * 1000), 2, "coordinates look like millimetres"),
    "centimetres": (of(slice(0, 3), lambda xyz: xyz * 100), 2, "coordinates look like centimetres"),
    "nan": (lambda points: np.full_like(points, np.nan), 1, "frames without a point: 2 of 2 (100.0%)"),
    "out of range": (of(0, lambda x: x + 2000), 1, "frames without a point: 2 of 2 (100.0%)"),
    "no points": (lambda points: b"", 1, "frames without a point: 2 of 2 (100.0%)"),
    "z down": (of(2, np.negative), 0, "(check: cloud-axes)"),
    "sensor's frame": (of(2, lambda z: z - 1.9), 0, "but the ground of base_link is z = 0"),
    "0 to 1": (of(3, lambda i: i / 255), 0, "intensities reach 1, the model expects 0 to 255"),
    "16 bits": (of(3, lambda i: i * 257), 0, "intensities reach 6.55e+04, the model expects 0 to 255"),
    "half zero": (halved, 0, "(50%) are exactly (0, 0, 0)"),
    "twice": (lambda points: np.concatenate([points, points]), 0, "are in the file more than once"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_clouds_that_no_sensor_made(data: Path, model: list[str], tmp_path: Path, run: Run, kind: str) -> None:
    change, expected, said = KINDS[kind]
    root = with_clouds(data, tmp_path, change)
    where = (f"--data-root={root}", f"--out={tmp_path / 'out'}")
    code, out, err = run(evaluate, *model, "--backend=pytorch", "--device=cpu", *where)
    assert code == expected, err
    assert said in out + err


def test_sound_clouds_are_told_nothing_of(data: Path, model: list[str], tmp_path: Path, run: Run) -> None:
    where = (f"--data-root={data}", f"--out={tmp_path / 'out'}")
    code, _, err = run(evaluate, *model, "--backend=pytorch", "--device=cpu", *where)
    assert code == 0
    told = {item.check for item in read_results(tmp_path / "out/results.json").checks}
    assert told == {"class-without-ground-truth"}, "within 5 m of the vehicle there are not all classes"
    assert err.count("WARNING") == 1


def test_a_network_that_finds_nothing_is_told(data: Path, model: list[str], tmp_path: Path, run: Run) -> None:
    """As files from a broken export, or a device that fails without a word."""
    checkpoint = torch.load(model[1].removeprefix("--checkpoint="), weights_only=True)
    (bias,) = (name for name in checkpoint["state_dict"] if name.endswith("task_heads.0.heatmap.1.bias"))
    checkpoint["state_dict"][bias].fill_(-20.0)
    torch.save(checkpoint, tmp_path / "blind.pth")
    where = (f"--checkpoint={tmp_path / 'blind.pth'}", f"--data-root={data}", f"--out={tmp_path / 'out'}")
    code, _, err = run(evaluate, model[0], "--backend=pytorch", "--device=cpu", *where)
    assert code == 0, err
    assert re.search(r"no box in any of 2 frames, which have \d+ objects", err)
    assert "no-boxes" in {item.check for item in read_results(tmp_path / "out/results.json").checks}


def test_calibration_looks_at_clouds_too(data: Path, model: list[str], tmp_path: Path, run: Run) -> None:
    root = with_clouds(data, tmp_path, KINDS["float16"][0])
    names = [option.replace("--model-config", "--config") for option in model]
    output = tmp_path / "q.pth"
    arguments = ("ptq", *names, f"--output={output}", f"--data-root={root}", "--split=val", f"--info-file={INFOS}")
    code, _, err = run(centerpoint_quantization, *arguments)
    assert code == 2
    assert "it holds float16, 5 a point" in err
    assert not output.exists()


def no_points(instance: dict[str, Any]) -> None:
    instance["num_lidar_pts"], instance["bbox_3d_isvalid"] = 0, False


def no_class(instance: dict[str, Any]) -> None:
    instance["bbox_label_3d"] = -1


def far_away(instance: dict[str, Any]) -> None:
    instance["bbox_3d"] = [100.0, *list(instance["bbox_3d"])[1:]]


@pytest.mark.parametrize(
    ("change", "why"),
    [(no_points, "have no LiDAR point"), (no_class, "have no class"), (far_away, "lie beyond the evaluated range")],
)
def test_nothing_to_find_is_no_score(
    data: Path, model: list[str], tmp_path: Path, run: Run, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    root = with_infos(data, tmp_path, change)
    work = ("--mode=none", "--backends", "pytorch", f"--data-root={root}", "--num-samples=-1")
    code, out, err = run(export, *model, *work, f"--work-dir={tmp_path / 'w'}")
    assert code == 2
    assert "the 2 frames to evaluate have no object to find" in err
    assert why in err
    assert "PASSED (" not in out
    code, out, _ = run(export, *model, *work, f"--work-dir={tmp_path / 'w'}", "--accept=no-ground-truth")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("pytorch fp32 (cpu)"))
    assert row.split()[3] == "none"
    assert "classes without ground truth: car, truck, bus, bicycle, pedestrian: their AP is none" in out


def test_a_class_without_objects_has_none(data: Path, model: list[str], tmp_path: Path, run: Run) -> None:
    def change(instance: dict[str, Any]) -> None:
        instance["bbox_3d"] = [2.0, 0.0, *list(instance["bbox_3d"])[2:]]
        instance["num_lidar_pts"], instance["bbox_3d_isvalid"] = 1, True
        if instance["bbox_label_3d"] > 1:
            instance["bbox_label_3d"] = -1

    root = with_infos(data, tmp_path, change)
    work = ("--mode=none", "--backends", "pytorch", f"--data-root={root}", f"--work-dir={tmp_path / 'w'}")
    code, out, err = run(export, *model, *work, "--num-samples=-1")
    assert code == 0, err
    assert "have no bus, no bicycle, no pedestrian to find: their AP is none" in err
    assert "classes without ground truth: bus, bicycle, pedestrian: their AP is none" in out
    assert (tmp_path / "w/report.html").read_text().count(">none<") >= 3


def test_raw_datasets_whose_categories_nothing_maps(data: Path, tmp_path: Path, run: Run) -> None:
    import shutil

    root = tmp_path / "raw"
    shutil.copytree(data / "t4", root)
    (table,) = root.rglob("annotation/category.json")
    rows = json.loads(table.read_text())
    some = [{**row, "name": "car.common"} if row["name"] == "car" else row for row in rows]
    table.write_text(json.dumps(some))
    arguments = (f"--root={root}", f"--out={tmp_path / 'infos'}")
    code, out, err = run(create_t4_infos, *arguments)
    assert code == 0
    assert "car.common " in err
    assert "(check: unmapped-categories)" in err
    assert "attributes that no rule uses: " in out
    table.write_text(json.dumps([{**row, "name": f"{row['name']}.common"} for row in rows]))
    (tmp_path / "infos/centerpoint_infos_all.pkl").unlink()
    code, _, err = run(create_t4_infos, *arguments)
    assert code == 2
    assert "objects has a class: " in err
    assert not (tmp_path / "infos/centerpoint_infos_all.pkl").exists()
    code, _, err = run(create_t4_infos, *arguments, "--accept=no-mapped-category")
    assert code == 0


def test_a_raw_dataset_without_frames(data: Path, tmp_path: Path, run: Run) -> None:
    import shutil

    root = tmp_path / "raw"
    shutil.copytree(data / "t4", root)
    (annotation,) = root.rglob("annotation")
    for name in ("sample", "sample_data", "sample_annotation"):
        (annotation / f"{name}.json").write_text("[]")
    code, _, err = run(create_t4_infos, f"--root={root}", f"--out={tmp_path / 'infos'}", "--split=val")
    assert code == 2
    assert "Split 'val' has no key frame" in err
    assert not (tmp_path / "infos/centerpoint_infos_val.pkl").exists()


def test_pillars_that_a_scan_loses(data: Path, model: list[str], tmp_path: Path, run: Run) -> None:
    config = tmp_path / "few.py"
    few = "model = dict(data_preprocessor=dict(voxel_layer=dict(max_voxels=(100, 100))))\n"
    config.write_text(f"_base_ = [{model[0].partition('=')[2]!r}]\n{few}")
    points = next((data / "lidar").rglob("*.bin"))
    arguments = (f"--model-config={config}", model[1], f"--points={points}", f"--out={tmp_path / 'out'}")
    code, out, err = run(predict, *arguments, "--device=cpu")
    assert code == 0
    (found,) = json.loads((tmp_path / "out/detections.json").read_text())["backends"]
    lost = found["dropped_pillars"]
    assert lost > 0
    assert f"pillars left out: {lost} of {lost + 100}" in out
    assert f"{lost} of {lost + 100} pillars" in err
    assert "Raise model.data_preprocessor.voxel_layer.max_voxels" in err
