"""Every form of pillar encoder that the engine's kernels take, run on the CPU, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.arguments import DEFAULT_POINTS
from base.errors import ConfigError
from benchmarks.gpu_pillars import PillarModelCase, measure
from models.spec import ModelSpec
from runtime.capacity import cloud_bytes
from runtime.cuda.device import pointers
from runtime.cuda_engine.checks.cases import engine_spec, hard_clouds, random_weights, stock_spec
from runtime.cuda_engine.checks.frame_checks import stock_architecture
from runtime.cuda_engine.checks.pillar_checks import ENCODER_FORMS, PillarBench, check_encoder_forms
from runtime.cuda_engine.checks.random_plans import random_plan
from runtime.cuda_engine.frame import DeviceFrame
from runtime.cuda_engine.macros import definitions, kernel_source
from runtime.cuda_engine.pillar_parameters import COUNTERS, PILLAR_SIZES, TOTALS, PillarModel, check_encoder
from runtime.cuda_engine.pillars import CanvasMemory, PillarEncoderKernels
from runtime.pillar_weights import PfnLayer, PillarWeights
from runtime.preprocess import voxelize
from tests.runtime.emulated_device import EmulatedDevice
from tests.runtime.fake_engine import FakeDevice
from tests.runtime.nvcc import compile_cubin, needs_nvcc
from tests.runtime.small_model import cloud, small_config, small_spec


@pytest.fixture
def device() -> Any:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return EmulatedDevice()


# Of each compile-time form at least one; the self-check on a GPU runs all of them.
@pytest.mark.parametrize("form", ["[128], 128 points", "[16, 32], 100 points", "no cluster", "bare"])
def test_encoders_give_what_numpy_gives(device: Any, form: str) -> None:
    check_encoder_forms(device, capacity=2900, cells=32, forms=[form])
    device.check_guards()


def test_crowded_pillars_keep_their_first_points(device: Any) -> None:
    bench = PillarBench(
        device, engine_spec(32, max_points_per_voxel=128), random_weights(engine_spec(32), 0), 0.05, 6000
    )
    points = np.random.default_rng(0).uniform(0.05, 0.25, (6000, 5)).astype(np.float32)
    bench.run(points)
    bench.compare(points, "one pillar")
    assert bench.kernels.download_counts(bench.stream).dropped_points == 6000 - 128


def test_blocks_take_turns_where_there_are_more_tiles(device: Any) -> None:
    """Room for many points is no block for each tile of it: blocks take one tile after the other."""
    device.num_multiprocessors = 1
    spec = engine_spec(32, max_voxels=500)
    bench = PillarBench(device, spec, random_weights(spec, 16), 0.05, 7000)
    assert PILLAR_SIZES.rank_blocks(7000, 1) == 4 < -(-7000 // PILLAR_SIZES.rank_tile)
    for name, points in hard_clouds(spec, 7000):
        bench.run(points)
        bench.compare(points, name)


_LIST_POINTS = """
extern "C" __global__ void list_points(const u32* order, const int* count, u32* found) {
    u32 list[SLOTS];
    first_points(list, order, 0, *count, threadIdx.x & 31);
    for (int slot = 0; slot < SLOTS; ++slot) found[slot * 32 + (threadIdx.x & 31)] = list[slot];
}
"""


@pytest.mark.parametrize("max_points", [20, 100, 128])
def test_first_points_are_the_smallest_indices_in_any_order(device: Any, max_points: int) -> None:
    """Threads of a GPU arrive in any order, those of the emulator almost in the order of the points."""
    spec = engine_spec(32, max_points_per_voxel=max_points)
    model = PillarModel.from_spec(spec, random_weights(spec, 0), 5000, scale=None, is_dense=False)
    macros = definitions(model, PILLAR_SIZES, COUNTERS, TOTALS)
    source = kernel_source(macros, "intrinsics.cuh", "overlap.cuh", "pillars.cu", "decoration.cu") + _LIST_POINTS
    kernel = device.compile_all(source, ["list_points"])["list_points"]
    rng = np.random.default_rng(max_points)
    order, count, found = (device.allocate(size) for size in (5000 * 4, 4, 128 * 4))
    for size in (1, 2, 31, 32, 33, 64, 127, 128, 129, 300, 2000, 5000):
        for shape in ("random", "rising", "falling"):
            values = rng.permutation(20_000)[:size].astype(np.uint32)
            if shape != "random":
                values = np.sort(values)[:: 1 if shape == "rising" else -1].copy()
            device.upload(order, values, 0)
            device.upload(count, np.array([size], np.int32), 0)
            device.launch(kernel, 1, 32, pointers(order, count, found), 0)
            seen = np.zeros(-(-max_points // 32) * 32, np.uint32)
            device.download(seen, found, 0)
            wanted = np.full(len(seen), 0xFFFFFFFF, np.uint32)
            kept = np.sort(values)[:max_points]
            wanted[: len(kept)] = kept
            np.testing.assert_array_equal(seen, wanted, err_msg=f"{size} {shape}")


@pytest.mark.parametrize("legacy", [True, False])
def test_stock_one_layer_encoder(device: Any, legacy: bool) -> None:
    """mmdet3d's own module, from its voxels, against the kernels, from points."""
    torch = pytest.importorskip("torch")
    from models.build import import_mmdet3d

    cfg = small_config(small_spec(encoder_channels=64, max_points_per_voxel=20))
    cfg.model.pts_voxel_encoder.update(feat_channels=[64], legacy=legacy, with_distance=legacy)
    spec = ModelSpec.from_config(cfg)
    torch.manual_seed(0)
    stock = import_mmdet3d().MODELS.build(cfg.model.pts_voxel_encoder).eval()
    points = cloud(3, 3000, spec.point_features)
    voxels = voxelize(points, spec)
    coords = torch.nn.functional.pad(torch.from_numpy(voxels.coords), (1, 0))
    with torch.no_grad():
        wanted = stock(torch.from_numpy(voxels.points.copy()), torch.from_numpy(voxels.num_points), coords).numpy()

    bench = PillarBench(device, spec, _folded(stock), 0.02, 3000)
    bench.run(points)
    bench.compare(points, "cloud")
    found = bench.read(bench.kernels.features, wanted.shape, np.float32).astype(np.float32)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def _folded(stock: Any) -> PillarWeights:
    """The weights of a module of one layer, its normalization folded by hand."""
    layer = stock.pfn_layers[0]
    norm = layer.norm
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().numpy()
    bias = norm.bias.detach().numpy() - norm.running_mean.numpy() * factor
    return PillarWeights((PfnLayer(layer.linear.weight.detach().numpy().T * factor, bias),))


