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
        return Way("T4 info file", samples_datasets.t4_dataset, file, "datasets.synthetic.preview", options)
    if name.endswith(".pth"):
        options = ("--model-config", str(samples.MODEL_CONFIG), "--checkpoint", "{}/checkpoint.pth", "--out", "{}/out")
        return Way("checkpoint", _checkpoint, "checkpoint.pth", "export.tools.export_onnx", options)
    if name.startswith("fz_onnx"):
        file = "work/onnx/pts_voxel_encoder.onnx"
        return Way("ONNX file, run", samples.deployment, file, "deploy.inspect", ("{}/" + file,))
    if name.startswith("fz_scoregz"):
        options = ("--frames", "{}/frames.jsonl.gz", "--out", "{}/scores.json")
        return Way("score input, gzip", samples.score_frames, "frames.jsonl.gz", "eval.score", options)
    if name == "hugeint.json":
        options = ("--root", "{}", "--out", "{}/out", "--classes", "{}/classes.json")
        parser, file = "classes of T4", "classes.json"
    else:
        table = name.removeprefix("fz_t4_").rpartition("_")[0]
        options = ("--root", "{}", "--out", "{}/out")
        parser, file = f"T4 table {table}", f"db/0/annotation/{table}.json"
    return Way(parser, samples_datasets.t4_tables, file, "datasets.create_t4_infos", options)


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, output, CPU seconds, largest resident memory in KB."""

    code: int
    output: str
    cpu_s: float
    memory_kb: int


def _walls() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_WALL_S, CPU_WALL_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(chosen: Way, folder: Path) -> Ended:
    """Runs the command as a user types it, in the folder."""
    path = os.pathsep.join([str(samples.REPOSITORY), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    environment.pop("BUILD_WORKING_DIRECTORY", None)
    with (folder / "output").open("w+b") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", chosen.module, *(option.format(folder) for option in chosen.options)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_walls,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return Ended(process.returncode, text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


@cache
def good_run(module: str) -> Ended:
    """The same command on files that are right: what it costs to start it."""
    import tempfile

    name = next(name for name in FILES if way(name).module == module)
    folder = Path(tempfile.mkdtemp(prefix="good-"))
    chosen = way(name)
    chosen.sample(folder)
    ended = run(chosen, folder)
    shutil.rmtree(folder)
    assert ended.code == 0, ended.output
    return ended


@pytest.fixture(autouse=True)
def _nothing_is_run() -> Iterator[None]:
    CANARY.unlink(missing_ok=True)
    yield
    assert not CANARY.exists()


@pytest.mark.parametrize("name", FILES)
def test_the_command_refuses(name: str, tmp_path: Path) -> None:
    chosen = way(name)
    chosen.sample(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.name != "output"}
    shutil.copyfile(FOLDER / name, tmp_path / chosen.file)
    ended = run(chosen, tmp_path)
    assert ended.code == 2, ended.output
    assert "Traceback" not in ended.output
    assert Path(chosen.file).name in ended.output
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before - {tmp_path / "output"}
    assert made == set(), "a refused file leaves nothing"
    normal = good_run(chosen.module)
    assert ended.cpu_s < normal.cpu_s + CPU_LIMIT_S
    assert ended.memory_kb < normal.memory_kb + MEMORY_LIMIT_KB


@pytest.mark.parametrize("parser_name", sorted({way(name).parser for name in FILES}))
def test_the_reader_refuses_quickly_and_in_little_memory(parser_name: str, tmp_path: Path) -> None:
    """The reader alone, where neither imports nor a model hide its time and memory."""
    names = [name for name in FILES if way(name).parser == parser_name]
    (parser,) = named(parser_name)
    summary = try_files(parser, tmp_path, [(FOLDER / name).read_bytes() for name in names])
    assert dict(summary.outcomes) == {"refused": len(names)}, (names, summary.failures)
