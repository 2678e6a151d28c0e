"""Speed and memory of `//eval:score` on JSON Lines: `python -m benchmarks.score_file [--frames 1000 10000]`."""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.command import add_log_level, run_command, run_main
from base.files import user_path, write_json
from benchmarks.scenes import CLASS_NAMES, make_frames
from eval.machine import MachineInfo
from eval.metrics import ObjectTable

__all__ = ["FileMeasurement", "main", "measure_file", "write_frames"]

_ROOT = Path(__file__).resolve().parents[1]
_BOXES_PER_FRAME = 60
_FRAMES_AT_ONCE = 128
_DECIMALS = 4

# The command, followed by its peak memory. Not getrusage, in which a process starts with the peak of its parent.
_COMMAND = """
import re, sys
from eval.score import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) / 1024)
sys.exit(code)
"""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileMeasurement:
    """One run of the command.

    Attributes:
        frames: Frames in the file, 60 detections and 60 ground truths each.
        file_mb: Its size.
        seconds: Of the whole process, from its start to its end.
        frames_per_s: Their quotient.
        peak_memory_mb: Largest resident memory of that process.
    """

    frames: int
    file_mb: float
    seconds: float
    frames_per_s: float
    peak_memory_mb: float


def _boxes(table: ObjectTable, rows: slice, *, truth: bool) -> list[dict[str, Any]]:
    names = ("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy")
    part = table.select(rows)
    boxes = []
    for index in range(len(part)):
        values = (*part.center[index], *part.size[index], part.yaw[index], *part.velocity[index])
        box: dict[str, Any] = {"label": CLASS_NAMES[part.label[index]]}
        box |= {name: round(float(value), _DECIMALS) for name, value in zip(names, values, strict=True)}
        if truth:
            box["num_points"] = int(part.num_points[index])
        else:
            box["score"] = round(float(part.score[index]), 6)
        boxes.append(box)
    return boxes


def write_frames(path: Path, num_frames: int) -> None:
    """Writes made-up frames as JSON Lines."""
    with path.open("w", encoding="utf-8") as stream:
        for start in range(0, num_frames, _FRAMES_AT_ONCE):
            count = min(_FRAMES_AT_ONCE, num_frames - start)
            estimates, truth = make_frames(count, _BOXES_PER_FRAME, seed=start)
            for frame in range(count):
                rows = slice(frame * _BOXES_PER_FRAME, (frame + 1) * _BOXES_PER_FRAME)
                line = {
                    "token": f"frame-{start + frame}",
                    "gt": _boxes(truth, rows, truth=True),
                    "est": _boxes(estimates, rows, truth=False),
                }
                stream.write(json.dumps(line) + "\n")


def measure_file(num_frames: int, config: str, folder: Path) -> FileMeasurement:
    """Writes a file, scores it in a process of its own, and removes it.

    Raises:
        RuntimeError: the command failed.
    """
    path, out = folder / "frames.jsonl", folder / "scores.json"
    write_frames(path, num_frames)
    size = path.stat().st_size / 1e6
    command = [sys.executable, "-c", _COMMAND, "--frames", str(path), "--out", str(out), "--config", config]
    began = time.perf_counter()
    result = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    path.unlink()
    if result.returncode != 0:
        raise RuntimeError(f"eval.score {' '.join(command[3:])} ended with {result.returncode}: {result.stderr}")
    return FileMeasurement(num_frames, size, seconds, num_frames / seconds, float(result.stdout))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="score_file", description="Measure //eval:score on a file of JSON Lines.")
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10000], metavar="N", help="sizes, ascending")
    parser.add_argument("--config", default="awml", help="preset to score by (default %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the measurements as JSON")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _measure_all(args), args.log_level)


def _measure_all(args: argparse.Namespace) -> None:
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in sorted(args.frames):
            measured.append(measure_file(frames, args.config, Path(folder)))
            _logger.info("%d frames: %.1f s", frames, measured[-1].seconds)
    print(f"{'frames':>8} {'file MB':>8} {'seconds':>8} {'frames/s':>9} {'peak MB':>8}")  # noqa: T201
    for item in measured:
        print(  # noqa: T201 - what the command is for
            f"{item.frames:8,} {item.file_mb:8,.0f} {item.seconds:8.2f} {item.frames_per_s:9,.0f} "
            f"{item.peak_memory_mb:8,.0f}"
        )
    if args.out:
        rows = [asdict(item) for item in measured]
        write_json(user_path(args.out), {"machine": asdict(MachineInfo.current()), "measurements": rows})


if __name__ == "__main__":
    run_main(main)
