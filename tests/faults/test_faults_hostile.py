"""Files that were made to break a reader, each through the reader alone and through a command as it is typed."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.faults import samples, samples_datasets
from tests.faults.parsers import named
from tests.faults.spawner import Process, Spawner
from tests.faults.trial import try_files

FOLDER = Path(__file__).with_name("hostile")
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".md")
CPU_LIMIT_S, MEMORY_LIMIT_KB = 2.0, 1 << 20
# Walls for the machine's sake; what must hold is far below. torch maps some gigabytes when it is imported.
ADDRESS_SPACE, CPU_WALL_S = 8 << 30, 60
# What u41_os_system.pkl would make.
CANARY = Path("/tmp/hostile-pickle")


@dataclass(frozen=True)
class Way:
    """How a kind of file gets into a command.

    Attributes:
        parser: Name of the reader.
        sample: Makes a folder in which everything is right.
        file: The file that the hostile one replaces, relative to that folder.
        module: The command.
        options: Its command line; `{}` is the folder.
    """

    parser: str
    sample: Callable[[Path], None]
    file: str
    module: str
    options: tuple[str, ...]


def _checkpoint(folder: Path) -> None:
    (folder / "checkpoint.pth").write_bytes(_checkpoint_bytes())


@cache
def _checkpoint_bytes() -> bytes:
    import io

    import torch

    from models.build import build_model
    from models.config import load_model_config

    buffer = io.BytesIO()
    torch.save({"state_dict": build_model(load_model_config(samples.MODEL_CONFIG), seed=5).state_dict()}, buffer)
    return buffer.getvalue()


def way(name: str) -> Way:
    """How the hostile file of that name is read."""
    options: tuple[str, ...]
    if name.endswith(".pkl"):
        options = ("--data", "{}", "--out", "{}/out", "--pictures", "1")
        file = "centerpoint_infos_val.pkl"
        return Way("info file, T4", samples_datasets.t4_dataset, file, "datasets.synthetic.preview", options)
    if name.endswith(".pth"):
        options = ("--model-config", str(samples.MODEL_CONFIG), "--checkpoint", "{}/checkpoint.pth", "--out", "{}/out")
        return Way("checkpoint, float", _checkpoint, "checkpoint.pth", "export.tools.export_onnx", options)
    if name.startswith("fz_onnx"):
        file = "work/onnx/pts_voxel_encoder.onnx"
        return Way("ONNX file, run", samples.deployment, file, "deploy.inspect", ("{}/" + file,))
    if name.startswith("fz_scoregz"):
        options = ("--frames", "{}/frames.jsonl.gz", "--out", "{}/scores.json")
        return Way("frames to score, gzip", samples.score_frames, "frames.jsonl.gz", "eval.score", options)
    if name == "hugeint.json":
        options = ("--root", "{}", "--out", "{}/out", "--classes", "{}/classes.json")
        parser, file = "classes of T4", "classes.json"
    else:
        table = name.removeprefix("fz_t4_").rpartition("_")[0]
        options = ("--root", "{}", "--out", "{}/out")
        parser, file = f"T4 tables, {table}", f"db/0/annotation/{table}.json"
    return Way(parser, samples_datasets.t4_tables, file, "datasets.create_t4_infos", options)


def _walls() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_WALL_S, CPU_WALL_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _start(chosen: Way, folder: Path, commands: Spawner) -> Process:
    """The command with the files of a folder, ended."""
    arguments = [option.format(folder) for option in chosen.options]
    process = commands.start(chosen.module, arguments, folder, folder / "output")
    process.wait()
    return process


@pytest.fixture(scope="module")
def good_runs(commands: Spawner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Process]:
    """Each command on files that are right, its imports done: what it costs anyway."""
    ended = {}
    for module, chosen in {chosen.module: chosen for chosen in map(way, FILES)}.items():
        warm, folder = tmp_path_factory.mktemp("warm"), tmp_path_factory.mktemp("good")
        for place in (warm, folder):
            chosen.sample(place)
        commands.warm(module, [option.format(warm) for option in chosen.options])
        ended[module] = _start(chosen, folder, commands)
        assert ended[module].wait() == 0, ended[module].output()
    return ended


@pytest.fixture(autouse=True)
def _nothing_is_run() -> Iterator[None]:
    CANARY.unlink(missing_ok=True)
    yield
    assert not CANARY.exists()


@pytest.mark.parametrize("name", FILES)
def test_the_command_refuses(name: str, tmp_path: Path, commands: Spawner, good_runs: dict[str, Process]) -> None:
    chosen = way(name)
    chosen.sample(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.name != "output"}
    shutil.copyfile(FOLDER / name, tmp_path / chosen.file)
    ended, normal = _start(chosen, tmp_path, commands), good_runs[chosen.module]
    _check_refusal(ended.wait(), ended.output(), Path(chosen.file).name)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before - {tmp_path / "output"}
    assert made == set(), "a refused file leaves nothing"
    assert ended.cpu_s < normal.cpu_s + CPU_LIMIT_S
    assert ended.memory_kb < normal.memory_kb + MEMORY_LIMIT_KB


def _check_refusal(code: int, output: str, name: str) -> None:
    assert code == 2, output
    assert "Traceback" not in output
    assert name in output


def test_a_command_as_it_is_typed(tmp_path: Path) -> None:
    """In a process of its own from the start, within walls."""
    name = "u01_liar_dtype_array.pkl"
    chosen = way(name)
    chosen.sample(tmp_path)
    shutil.copyfile(FOLDER / name, tmp_path / chosen.file)
    path = os.pathsep.join([str(samples.REPOSITORY), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    environment.pop("BUILD_WORKING_DIRECTORY", None)
    ended = subprocess.run(
        [sys.executable, "-m", chosen.module, *(option.format(tmp_path) for option in chosen.options)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=_walls,
        check=False,
    )
    _check_refusal(ended.returncode, ended.stdout + ended.stderr, Path(chosen.file).name)


@pytest.mark.parametrize("parser_name", sorted({way(name).parser for name in FILES}))
def test_the_reader_refuses_quickly_and_in_little_memory(parser_name: str, tmp_path: Path) -> None:
    """The reader alone, where neither imports nor a model hide its time and memory."""
    names = [name for name in FILES if way(name).parser == parser_name]
    (parser,) = named(parser_name)
    summary = try_files(parser, tmp_path, [(FOLDER / name).read_bytes() for name in names])
    assert dict(summary.outcomes) == {"refused": len(names)}, (names, summary.failures)
