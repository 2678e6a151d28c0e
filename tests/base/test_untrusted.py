"""Hostile and broken files are refused, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from base.errors import CheckpointError, DataError
from base.untrusted import load_info_pickle, load_weights_file


class _Hostile:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_info_file_round_trips(tmp_path: Path) -> None:
    value = {"data_list": [{"ego2global": np.eye(4), "timestamp": 1.5, "n": np.int64(3)}], "metainfo": {"v": (1, "a")}}
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps(value))
    loaded = load_info_pickle(path)
    np.testing.assert_array_equal(loaded["data_list"][0]["ego2global"], np.eye(4))
    assert loaded["data_list"][0]["n"] == 3
    assert loaded["metainfo"] == {"v": (1, "a")}


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_hostile_info_file_does_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "owned"
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps({"data_list": _Hostile(marker)}, protocol=protocol))
    with pytest.raises(DataError, match=r"infos\.pkl' .* was refused: it asks for '(posix|os)\.mkdir'"):
        load_info_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_truncated_info_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps({"data_list": list(range(100))})[:cut])
    with pytest.raises(DataError, match=rf"infos\.pkl' \({cut} bytes\) was refused"):
        load_info_pickle(path)


def test_hostile_checkpoint_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    path = tmp_path / "model.pth"
    torch.save({"state_dict": _Hostile(marker)}, path)
    with pytest.raises(CheckpointError, match=r"model\.pth' .* was refused: .*Nothing in it was run"):
        load_weights_file(path)
    assert not marker.exists()


def test_broken_and_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth' does not exist"):
        load_weights_file(tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match=r"cut\.pth' \(\d+ bytes\) was refused"):
        load_weights_file(tmp_path / "cut.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_weights_file(tmp_path / "list.pth")


def test_checkpoint_round_trips(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.arange(3.0)}, "meta": {"seed": 0}}, tmp_path / "m.pth")
    loaded = load_weights_file(tmp_path / "m.pth")
    assert loaded["meta"] == {"seed": 0}
    assert loaded["state_dict"]["w"].tolist() == [0.0, 1.0, 2.0]
