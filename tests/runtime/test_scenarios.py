"""The scenarios of `python -m benchmarks.scenarios`: ONNX Runtime on a CPU, and clocks that the test moves."""

from __future__ import annotations

import gc
import json
import mmap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.boxes import Boxes3D
from benchmarks.scenarios.__main__ import main
from benchmarks.scenarios.drive import Drive
from benchmarks.scenarios.streams import constant_rate, offline, single_stream
from benchmarks.scenarios.tails import Tail
from benchmarks.scenarios.watch import GpuSample, Watch, parse_sample
from models.spec import ModelSpec
from runtime.counts import VoxelCounts
from runtime.decoders import TRAINING_DECODER
from runtime.detector import Detector, Inference
from tests.runtime.small_model import cloud, small_config


class Moved:
    """A clock that only the detector and waiting move."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wait_until(self, at_s: float) -> None:
        self.at = max(self.at, at_s)


class Taking(Detector):
    """Takes so many milliseconds by a clock, and keeps what it was given."""

    def __init__(self, spec: ModelSpec, clock: Moved, took_ms: list[float]) -> None:
        super().__init__(spec, "onnx", "cpu", TRAINING_DECODER)
        self.clock, self.took_ms, self.seen = clock, took_ms, list[Any]()

    def detect(self, points: Any) -> Inference:
        took = self.took_ms[min(len(self.seen), len(self.took_ms) - 1)]
        self.clock.at += took / 1e3
        self.seen.append(points)
        return Inference(Boxes3D.empty(), {}, {"preprocess": took}, took, VoxelCounts())


def numbered(frames: int) -> Drive:
    """Frame i is one point whose x is i."""
    places = tuple(np.full((1, 5), float(index), np.float32) for index in range(frames))
    return Drive(places, np.ones(frames, np.int64), 0)


def test_a_detector_in_time_runs_every_frame(spec: ModelSpec) -> None:
    clock = Moved()
    detector = Taking(spec, clock, [30.0])
    found = constant_rate(detector, numbered(10), rate_hz=20, frames=10, warmup=0, clock=clock)
    assert [float(points[0, 0]) for points in detector.seen] == list(range(10))
    assert (found.came, found.ran, found.overtaken, found.late, found.misses) == (10, 10, 0, 0, 0)
    assert found.latency.p50_ms == pytest.approx(30)
    # Frame 1 came 50 ms after frame 0, and its boxes 30 ms later: until then those of frame 0 were the newest.
    assert found.stalest_ms == pytest.approx(80)


def test_the_newest_frame_wins_where_the_detector_is_late(spec: ModelSpec) -> None:
    clock = Moved()
    # The first frame takes three and a half periods of 50 ms, those after it a fifth of one.
    detector = Taking(spec, clock, [175.0, 10.0])
    found = constant_rate(detector, numbered(8), rate_hz=20, frames=8, warmup=0, clock=clock)
    # When it is done, frames 1, 2 and 3 have come: 3 is the newest.
    assert [float(points[0, 0]) for points in detector.seen] == [0, 3, 4, 5, 6, 7]
    assert (found.came, found.ran, found.overtaken, found.late) == (8, 6, 2, 1)
    assert found.misses == 3
    # Frame 3 came at 150 ms, began at 175 and was done at 185; frame 0 had come at 0.
    assert found.latency.max_ms == pytest.approx(175)
    assert found.stalest_ms == pytest.approx(185)


def test_a_detector_slower_than_the_rate_runs_each_others_frame(spec: ModelSpec) -> None:
    clock = Moved()
    detector = Taking(spec, clock, [90.0])
    found = constant_rate(detector, numbered(11), rate_hz=20, frames=11, warmup=0, clock=clock)
    assert found.ran + found.overtaken == found.came == 11
    assert found.late == found.ran
    assert found.misses == 11


def test_percentiles_of_a_tail() -> None:
    samples = np.arange(1, 1002, dtype=np.float64)
    tail = Tail.of(samples)
    assert (tail.p50_ms, tail.p99_ms, tail.max_ms) == (501, 991, 1001)
    assert tail.p999_ms == pytest.approx(1000)
    assert tail.p999_over_p50 == pytest.approx(1000 / 501)


def test_clouds_of_a_drive_differ_and_are_the_same_each_time() -> None:
    places = [cloud(seed, 500) for seed in range(3)]
    drive, again = Drive.through(places, 200, seed=1), Drive.through(places, 200, seed=1)
    assert len(drive) == 200
    assert len({drive[index].tobytes() for index in range(200)}) == 200
    assert all(np.shares_memory(drive[index], places[index % 3]) for index in range(9))
    np.testing.assert_array_equal(drive[57], again[57])
    np.testing.assert_array_equal(drive[257], drive[57])
    assert 275 <= drive.counts.min() < drive.counts.max() <= 500
    # As a drive's: neighbours of one place are near each other.
    assert np.abs(np.diff(drive.counts[::3])).max() < 60
    with pytest.raises(ValueError, match="0 places and 3 frames make no drive"):
        Drive.through([], 3)


def test_what_makes_a_frame_slow_is_named(spec: ModelSpec) -> None:
    class Collects(Taking):
        def detect(self, points: Any) -> Inference:
            begin = time.perf_counter()
            result = super().detect(points)
            if len(self.seen) == 30:
                gc.collect()
            if len(self.seen) == 40:
                # From the system, and not what the allocator kept of an array before: its pages are new.
                with mmap.mmap(-1, 1 << 24) as memory:
                    memory[:] = bytes(1 << 24)
            if len(self.seen) == 50:
                time.sleep(0.05)
            result.stages_ms = {"preprocess": (time.perf_counter() - begin) * 1e3 if len(self.seen) == 50 else 0.0}
            return result

    detector = Collects(spec, Moved(), [0.0])
    with Watch(period_s=0.01) as watch:
        found = single_stream(detector, numbered(5), frames=60, warmup=1, watch=watch)
    assert found.tail.frames == 60
    causes = {item.index: item.causes for item in found.slow}
    # One frame of warm-up went first.
    assert any(cause.startswith("garbage collection, generation 2") for cause in causes[28])
    assert any(cause.endswith("pages touched first") for cause in causes[38])
    assert causes[48][0].startswith("stage preprocess, +5")
    assert sum(found.causes.values()) >= 3
    assert found.memory.most_mib >= found.memory.first_mib > 10
    assert watch.collections
    assert not watch._threads[0].is_alive()


def test_every_detector_takes_frames_and_a_failure_is_told(spec: ModelSpec) -> None:
    detectors = [Taking(spec, Moved(), [1.0]) for _ in range(3)]
    found = offline(detectors, [numbered(7)] * 3, frames=21, warmup=0)
    assert (found.how, found.frames, found.latency.frames) == ("3 at a time", 21, 21)
    seen = sorted(float(points[0, 0]) for detector in detectors for points in detector.seen)
    assert seen == sorted([*range(7)] * 3)
    with pytest.raises(IndexError):
        # One that has no milliseconds left to take.
        offline([Taking(spec, Moved(), [])], [numbered(7)], frames=21, warmup=0)


def test_a_line_of_nvidia_smi() -> None:
    sample = parse_sample("1980, 3201, 41, 212.5, [N/A], 0x0000000000000000\n", 7.0)
    assert sample == GpuSample(7.0, 1980.0, 3201.0, 41.0, 212.5, None, "0x0000000000000000")
    assert parse_sample("No devices were found\n", 7.0) is None


def test_the_command_runs_all_scenarios_on_onnx_runtime(
    spec: ModelSpec, onnx_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out, page = tmp_path / "small.py", tmp_path / "scenarios.json", tmp_path / "page.md"
    small_config(spec).dump(config)
    arguments = [
        "--backend", "onnx", "--model-config", str(config), "--onnx-path", str(onnx_dir), "--device", "cpu",
        "--points", "900", "--places", "1", "--frames", "12", "--rates", "20", "--rate-frames", "4",
        "--networks", "1", "2", "--offline-frames", "6", "--warmup", "1",
        "--collector", "on", "--sample-s", "0.05", "--out", str(out), "--page", str(page),
    ]  # fmt: skip
    assert main(arguments) == 0
    report = json.loads(out.read_text())
    assert (report["backend"], report["device"]) == ("onnx", "cpu")
    assert report["single_stream"]["tail"]["frames"] == 12
    assert report["single_stream"]["gpu"] is None
    assert report["constant_rate"][0]["came"] == 4
    assert [item["how"] for item in report["offline"]] == ["1 at a time", "2 at a time"]
    text = page.read_text()
    assert text.strip() in capsys.readouterr().out
    for part in ("### Single stream", "p99.9 / p50", "### Constant rate", "| 20 | 4 |", "### Offline", "2 at a time"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "onnx"], "Give --onnx-path"),
        (["--backend", "onnx", "--drawn", "stock"], "--drawn is a network of the engine's own: give --backend cuda"),
    ],
)
def test_wrong_requests_end_with_two(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
