"""The GPU benchmark on a machine without a GPU: its arithmetic, its tables, its peers on the CPU, and what it says."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import BackendUnavailable
from benchmarks import gpu, gpu_page, gpu_sections
from benchmarks.gpu_cloud import lidar_cloud
from benchmarks.gpu_end_to_end import OurFrame
from benchmarks.gpu_engine import Engine, LayerTime, layer_times, relative_errors, throughput
from benchmarks.gpu_layers import device_of, launch_works, layer_rows
from benchmarks.gpu_peers import PeerInputs, exact_outputs, half_channels_last, prepare_peer, time_limit
from benchmarks.gpu_tables import report
from benchmarks.gpu_timing import Contender, EventClock, interleave, ratio
from models.point_columns import NODE_COLUMNS
from quant.roofline import DEVICES, conv_layers
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.checks.reference import store
from runtime.cuda_engine.plan import PlanMap
from tests.benchmarks.pretend_gpu import PretendDevice, PretendNetwork

# A network whose head maps have the size of those of the small model below, 40 x 40.
SMALL = Architecture((80, 80), channels=(64, 64), depths=(1, 1), strides=(2, 2), neck_channels=64, upsamples=(1, 2))
MODEL_760 = "configs/model/second_secfpn_4xb16_121m_base_amp.py"


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> PretendDevice:
    monkeypatch.setattr("runtime.cuda_engine.network.DeviceNetwork", PretendNetwork)
    return PretendDevice()


def test_contenders_take_turns() -> None:
    device = PretendDevice()
    stream = device.create_stream()
    order: list[str] = []
    drift = iter(range(1000))

    def run(key: str, ms: float) -> Any:
        def call() -> None:
            order.append(key)
            # The machine slows down all the time; the ratio does not.
            device.work(stream, ms * (1 + next(drift) / 1e4))

        return call

    contenders = [Contender("a", "A", run("a", 3.0)), Contender("b", "B", run("b", 1.0))]
    timings = interleave(contenders, EventClock(device, stream, 5), rounds=4, runs=5, warmup=1)  # type: ignore[arg-type]
    assert timings["a"].stats.count == 20
    assert len(timings["b"].rounds_ms) == 4
    assert 3.0 < timings["a"].stats.p50 < timings["a"].stats.p99 < 3.1
    # One run of each in front; six of each a turn, of which the first does not count; every other round b is first.
    assert "".join(order) == "ab" + ("a" * 6 + "b" * 6 + "b" * 6 + "a" * 6) * 2
    found = ratio(timings, "a", "b")
    assert found.low <= found.median <= found.high
    assert found.median == pytest.approx(3.0, rel=2e-3)


def test_a_slow_contender_stops_early() -> None:
    def clock(run: Any, count: int) -> list[float]:
        run()
        return [1.0] * count

    slow = Contender("slow", "Slow", lambda: __import__("time").sleep(0.02))
    timings = interleave([slow, Contender("quick", "Quick", lambda: None)], clock, rounds=6, runs=2, limit_s=0.03)
    assert len(timings["slow"].rounds_ms) == 2
    assert timings["slow"].note == "2 of 6 rounds: its 0.03 s were used up"
    assert len(timings["quick"].rounds_ms) == 6
    assert ratio(timings, "slow", "quick").median == 1.0


def test_roofline_by_hand() -> None:
    plan = random_plan(SMALL, "int8")
    first, *_, heads = launch_works(plan)
    # 3x3, 32 to 64 channels, stride 2: 40 x 40 cells.
    assert first.flop == {"int8": 2 * 40 * 40 * 32 * 64 * 9}
    assert first.bytes == 80 * 80 * 32 + 32 * 64 * 9 + 40 * 40 * 64
    assert first.shape == "3x3/2 32→64, 40x40"
    # Six 64 -> 64 in INT8, then 64 -> 15 in all in FP16 to float32.
    assert heads.flop == {"int8": 2 * 1600 * 6 * 64 * 64, "fp16": 2 * 1600 * 64 * 15}
    assert heads.bytes == 1600 * 64 + 6 * 64 * 64 + 2 * 64 * 15 + 4 * 1600 * 15
    up = next(work for work in launch_works(plan) if work.label == "deblocks.1")
    assert up.flop == {"int8": 2 * 40 * 40 * 64 * 64}
    rows = layer_rows(plan, [LayerTime(work.label, 10.0, 8.0) for work in launch_works(plan)], DEVICES["h100"])
    assert rows[0].roofline_us == pytest.approx(first.bytes / 3.35e12 * 1e6)
    assert rows[0].roofline_us is not None
    assert rows[0].bound == "memory"
    assert rows[0].share == pytest.approx(rows[0].roofline_us / 10.0)
    with pytest.raises(ValueError, match="launches"):
        layer_rows(plan, [LayerTime("other", 1.0, 1.0)], None)


def test_work_of_the_full_model() -> None:
    from models.config import load_model_config

    plan = random_plan(Architecture((760, 760)), "int8")
    layers = conv_layers(load_model_config(MODEL_760))
    total = sum(sum(work.flop.values()) for work in launch_works(plan))
    assert total == sum(layer.flop for layer in layers)


def test_gpu_names() -> None:
    assert device_of("NVIDIA H100 80GB HBM3") is DEVICES["h100"]
    assert device_of("NVIDIA H200") is DEVICES["h200"]
    assert device_of("NVIDIA H100 PCIe") is None
    assert device_of("NVIDIA A100-SXM4-80GB") is None


def test_codes_of_a_canvas() -> None:
    canvas = np.array([[[0.0, 0.05, -0.15, 99.0]]], np.float32)
    assert store(canvas, PlanMap("c", 1, 1, 4, 0.1)).tolist() == [[[0, 0, -2, 127]]]
    assert store(canvas, PlanMap("c", 1, 1, 4, None)).dtype == np.float16


def test_relative_errors() -> None:
    exact = {"a": np.array([1.0, -1.0], np.float32)}
    assert relative_errors({"a": np.array([1.1, -1.1], np.float32)}, exact)["a"] == pytest.approx(0.1, rel=1e-5)
    with pytest.raises(ValueError, match="'a'"):
        relative_errors({"a": np.array([np.nan, 0.0], np.float32)}, exact)


def test_layers_and_streams_of_an_engine(pretend: Any) -> None:
    plan = random_plan(SMALL, "float16")
    canvas = np.zeros((32, 80, 80), np.float32)
    engine = Engine.load(pretend, pretend.create_stream(), plan, canvas)
    times = layer_times(engine, repeats=3, launches=4)
    assert [time.label for time in times] == [launch.label for launch in engine.network.launches]
    for time, work in zip(times, launch_works(plan), strict=True):
        expected = sum(work.flop.values()) / 1e7
        assert time.in_order_us == pytest.approx(expected)
        assert time.repeated_us == pytest.approx(expected)
    one, three = throughput("fp16", pretend, plan, canvas, (1, 3), frames=20)
    assert (one.streams, one.frames, three.frames) == (1, 20, 60)
    # Here streams do not share a GPU.
    assert three.frames_per_second == pytest.approx(3 * one.frames_per_second, rel=1e-6)


def test_the_cloud() -> None:
    cloud = lidar_cloud(50_000, NODE_COLUMNS[1], seed=3)
    assert cloud.shape == (50_000, 5)
    assert cloud.dtype == np.float32
    assert np.isfinite(cloud).all()
    np.testing.assert_array_equal(cloud, lidar_cloud(50_000, NODE_COLUMNS[1], seed=3))
    assert lidar_cloud(1000, NODE_COLUMNS[0]).shape == (1000, 4)
    ring = lidar_cloud(1000, ("x", "y", "z", "ring"))[:, 3]
    assert 100 < len(np.unique(ring)) <= 128
    cells = np.unique(np.floor(lidar_cloud()[:, :2] / 0.32).astype(int), axis=0)
    assert 40_000 < len(cells) < 64_000


def test_time_limit() -> None:
    import time

    def work() -> None:
        with time_limit(0.05):
            while True:
                # What swallows every exception of a candidate must not swallow this.
                with contextlib.suppress(Exception):
                    time.sleep(1)

    with pytest.raises(BackendUnavailable, match=r"not ready after 0\.05 s"):
        work()
    time.sleep(0.06)


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    """The demo model with a grid of 80 x 80 and few channels, and every score above the threshold."""
    pytest.importorskip("mmdet3d")
    import torch

    from models.build import build_model
    from models.config import load_model_config
    from models.spec import ModelSpec

    torch.set_num_threads(1)
    cfg = load_model_config("configs/model/centerpoint_t4_demo.py")
    model, limits = cfg.model, [-12.8, -12.8, -3.0, 12.8, 12.8, 5.0]
    model.data_preprocessor.voxel_layer.point_cloud_range = limits
    model.pts_voxel_encoder.point_cloud_range = limits
    model.pts_middle_encoder.output_shape = [80, 80]
    model.pts_backbone.update(out_channels=[8, 16, 16], layer_nums=[1, 1, 1])
    model.pts_neck.update(in_channels=[8, 16, 16], out_channels=[8, 8, 8])
    model.pts_bbox_head.update(in_channels=24, share_conv_channel=8)
    model.pts_bbox_head.separate_head.update(init_bias=0.0)
    model.pts_bbox_head.bbox_coder.pc_range = model.test_cfg.pts.pc_range = limits[:2]
    return ModelSpec.from_config(cfg), build_model(cfg)


@pytest.fixture(scope="module")
def small_cloud() -> np.ndarray[Any, Any]:
    cloud = lidar_cloud(3000, NODE_COLUMNS[1])
    cloud[:, :2] /= 10
    return cloud


@pytest.fixture(scope="module")
def inputs(small: tuple[Any, Any], small_cloud: Any, tmp_path_factory: pytest.TempPathFactory) -> PeerInputs:
    from models.components import extract_components
    from models.spec import BACKBONE_NECK_HEAD

    spec, network = small
    canvas, pillars = gpu_sections.benchmark_canvas(network, spec, small_cloud)
    assert pillars > 100
    module = extract_components(network, spec)[BACKBONE_NECK_HEAD]
    return PeerInputs(module, canvas, spec, tmp_path_factory.mktemp("onnx"))


def test_peers_on_the_cpu(inputs: PeerInputs) -> None:
    import torch

    exact = {name: tensor.numpy() for name, tensor in exact_outputs(inputs).items()}
    names = [head.name for head in inputs.spec.heads]
    for key, limit in (("torch-tf32", 1e-5), ("torch-fp16", 2e-2)):
        found = dict(zip(names, prepare_peer(key, inputs, 120.0)(), strict=True))
        errors = relative_errors({name: tensor.float().numpy() for name, tensor in found.items()}, exact)
        assert max(errors.values()) < limit
    half, canvas = half_channels_last(inputs, fold=True)
    assert canvas.is_contiguous(memory_format=torch.channels_last)
    assert not [module for module in half.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.inference_mode():
        found = dict(zip(names, half(canvas), strict=True))
    assert max(relative_errors({n: t.float().numpy() for n, t in found.items()}, exact).values()) < 2e-2
    # The peers work on copies.
    assert next(inputs.module.parameters()).dtype == torch.float32


@pytest.mark.parametrize("key", ["torch-fp16-graph", "onnxruntime"])
def test_peers_that_need_a_gpu_say_so(inputs: PeerInputs, key: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendUnavailable):
        prepare_peer(key, inputs, 120.0)


@pytest.fixture
def bench(
    small: tuple[Any, Any], small_cloud: Any, pretend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """All sections' surroundings: the small model on the CPU, our engine pretended."""
    from models.components import extract_components
    from runtime import open_detector

    spec, network = small

    class CpuBench(gpu_sections.Bench):
        @contextlib.contextmanager
        def torch_stream(self) -> Any:
            yield __import__("torch")

    def frame(_spec: Any, _folder: Path, _device: str) -> Any:
        detector = open_detector("pytorch", spec=spec, components=extract_components(network, spec))
        return OurFrame(detector)

    monkeypatch.setattr(gpu_sections, "points_to_boxes", frame)
    peers = ("torch-tf32", "torch-fp16", "torch-fp16-graph", "mmdet3d", "mmdet3d-amp")
    settings = gpu_sections.Settings(2, 2, 1, 3000, 120.0, (1, 2), peers)
    folders = {"int8": tmp_path, "fp16": tmp_path}
    found = CpuBench(spec, settings, folders, network, small_cloud, pretend, pretend.create_stream(), 0)
    found._plans.update({"int8": random_plan(SMALL, "int8"), "fp16": random_plan(SMALL, "float16")})
    return found


