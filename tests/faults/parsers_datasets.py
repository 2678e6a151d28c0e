"""Readers of datasets: info files, T4's tables, lists of splits and classes, point files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import samples, samples_datasets
from tests.faults.commands import call
from tests.faults.mutate_documents import json_mutation, yaml_mutation
from tests.faults.mutate_pickles import pickle_mutation
from tests.faults.mutate_tables import pcd_mutation, records_mutation, words_mutation
from tests.faults.trial import Parser

__all__ = ["PARSERS"]

Reader = Callable[[Path], object]
_TABLES = (
    *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "sample", "sample_annotation"),
    *("sample_data", "scene", "sensor"),
)


def _frames(kind: str) -> Callable[[], Reader]:
    def prepare() -> Reader:
        from datasets.frames import open_frames
        from models.config import load_model_config

        cfg: Any = load_model_config(samples.MODEL_CONFIG)
        dataset = cfg.val_dataloader.dataset
        dataset.type = kind
        if kind == "NuScenesDataset":
            dataset.data_prefix = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP"}

        def read(folder: Path) -> object:
            return list(open_frames(cfg, "val", str(folder)))

        return read

    return prepare


def _preview() -> Reader:
    import matplotlib as mpl

    mpl.use("Agg")
    from datasets.synthetic.preview import main

    return lambda folder: call(main, "--data", folder, "--out", folder / "pictures", "--pictures", "1", "--frames", "1")


def _points() -> Reader:
    from datasets.points import read_points

    return lambda folder: read_points(folder / _POINTS)


def _tables() -> Reader:
    from datasets.create_t4_infos import main

    def read(folder: Path) -> object:
        return call(main, "--root", folder / "db", "--out", folder / "out", "--max-sweeps", "1")

    return read


def _lists(*arguments: str) -> Callable[[], Reader]:
    def prepare() -> Reader:
        from datasets.create_t4_infos import main

        def read(folder: Path) -> object:
            return call(main, "--root", folder, "--out", folder / "out", *(a.format(folder) for a in arguments))

        return read

    return prepare


def _scan(name: str, columns: int) -> Callable[[], Reader]:
    def prepare() -> Reader:
        from datasets.scan import ScanFormat, read_scan
        from models.config import load_model_config
        from models.spec import ModelSpec

        spec = ModelSpec.from_config(load_model_config(samples.MODEL_CONFIG))

        def read(folder: Path) -> object:
            return read_scan(folder / name, ScanFormat(columns), spec)

        return read

    return prepare


def _kitti_infos() -> Reader:
    from datasets.infos import read_info_file
    from datasets.kitti_infos import parse_kitti_sample

    def read(folder: Path) -> object:
        path = folder / "kitti_infos_val.pkl"
        info = read_info_file(path)
        count = len(info.classes())
        return [parse_kitti_sample(raw, path, index, count) for index, raw in enumerate(info.samples)]

    return read


def _kitti_labels() -> Reader:
    from datasets.kitti_files import read_labels

    return lambda folder: read_labels(folder / "label.txt")


def _kitti_calibration() -> Reader:
    from datasets.kitti_files import read_calibration

    return lambda folder: read_calibration(folder / "calib.txt")


def _own_boxes() -> Reader:
    from datasets.own_frames import read_own_frames

    return lambda folder: read_own_frames(folder / "boxes.json")


def _own_infos() -> Reader:
    from datasets.create_infos import main

    def read(folder: Path) -> object:
        labels = ("--labels", folder / "boxes.json")
        return call(main, "--root", folder, "--out", folder / "out", *labels, "--columns", "5")

    return read


_INFOS, _POINTS = "centerpoint_infos_val.pkl", "lidar/00000.bin"
PARSERS: tuple[Parser, ...] = (
    Parser("info file, T4", samples_datasets.t4_dataset, _INFOS, pickle_mutation, _frames("T4Dataset")),
    Parser(
        "info file, nuScenes",
        samples_datasets.nuscenes_dataset,
        _INFOS,
        pickle_mutation,
        _frames("NuScenesDataset"),
        0.2,
    ),
    Parser("info file, KITTI", samples_datasets.kitti, "kitti_infos_val.pkl", pickle_mutation, _kitti_infos, 0.2),
    Parser("KITTI's labels", samples_datasets.kitti, "label.txt", words_mutation, _kitti_labels),
    Parser("KITTI's calibration", samples_datasets.kitti, "calib.txt", words_mutation, _kitti_calibration),
    Parser("boxes of own scans", samples_datasets.own_scans, "boxes.json", json_mutation(), _own_boxes),
    Parser("boxes of own scans, written", samples_datasets.own_scans, "boxes.json", json_mutation(), _own_infos, 0.05),
    Parser("info file, drawn", samples_datasets.t4_dataset, _INFOS, pickle_mutation, _preview, 0.01),
    Parser("point file, alone", samples_datasets.t4_dataset, _POINTS, records_mutation, _points),
    Parser(
        "point file, of a dataset",
        samples_datasets.t4_dataset,
        _POINTS,
        records_mutation,
        _frames("T4Dataset"),
        0.1,
    ),
    *(
        Parser(
            f"T4 tables, {name}",
            samples_datasets.t4_tables,
            f"db/0/annotation/{name}.json",
            json_mutation(),
            _tables,
            0.1,
        )
        for name in _TABLES
    ),
    Parser(
        "list of splits, JSON",
        samples_datasets.t4_tables,
        "splits.json",
        json_mutation(),
        _lists("--splits", "{}/splits.json"),
        0.5,
    ),
    Parser(
        "list of splits, YAML",
        samples_datasets.t4_tables,
        "splits.yaml",
        yaml_mutation,
        _lists("--splits", "{}/splits.yaml"),
        0.5,
    ),
    Parser(
        "classes of T4",
        samples_datasets.t4_tables,
        "classes.json",
        json_mutation(),
        _lists("--classes", "{}/classes.json"),
    ),
    Parser("scan, float32", samples_datasets.scans, "scan5.bin", records_mutation, _scan("scan5.bin", 5), 0.5),
    Parser("scan, PCD ascii", samples_datasets.scans, "ascii.pcd", pcd_mutation, _scan("ascii.pcd", 4), 0.5),
    Parser("scan, PCD binary", samples_datasets.scans, "binary.pcd", pcd_mutation, _scan("binary.pcd", 4), 0.5),
    Parser(
        "scan, PCD compressed", samples_datasets.scans, "compressed.pcd", pcd_mutation, _scan("compressed.pcd", 4), 0.5
    ),
)
