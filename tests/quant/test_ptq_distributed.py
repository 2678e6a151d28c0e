"""Calibration under torchrun: two processes on the CPU, each with its own frames, and the bytes of one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from base.errors import ConfigError, DataError
from base.torchrun import Processes
from quant.calibration.observation import observe_activations
from quant.centerpoint_quantization import main
from quant.modules.quant_conv import QuantConv2d
from quant.quantizer import named_quantizers
from tests.base.forked_torchrun import run_forked, run_forked_torchrun

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "model" / "centerpoint_t4_demo.py"
CHECKPOINT = REPOSITORY / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ALONE = ("in a copy of this process",)
FORKED = ("torchrun's agent, in copies of this process",)
FRAMES = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from datasets.synthetic.dataset_writer import DatasetConfig, generate

    folder = tmp_path_factory.mktemp("distributed") / "t4"
    generate(DatasetConfig({"train": 1, "val": 1}, frames_per_scene=FRAMES, seed=5, sweeps=1), folder, workers=1)
    return folder


def ptq(launch: tuple[str, ...], data: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command; its checkpoint and its scales are written into `out`."""
    out.mkdir()
    given = {
        "--config": CONFIG,
        "--checkpoint": CHECKPOINT,
        "--data-root": data,
        "--calibrate-batches": FRAMES,
        "--output": out / "ptq.pth",
        "--calib-cache": out / "scales.json",
    }
    arguments = ["ptq", *(str(word) for pair in given.items() for word in pair), *options]
    if launch is ALONE:
        return run_forked(lambda: main(arguments), out)
    if launch is FORKED:
        return run_forked_torchrun(main, arguments, out)
    return subprocess.run(
        [sys.executable, *launch, "-m", "quant.centerpoint_quantization", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]),
            "CUDA_VISIBLE_DEVICES": "",
        },
        cwd=out,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(dataset: Path, tmp_path: Path) -> None:
    """With biases corrected afterwards, which the first process does alone."""
    for name, launch in (("alone", ALONE), ("shared", TORCHRUN)):
        done = ptq(launch, dataset, tmp_path / name, "--method=bias_correction", "--amax-method=sparse_mse")
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.count("layers in INT8") == 1
    for name in ("scales.json", "ptq.pth"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


@pytest.mark.slow
def test_a_broken_frame_of_one_process_ends_all(dataset: Path, tmp_path: Path) -> None:
    data = tmp_path / "broken"
    shutil.copytree(dataset, data)
    (data / "lidar" / "train_0000_00001.bin").write_bytes(b"no")
    done = ptq(FORKED, data, tmp_path / "out")
    assert done.returncode != 0
    assert done.stderr.count("error (input): process ") == 1
    assert "exitcode  : 2" in done.stderr
    assert not list((tmp_path / "out").iterdir())


class Pair(Processes):
    """The first of two processes; the other one's part is made by the test."""

    def __init__(self, rank: int, fingerprint: str | None = None) -> None:
        super().__init__(rank, 2, rank)
        self.sent: list[object] = []
        self.fingerprint = fingerprint

    def exchange(self, value: Any) -> Any:
        self.sent.append(value)
        return [value] if self.fingerprint is None else [value, (*value[:2], self.fingerprint)]


def test_models_that_differ_are_not_merged() -> None:
    layer = QuantConv2d.from_float(torch.nn.Conv2d(2, 2, 1))
    quantizers = named_quantizers(layer)
    name = next(name for name in quantizers if "weight" not in name)

    def observe(processes: Processes, batches: object) -> object:
        return observe_activations(
            layer,
            layer,
            {name: quantizers[name]},
            batches,  # type: ignore[arg-type]
            3,
            all_quantizers=quantizers.values(),
            show_progress=False,
            processes=processes,
        )

    canvases = [torch.full((1, 2, 4, 4), float(index + 1)) for index in range(3)]
    first, second = Pair(0), Pair(1)
    observe(first, canvases)
    observe(second, canvases)
    assert first.sent[0][0] == ["batch 0", "batch 2"]  # type: ignore[index]
    assert second.sent[0][0] == ["batch 1"]  # type: ignore[index]
    with pytest.raises(DataError, match="hold models with different weights"):
        observe(Pair(0, "another"), canvases)
    with pytest.raises(ConfigError, match="which several processes of torchrun cannot share"):
        observe(first, iter(canvases))