def test_all_sections_and_the_page(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sections.Bench, "open", classmethod(lambda *_: bench))
    for name in ("pts_voxel_encoder", "pts_backbone_neck_head"):
        (tmp_path / f"{name}.onnx").touch()
    out = tmp_path / "out"
    arguments = ["--onnx-dir-int8", str(tmp_path), "--onnx-dir-fp16", str(tmp_path), "--out", str(out)]
    code = gpu.main([*arguments, "--model-config", MODEL_760, "--commit", "abc"])
    results = json.loads((out / "gpu_centerpoint_t4_demo.json").read_text())
    assert results["failed"] == {}
    assert code == 0
    assert "torch-fp16-graph" in results["skipped"]
    assert [item["key"] for item in results["networks"]["timings"]] == [
        "cuda-int8", "cuda-fp16", "torch-tf32", "torch-fp16",
    ]  # fmt: skip
    # Half of the tiles are active but on an empty canvas: peers and all tiles are compared with each frame.
    frames = results["frames"]
    assert [item["key"] for item in frames["timings"][:2]] == ["cuda-int8, empty", "cuda-int8, street, one sweep"]
    assert len(frames["timings"]) == 10
    every = {item["faster"]: item["median"] for item in frames["ratios"] if item["slower"] == "cuda-int8"}
    assert every["cuda-int8, street, ten sweeps"] == every["cuda-int8, full"] == pytest.approx(2.0)
    assert every["cuda-int8, empty"] == pytest.approx(100.0)
    assert {share for item in frames["frames"] for share in item["shares"].values()} == {0.0, 0.5}
    keys = [item["key"] for item in results["end_to_end"]["timings"]]
    assert keys == ["cuda-int8", "cuda-fp16", "mmdet3d", "mmdet3d-amp"]
    boxes = results["end_to_end"]["boxes"]
    assert boxes["cuda-fp16"] == boxes["mmdet3d"] > 0
    section = results["layers"]["precisions"]["int8"]
    assert section["whole_us"] == pytest.approx(section["in_order_us"])
    assert [row["streams"] for row in results["throughput"]] == [1, 2, 1, 2]
    assert {path.name for path in out.glob("*.png")} == {
        "gpu_centerpoint_t4_demo_layers.png",
        "gpu_centerpoint_t4_demo_networks.png",
    }

    begin, end = (f"<!-- notes on centerpoint_t4_demo: {word} -->" for word in ("begin", "end"))
    (out / "gpu.md").write_text(f"{begin}\nby hand\n{end}\n")
    assert gpu_page.main(["--folder", str(out)]) == 0
    first = (out / "gpu.md").read_text()
    assert "by hand" in first
    assert (out / "gpu_centerpoint_t4_demo.md").read_text() in first
    assert gpu_page.main(["--folder", str(out)]) == 0
    assert (out / "gpu.md").read_text() == first


