"""PCD files behind names of records and the other way round: read as what they are, with a word, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.checks import checking
from base.errors import DataError
from datasets.point_forms import begins_as_pcd, check_stated_form
from datasets.points import read_points

FIELDS = ("x", "y", "z", "intensity", "ring")


def cloud(points: int = 400) -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    columns = [
        rng.normal(0, 20, points),
        rng.normal(0, 20, points),
        rng.normal(0, 1, points),
        rng.integers(0, 255, points),
        rng.integers(0, 32, points),
    ]
    return np.column_stack(columns).astype(np.float32)


def pcd(points: NDArray[np.float32], fields: tuple[str, ...] = FIELDS, storage: str = "binary") -> bytes:
    size = len(fields)
    header = (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {' '.join(fields)}\nSIZE{' 4' * size}\n"
        f"TYPE{' F' * size}\nCOUNT{' 1' * size}\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {len(points)}\nDATA {storage}\n"
    )
    if storage == "ascii":
        return header.encode() + "\n".join(" ".join(f"{v:.9g}" for v in row) for row in points.tolist()).encode()
    return header.encode() + points.astype("<f4").tobytes()


@pytest.mark.parametrize("storage", ["binary", "ascii"])
@pytest.mark.parametrize(
    ("name", "outcomes"), [("a.pcd", []), ("a.PCD", []), ("a.pcd.bin", ["file-name"]), ("a.bin", ["file-name"])]
)
def test_a_pcd_file_is_read_whatever_it_is_called(
    tmp_path: Path, storage: str, name: str, outcomes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    expected = cloud()
    (tmp_path / name).write_bytes(pcd(expected, storage=storage))
    with checking() as record:
        np.testing.assert_array_equal(read_points(tmp_path / name), expected)
    assert [item.check for item in record.results()] == outcomes
    assert ("says float32 records without a header, but its beginning says a PCD file" in caplog.text) == bool(outcomes)


def test_fields_are_found_by_name_and_a_column_that_nobody_takes_may_lack(tmp_path: Path) -> None:
    expected = cloud()
    shuffled = pcd(expected[:, [3, 2, 1, 0]], ("intensity", "z", "y", "x"))
    (tmp_path / "a.pcd").write_bytes(shuffled)
    found = read_points(tmp_path / "a.pcd", unused=["ring"])
    np.testing.assert_array_equal(found[:, :4], expected[:, :4])
    assert not found[:, 4].any()
    np.testing.assert_array_equal(read_points(tmp_path / "a.pcd", 4), expected[:, :4])
    with pytest.raises(DataError, match="has no field 'ring', only intensity, z, y, x"):
        read_points(tmp_path / "a.pcd")


def test_records_that_are_called_pcd_are_refused_by_name(tmp_path: Path) -> None:
    cloud().tofile(tmp_path / "a.pcd")
    with pytest.raises(DataError, match=r"a\.pcd' says a PCD file, but its beginning says something else .*\.pcd\.bin"):
        read_points(tmp_path / "a.pcd")
    (tmp_path / "a.pcd").write_bytes(b"")  # a sensor that failed
    assert read_points(tmp_path / "a.pcd").shape == (0, 5)


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (b"# .PCD v0.7 - Point", True),
        (b"# made by a tool\n\n# .pcd v.7\nVERSION .7\n", True),
        (b"VERSION 0.7\nFIELDS x y z\n", True),
        (b"version 0.7\r\nfields x\r\n", True),
        (b"FIELDS x y z\n", True),
        (b"", False),
        (b"# a comment and nothing else", False),
        (b"1.0 2.0 3.0\n", False),
        (b"PK\x03\x04", False),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", False),
        (np.zeros(100, "<f4").tobytes(), False),
        (np.full(100, np.nan, "<f4").tobytes(), False),
    ],
)
def test_first_bytes(data: bytes, is_one: bool) -> None:
    assert begins_as_pcd(data) == is_one


@pytest.mark.parametrize(
    ("name", "stated", "is_one", "outcome"),
    [
        ("a.pcd.bin", "pcd.bin", False, ""),
        ("a.pcd.bin", "bin", False, ""),
        ("a.pcd.bin", None, False, ""),
        ("a.pcd.bin", "", False, ""),
        ("a.pcd", "pcd", True, ""),
        ("a.pcd", ".PCD", True, ""),
        ("a.pcd.bin", "pcd", True, "file-name warning"),
        ("a.pcd.bin", "pcd.bin", True, "file-name warning"),
        ("a.pcd.bin", "pcd", False, "file-name warning"),
        ("a.pcd", "pcd.bin", True, "file-name warning"),
        ("a.pcd", "pcd", False, "file-form error"),
        ("a.pcd.bin", "jpg", False, "file-form error"),
        ("a.las", "las", False, "file-form error"),
    ],
)
def test_what_a_table_says_against_the_name_and_the_bytes(
    tmp_path: Path, name: str, stated: str | None, is_one: bool, outcome: str
) -> None:
    head = pcd(cloud(4))[:512] if is_one else cloud(100).tobytes()[:512]
    with checking() as record:
        if outcome.endswith("error"):
            with pytest.raises(DataError):
                check_stated_form(tmp_path / name, stated, head, "sample_data.json, [0].fileformat")
        else:
            check_stated_form(tmp_path / name, stated, head, "sample_data.json, [0].fileformat")
    assert [f"{item.check} {item.outcome}" for item in record.results()] == ([outcome] if outcome else [])


def test_a_raw_dataset_of_pcd_files_gives_the_frames_of_one_of_records(tmp_path: Path) -> None:
    """Through the command and the pipeline: the same points, whatever the dataset's files are."""
    from datasets.create_t4_infos import main
    from datasets.frames import open_frames
    from datasets.synthetic.dataset_writer import DatasetConfig, generate
    from models.config import load_model_config

    config = DatasetConfig({"val": 1}, frames_per_scene=1, seed=5, key_every=2, sweeps=1, tables=True)
    frames: list[Any] = []
    for form in ("records", "pcd"):
        root = tmp_path / form
        generate(config, root, workers=1)
        if form == "pcd":
            _convert(root)
        splits = str(root / "t4" / "splits.json")
        assert main(["--root", str(root), "--out", str(root), "--splits", splits, "--prefix", "made"]) == 0
        cfg = load_model_config("configs/model/centerpoint_t4_demo.py")
        cfg.val_dataloader.dataset.ann_file = "made_val.pkl"
        frames.append(open_frames(cfg, "val", str(root))[0])
    assert len(frames[0].points) > 1000
    np.testing.assert_array_equal(frames[1].points, frames[0].points)


def _convert(root: Path) -> None:
    """Turns every point file that the tables name into a PCD file without a ring."""
    for table in root.rglob("sample_data.json"):
        rows = json.loads(table.read_text())
        for row in rows:
            path = table.parents[1] / row["filename"]
            if path.suffix == ".bin":
                points = np.fromfile(path, "<f4").reshape(-1, 5)
                row.update(filename=row["filename"].removesuffix(".pcd.bin") + ".pcd", fileformat="pcd")
                (table.parents[1] / row["filename"]).write_bytes(pcd(points[:, :4], FIELDS[:4]))
                path.unlink()
        table.write_text(json.dumps(rows))
