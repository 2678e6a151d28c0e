"""Names of columns: what mmdet3d's own steps make of marked files says what each column is."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.checks import checking
from base.errors import ConfigError
from models.build import import_mmdet3d
from models.config import load_model_config
from models.point_columns import NODE_COLUMNS, implied_columns, record_columns
from models.point_loading import point_loading
from models.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]
FILE = {"type": "LoadPointsFromFile", "coord_type": "LIDAR"}
SWEEPS = {"type": "LoadPointsFromMultiSweeps", "test_mode": True}
LAG_S = 0.125
# Column of the file -> its value in the key frame; sweeps have the same with 0.5 more.
MARKS = {"x": 10.0, "y": 20.0, "z": 30.0, "intensity": 40.0, "ring": 50.0, "column5": 60.0, "column6": 70.0}

STEPS: list[tuple[str, list[dict[str, Any]], str]] = [
    ("five", [FILE | {"load_dim": 5, "use_dim": 5}, SWEEPS | {"use_dim": [0, 1, 2, 3, 4]}], "x y z intensity time_lag"),
    ("number", [FILE | {"load_dim": 5, "use_dim": 5}, SWEEPS | {"use_dim": 4}], "x y z intensity"),
    ("defaults", [FILE | {"load_dim": 5, "use_dim": 5}, SWEEPS], "x y z time_lag"),
    ("file-defaults", [FILE], "x y z"),
    ("no-sweeps", [FILE | {"load_dim": 5, "use_dim": 5}], "x y z intensity ring"),
    ("no-ring", [FILE | {"load_dim": 5, "use_dim": [0, 1, 2, 3]}], "x y z intensity"),
    ("ring-first", [FILE | {"load_dim": 5, "use_dim": [0, 1, 2, 4, 3]}], "x y z ring intensity"),
    ("kitti", [FILE | {"load_dim": 4, "use_dim": 4}], "x y z intensity"),
    ("time-before", [FILE | {"load_dim": 5, "use_dim": 5}, SWEEPS | {"use_dim": [0, 1, 2, 4, 3]}],
     "x y z time_lag intensity"),
    ("wide", [FILE | {"load_dim": 7, "use_dim": 7}, SWEEPS | {"load_dim": 7, "use_dim": [0, 1, 2, 3, 6, 4]}],
     "x y z intensity column6 time_lag"),
    ("padded", [FILE | {"load_dim": 5, "use_dim": 5}, SWEEPS | {"pad_empty_sweeps": True, "use_dim": [0, 1, 2, 3, 4]}],
     "x y z intensity time_lag"),
    ("reordered-under-time", [FILE | {"load_dim": 5, "use_dim": [0, 1, 2, 3, 3]}, SWEEPS], "x y z time_lag"),
    ("squashed", [FILE | {"load_dim": 5, "use_dim": 4, "norm_intensity": True}], "x y z tanh_intensity"),
    ("height", [FILE | {"load_dim": 5, "use_dim": 4, "shift_height": True}], "x y z height intensity"),
]  # fmt: skip


def written(folder: Path, columns: int, more: float) -> str:
    """Two equal points, whose numbers say which they are."""
    path = folder / f"{more}.bin"
    np.tile(np.array(list(MARKS.values())[:columns], "<f4") + np.float32(more), (2, 1)).tofile(path)
    return str(path)


def expected(name: str, more: float) -> float:
    if name.startswith("tanh_"):
        return float(np.tanh(MARKS[name.removeprefix("tanh_")]))
    return {"time_lag": LAG_S if more else 0.0, "height": 0.0}.get(name, MARKS.get(name, 0.0) + more)


@pytest.mark.parametrize(("steps", "names"), [case[1:] for case in STEPS], ids=[case[0] for case in STEPS])
def test_names_are_what_the_stock_steps_leave(tmp_path: Path, steps: list[dict[str, Any]], names: str) -> None:
    import_mmdet3d()
    from mmdet3d.datasets.transforms import LoadPointsFromFile, LoadPointsFromMultiSweeps

    found = point_loading(steps, "mine.py")
    assert found is not None
    assert found.columns == tuple(names.split())
    width = steps[0].get("load_dim", 6)
    assert found.record == tuple(MARKS)[:width]
    assert found.place == ("pipeline", 0, "load_dim")
    assert found.sweeps_num == (10 if len(steps) == 2 else None)

    arguments = [{key: value for key, value in step.items() if key != "type"} for step in steps]
    frame: dict[str, Any] = {"lidar_points": {"lidar_path": written(tmp_path, width, 0.0)}, "timestamp": LAG_S}
    sweep = {"lidar_path": written(tmp_path, width, 0.5), "lidar2sensor": np.eye(4).tolist()}
    frame["lidar_sweeps"] = [{"timestamp": 0.0, "lidar_points": sweep}]
    frame = LoadPointsFromFile(**arguments[0]).transform(frame)
    if len(steps) == 2:
        frame = LoadPointsFromMultiSweeps(**arguments[1]).transform(frame)
    rows = frame["points"].tensor.numpy()
    assert rows.shape == (2 * len(steps), len(found.columns))
    for row, more in zip(rows[::2], (0.0, 0.5), strict=False):
        np.testing.assert_allclose(row, [expected(name, more) for name in found.columns], rtol=1e-6)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        # mmdet3d would join rings to intensities without a word.
        (
            [FILE | {"load_dim": 5, "use_dim": [0, 1, 2, 4, 3]}, SWEEPS],
            "joins sweeps with the columns x, y, z, intensity, ring to a key frame with x, y, z, ring, intensity",
        ),
        ([FILE | {"load_dim": 5, "use_dim": 4}, SWEEPS], "to a key frame with x, y, z, intensity, and puts"),
        ([FILE | {"load_dim": 6, "use_dim": 6}, SWEEPS], "with x, y, z, intensity, ring, column5, and puts"),
        ([FILE | {"load_dim": 5, "use_dim": 6}], "use_dim is 6, but must name columns 0 to 4"),
        ([FILE | {"load_dim": 5, "use_dim": [0, 1, 2, -1]}], "use_dim[3] is -1, but must be at least 0"),
        ([FILE | {"load_dim": 5, "use_dim": 5}, SWEEPS | {"time_dim": 3}], "time_dim is 3, but must be 4"),
        ([FILE | {"load_dim": 5, "use_dim": 3, "norm_intensity": True}], "must name at least 4 columns"),
    ],
)
def test_steps_that_contradict_each_other(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        point_loading(steps, "mine.py")


def test_a_step_that_nobody_knows_says_nothing() -> None:
    steps = [FILE | {"load_dim": 5, "use_dim": 5}, {"type": "LoadPointsOfSomebody"}]
    assert point_loading(steps, "mine.py") is None
    assert point_loading([], "mine.py") is None


def test_datasets_whose_files_have_other_columns() -> None:
    steps = [FILE | {"load_dim": 6, "use_dim": 6}]
    named = {kind: point_loading(steps, "mine.py", dataset=kind) for kind in ("WaymoDataset", "KittiDataset", "Other")}
    fifth = {kind: loading.columns[4] for kind, loading in named.items() if loading}
    assert fifth == {"WaymoDataset": "elongation", "KittiDataset": "column4", "Other": "column4"}


def config(steps: list[dict[str, Any]] | None, channels: int, key: str = "val_dataloader") -> Any:
    cfg = load_model_config(ROOT / "configs" / "model" / "centerpoint_t4_demo.py")
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        del cfg[loader].dataset["pipeline"]
    if steps is not None:
        cfg[key].dataset = {"type": "RepeatDataset", "dataset": {"type": "T4Dataset", "pipeline": steps}}
    cfg.model.pts_voxel_encoder.in_channels = channels
    return cfg


@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader", "train_dataloader"])
def test_columns_of_a_specification(loader: str) -> None:
    steps = copy.deepcopy(STEPS[5][1])
    spec = ModelSpec.from_config(config(steps, 4, loader))
    assert spec.point_columns == ("x", "y", "z", "intensity")
    assert spec.point_features == 4
    stored = spec.to_dict()
    assert (stored["point_features"], stored["point_columns"]) == (4, ["x", "y", "z", "intensity"])
    assert ModelSpec.from_dict(stored) == spec


def test_columns_of_several_datasets_in_one() -> None:
    cfg = config([], 4)
    inner = {"type": "CBGSDataset", "dataset": {"type": "T4Dataset", "pipeline": STEPS[5][1]}}
    cfg.val_dataloader.dataset = {"type": "ConcatDataset", "datasets": [inner, inner]}
    assert ModelSpec.from_config(cfg).point_columns == ("x", "y", "z", "intensity")


def test_without_a_pipeline_columns_have_no_names() -> None:
    with checking() as record:
        spec = ModelSpec.from_config(config(None, 5))
    (result,) = record.results()
    assert (result.check, result.outcome) == ("columns-unstated", "warning")
    assert "no pipeline says what the 5 columns of a point are" in result.messages[0]
    assert spec.point_columns == ("x", "y", "z", "column3", "column4")
    assert ModelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("steps", "channels", "message"),
    [
        (STEPS[5][1], 5, r"leaves 4 columns a point \(x, y, z, intensity\), but pts_voxel_encoder.in_channels is 5"),
        ([FILE | {"load_dim": 5, "use_dim": [1, 0, 2, 3]}], 4, "leaves the columns y, x, z, intensity; pillars"),
    ],
)
def test_a_pipeline_that_the_network_does_not_take(steps: list[dict[str, Any]], channels: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_config(config(steps, channels))


@pytest.mark.parametrize(
    ("other", "steps", "told"),
    [
        ("train_dataloader", STEPS[5][1], "train_dataloader.dataset.pipeline says x, y, z, intensity"),
        ("test_dataloader", STEPS[5][1], "test_dataloader.dataset.pipeline says x, y, z, intensity"),
        ("train_dataloader", STEPS[0][1], ""),  # of another number: left over from a base, of no training of this model
        ("train_dataloader", [FILE | {"load_dim": 5, "use_dim": 5}, SWEEPS | {"use_dim": [0, 1, 2, 4]}], ""),
    ],
)
def test_pipelines_that_leave_other_columns(other: str, steps: list[dict[str, Any]], told: str) -> None:
    cfg = config([FILE | {"load_dim": 5, "use_dim": 5}, SWEEPS], 4)
    cfg[other].dataset.pipeline = steps
    with checking() as record:
        assert ModelSpec.from_config(cfg).point_columns == NODE_COLUMNS[0]
    assert [result.check for result in record.results()] == ["columns-of-pipelines"] * bool(told)
    assert told in "".join(message for result in record.results() for message in result.messages)


def test_a_pipeline_that_is_none() -> None:
    cfg = config([], 5)
    cfg.val_dataloader.dataset.dataset.pipeline = "LoadPointsFromFile"
    with pytest.raises(ConfigError, match=r"val_dataloader\.dataset\.pipeline is 'LoadPointsFromFile', but must be"):
        ModelSpec.from_config(cfg)


def test_specifications_written_before_columns_had_names() -> None:
    spec = ModelSpec.from_config(config(STEPS[0][1], 5))
    stored = spec.to_dict()
    assert "point_columns" not in stored, "what ONNX files hold of such a model did not change"
    assert ModelSpec.from_dict(stored).point_columns == NODE_COLUMNS[1]
    assert ModelSpec.from_dict(stored | {"point_features": 4}).point_columns == NODE_COLUMNS[0]
    assert implied_columns(6) == ("x", "y", "z", "column3", "column4", "column5")
    assert record_columns(3) == ("x", "y", "z")


@pytest.mark.parametrize(
    "columns",
    [["x", "y", "z", "intensity"], ["x", "y", "z", "beam", "time_lag"], ["y", "x", "z", "ring", "time_lag"]],
)
def test_stored_names_are_checked(columns: list[str]) -> None:
    stored = ModelSpec.from_config(config(STEPS[0][1], 5)).to_dict()
    with pytest.raises(ConfigError, match=r"point_columns is .* and point_features 5; as many names are needed"):
        ModelSpec.from_dict(stored | {"point_columns": columns})
