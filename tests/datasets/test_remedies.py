"""What a message advises where data are missing, typed as it stands, makes what the command then finds."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.infos import read_info_file
from datasets.remedies import DataOptions, how_to_get
from datasets.synthetic.__main__ import main as generate
from tests.datasets.kitti_shaped import write_object, write_sequence, write_tracking

Commands = dict[str, Callable[[list[str]], int]]
OPTIONS = DataOptions()


@pytest.fixture(scope="module")
def commands() -> Commands:
    from datasets.create_kitti_infos import main as create_kitti
    from datasets.create_t4_infos import main as create

    return {
        "datasets.synthetic": generate,
        "datasets.create_t4_infos": create,
        "datasets.create_kitti_infos": create_kitti,
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw T4 dataset without info files."""
    made = tmp_path_factory.mktemp("raw") / "made"
    options = ["--split", "val", "--val-scenes", "1", "--frames-per-scene", "1", "--tables", "--log-level", "ERROR"]
    assert generate(["--out", str(made), *options]) == 0
    return made / "t4"


def followed(text: str, root: Path, info: str, commands: Commands) -> Path:
    """Types the command in a text, and does what it says to give then; returns the info file that is looked for."""
    typed = re.search(r"python -m (\S+) (.*?)(?: \(|, and give|\.(?: |$))", text)
    assert typed is not None, text
    words = shlex.split(typed[2])
    if typed[1] == "datasets.synthetic":
        # As many scenes as it says take a while; what the files are called does not depend on their number.
        words = [re.sub(r"^\d+$", "1", word) for word in words]
    assert commands[typed[1]](words) == 0
    given: dict[str, str] = dict(re.findall(r"(--[a-z-]+)=(\S+?)[.,;]?(?=\s|$)", text))
    return Path(given.get(OPTIONS.root, str(root))) / given.get(OPTIONS.info, info)


@pytest.mark.parametrize("info", ["centerpoint_infos_val.pkl", "my_infos_val.pkl", "frames.pkl", "infos/a_val.pkl"])
def test_raw_datasets_get_the_info_file_that_was_looked_for(
    raw: Path, tmp_path: Path, commands: Commands, info: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(raw, root)
    text = how_to_get(root, info, "val")
    assert "datasets.create_t4_infos" in text
    assert len(read_info_file(followed(text, root, info, commands)).samples) == 1


@pytest.mark.parametrize("write", [write_object, write_tracking, write_sequence])
@pytest.mark.parametrize("info", ["kitti_infos_val.pkl", "centerpoint_infos_val.pkl", "frames.pkl"])
def test_kitti_data_gets_the_info_file_that_was_looked_for(
    tmp_path: Path, commands: Commands, info: str, write: Callable[[Path], Path]
) -> None:
    root = write(tmp_path / "root")
    text = how_to_get(root, info, "val")
    assert "datasets.create_kitti_infos" in text
    assert len(read_info_file(followed(text, root, info, commands)).samples) == 2


@pytest.mark.parametrize(
    ("info", "split"), [("centerpoint_infos_val.pkl", "val"), ("nuscenes_infos_train.pkl", "train")]
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_generated_dataset_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands, info: str, split: str, exists: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY", raising=False)
    root = tmp_path / "absent"
    if exists:
        (root / "other").mkdir(parents=True)
        (tmp_path / "data" / "t4dataset").mkdir(parents=True)
    text = how_to_get(root, info, split)
    assert len(read_info_file(followed(text, root, info, commands)).samples) == 1


def test_info_files_that_are_there_are_named(tmp_path: Path) -> None:
    for name in ("b_val.pkl", "a_val.pkl"):
        (tmp_path / name).touch()
    assert "It has a_val.pkl, b_val.pkl: name the right one with --info-file." in how_to_get(tmp_path, "c.pkl", "val")
    assert "datasets.synthetic" not in how_to_get(tmp_path, "c.pkl", "test"), "the generator makes no test split"