def test_a_page_without_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_page.main(["--folder", str(tmp_path)]) == 2
    assert "holds no gpu_*.json" in capsys.readouterr().err


def test_the_kept_page_is_that_of_its_results() -> None:
    folder = Path("docs/benchmarks")
    if not list(folder.glob("gpu_*.json")):
        pytest.skip("no GPU results are kept here")
    old = (folder / "gpu.md").read_text(encoding="utf-8")
    assert gpu_page.page(folder, old) == old


def test_tables() -> None:
    def timing(key: str, label: str, p50: float) -> dict[str, Any]:
        return {"key": key, "label": label, "note": "", "stats": {"p50": p50, "p99": p50 * 1.1, "count": 300}}

    row = {
        "label": "/pts_backbone/blocks.0/blocks.0.3/Conv", "shape": "3x3 64→64, 760x760", "in_order_us": 50.0,
        "repeated_us": 45.0, "gflop": 42.6, "megabytes": 74.0, "roofline_us": 22.1, "bound": "memory", "share": 0.442,
    }  # fmt: skip
    results = {
        "model": "m", "date": "2026-01-02", "commit": "abcdef0123456789", "weights": "drawn from seed 0",
        "versions": {"torch": "2.11.0"}, "command": "python -m benchmarks.gpu", "failed": {},
        "skipped": {"onnxruntime": "no CUDA\nprovider"},
        "networks": {
            "timings": [
                timing("cuda-int8", "ours, INT8", 1.0), timing("torch-fp16", "eager", 6.5),
                timing("torch-compile", "compiled", 4.4),
            ],
            "ratios": [
                {"slower": "torch-fp16", "faster": "cuda-int8", "median": 6.5, "low": 6.4, "high": 6.6},
                {"slower": "torch-compile", "faster": "cuda-int8", "median": 4.41, "low": 4.3, "high": 4.5},
            ],
            "relative_errors": {"cuda-int8": {"heatmap": 0.01, "dim": 0.034}},
        },
        "layers": {
            "gpu": "NVIDIA H100 80GB HBM3",
            "peaks": {"name": "H100", "int8_ops": 1.979e15, "fp16_flops": 9.9e14, "bandwidth": 3.35e12},
            "precisions": {
                "int8": {
                    "rows": [row], "in_order_us": 50.0, "repeated_us": 45.0, "whole_us": 44.2, "roofline_us": 22.1,
                },
            },
        },
        "throughput": [{"precision": "int8", "streams": 2, "frames": 800, "frames_per_second": 1250.0}],
    }  # fmt: skip
    text = report(results)
    assert "| ours, INT8 | 1.000 | 1.100 | 300 |  | 0.034 (dim) |" in text
    assert "| compiled | 4.400 | 4.840 | 300 | 4.41 [4.30, 4.50] | – |" in text
    assert "The fastest FP16 peer, compiled, takes 4.41 times as long as ours, INT8." in text
    assert "| pts_backbone blocks.0.3 | 3x3 64→64, 760x760 | 50.0 | 45.0 | 42.60 | 74.0 | 22.1 | memory | 44% |" in text
    assert "| **whole, one graph** |  | 44.2 |  |  |  | 22.1 |  | 50% |" in text
    assert "| INT8 | 2 | 1,250 | 0.800 |" in text
    assert "- onnxruntime: SKIPPED, no CUDA provider" in text
    assert "commit `abcdef012345`" in text


def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for name in ("pts_voxel_encoder", "pts_backbone_neck_head"):
        (tmp_path / f"{name}.onnx").touch()
    arguments = ["--onnx-dir-int8", str(tmp_path), "--onnx-dir-fp16", str(tmp_path), "--out", str(tmp_path / "out")]
    assert gpu.main(["--model-config", MODEL_760, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error (machine): No ")
    assert not (tmp_path / "out").exists()


def test_a_missing_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pts_voxel_encoder.onnx").touch()
    arguments = ["--onnx-dir-int8", str(tmp_path), "--onnx-dir-fp16", str(tmp_path), "--out", str(tmp_path / "out")]
    assert gpu.main(arguments) == 2
    message = capsys.readouterr().err
    assert "--onnx-dir-int8" in message
    assert "pts_backbone_neck_head.onnx" in message
    assert gpu.main([*arguments, "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err