@pytest.mark.parametrize(
    ("changes", "layers", "message"),
    [
        ({}, (8, 8, 8), r"its pillar encoder has 3 layers; this engine's kernels run one or two"),
        ({}, (129,), r"channels of encoder layer 1 of 1: 129; this engine's kernels take 1 to 128"),
        ({}, (33, 32), r"channels of encoder layer 1 of 2: 33; .* 1 to 32"),
        ({}, (32, 65), r"channels of encoder layer 2 of 2: 65; .* 1 to 64"),
        ({"max_points_per_voxel": 129}, (64,), r"max_points_per_voxel: 129; .* 1 to 128"),
        ({"max_voxels": 1 << 23}, (64,), r"max_voxels: 8388608; .* 1 to 4194304"),
        ({"encoder_mode": "avg"}, (64,), r"takes the mean of a pillar's slots \(mode 'avg'\)"),
        ({"point_columns": tuple("xyz") + tuple("abcdefgh")}, (64,), r"features of a point: 17; .* 1 to 16"),
    ],
)
def test_refusals_have_their_reason_and_need_no_device(
    changes: dict[str, Any], layers: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_encoder(engine_spec(64, **changes), layers, 1000)


@pytest.mark.parametrize("points", [0, (1 << 24) + 1])
def test_room_has_limits(points: int) -> None:
    with pytest.raises(ConfigError, match=f"points: {points}; this engine's kernels take 1 to 16777216"):
        check_encoder(engine_spec(64), (64,), points)


class _TimedDevice(EmulatedDevice):
    """What is captured has run already; each replay takes a tenth of a millisecond."""

    name = "NVIDIA H200"

    def begin_capture(self, stream: int) -> None:
        pass

    def end_capture(self, stream: int) -> None:
        pass

    def launch_graph(self, graph: Any, stream: int) -> None:
        pass

    def record(self, event: Any, stream: int) -> None:
        pass

    def wait(self, event: Any) -> None:
        pass

    def elapsed_ms(self, before: Any, after: Any) -> float:
        return 1.0

    def create_event(self) -> None:
        pass


@pytest.mark.usefixtures("device")
def test_benchmark_holds_what_it_times_against_numpy() -> None:
    spec = engine_spec(32, encoder_channels=64, max_points_per_voxel=20)
    case = PillarModelCase(spec, 0, 0.05, {"one frame": 400, "in one pillar": 700})
    timed: Any = _TimedDevice()
    rows = measure(timed, "small", case, replays=10, groups=[4])
    assert [(row.cloud, row.work.points) for row in rows] == [("one frame", 400), ("in one pillar", 700)]
    assert (rows[1].work.kept, rows[1].work.pillars) == (20, 1)
    assert {times for row in rows for times in row.by_group.values()} == {(100.0, 100.0)}
    assert rows[1].bound == "memory"
    timed.check_guards()


def test_stock_model_with_room_for_two_million_points_stays_below_a_gigabyte() -> None:
    """All of the engine: the network's maps and weights, both ends, two clouds."""
    spec = stock_spec()
    device: Any = FakeDevice(spec)
    plan = random_plan(stock_architecture(spec), "float16")
    frame = DeviceFrame(device, spec, plan, random_weights(spec, 0), capacity=DEFAULT_POINTS)
    sizes = [call[1] for call in device.calls if call[0] == "allocate"]
    assert cloud_bytes(spec, DEFAULT_POINTS) < sum(sizes) < 2**30
    assert frame.capacity == DEFAULT_POINTS


class _Sources(FakeDevice):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.source = ""

    def compile_all(self, source: str, functions: Any, **options: Any) -> dict[str, str]:
        self.source = source
        return super().compile_all(source, functions, **options)


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_kernels_compile(architecture: str, tmp_path: Path) -> None:
    for form, is_dense in (("[64], 100 points", False), ("[128], 128 points", True), ("[32, 64], 128 points", False)):
        scale, float16, hidden, changes = ENCODER_FORMS[form]
        spec = engine_spec(512, **changes)
        canvas = CanvasMemory.dense(0, spec) if is_dense else CanvasMemory(0, 0, scale)
        device: Any = _Sources(spec)
        weights = random_weights(spec, hidden, float16=float16)
        PillarEncoderKernels(device, spec, weights, canvas, capacity=DEFAULT_POINTS)
        compile_cubin(device.source, architecture, tmp_path, "--fmad=false")
