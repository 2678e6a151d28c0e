"""Checks of the whole engine on a device: layers against exact arithmetic, frames against the host's decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.arguments import DEFAULT_POINTS
from runtime.cuda_engine.checks.agreement import compare_layers
from runtime.cuda_engine.checks.cases import (
    clumped_cloud,
    engine_spec,
    hard_clouds,
    large_cloud,
    random_weights,
    stock_spec,
)
from runtime.cuda_engine.checks.frame_agreement import expect_host_boxes, expect_same_with_overlap
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.frame import DeviceFrame, FrameResult
from runtime.cuda_engine.network import DeviceNetwork
from runtime.cuda_engine.plan import MAP_TYPES, MapType
from runtime.cuda_engine.tiling import ConvTiling, tilings_of_same_sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = [
    "check_large_frame",
    "check_layers",
    "check_random_frames",
    "check_special_frames",
    "check_stock_frame",
    "stock_architecture",
]

# Every kind of layer of the released models: strides, kernels of 1, 2 and 3, transposed ones, odd sizes, narrow necks.
_ARCHITECTURES = {
    "upsampled": Architecture(size=(76, 100), depths=(1, 1, 1)),
    "half size": Architecture(size=(80, 80), depths=(1, 1, 1), upsamples=(0.5, 1, 2)),
    "strided stem": Architecture(
        size=(64, 64), channels=(64, 128, 192), depths=(1, 1, 1), strides=(2, 2, 2), neck_channels=96
    ),
    "below a tile": Architecture(size=(12, 20), depths=(0, 0, 0)),
}
_SMALL = 64
_NETWORK = "backbone_neck_head"


def check_layers(device: CudaDevice) -> str:
    """Every layer of every architecture in INT8 and FP16 against the plan's arithmetic."""
    stream, shares, compared, twice = device.create_stream(), [], 0, 0
    for name, architecture in _ARCHITECTURES.items():
        for map_type in MAP_TYPES:
            plan = random_plan(architecture, map_type)
            network = DeviceNetwork(device, plan)
            rng = np.random.default_rng(compared)
            canvas = plan.canvas
            size = (canvas.channels, canvas.height, canvas.width)
            values = np.abs(rng.normal(0, 1, size)) * (rng.random(size[1:]) < 0.5)
            codes = np.clip(values * 30, 0, 127)
            network.canvas.write(device, stream, codes.astype(np.int8) if canvas.scale else values.astype(np.float16))
            network.enqueue(stream)
            for agreement in compare_layers(device, network, stream):
                if not agreement.passed:
                    raise AssertionError(
                        f"{name}, {map_type}: '{agreement.name}' is equal in {agreement.equal_share:.5%}, differs by "
                        f"up to {agreement.largest:g}"
                    )
                compared += 1
                if agreement.in_steps:
                    shares.append(agreement.equal_share)
            twice += _check_same_sums(device, network, stream)
            _check_borders(device, network, stream)
    return (
        f"{compared} layers and outputs; INT8 codes at least {min(shares):.5%} equal, borders zero; {twice} layers "
        "equal when stored or taking turns in another way"
    )


def _check_same_sums(device: CudaDevice, network: DeviceNetwork, stream: int) -> int:
    """Runs layers once more in other ways, into maps of other numbers; returns how often."""
    count = 0
    for launch in network.launches:
        others = tilings_of_same_sums(launch.tiling) if isinstance(launch.tiling, ConvTiling) else ()
        conv = next((conv for conv in network.plan.convs if conv.node == launch.label), None)
        if conv is None or conv.target in network.outputs:
            continue
        target = network.maps[conv.target]
        channels = slice(conv.target_channel, conv.target_channel + conv.out_channels)
        before = target.read(device, stream)
        for other in others:
            expected = ~before if before.dtype == np.int8 else before + np.float16(1)
            target.write(device, stream, expected)
            expected[channels] = before[channels]
            network.enqueue_layer(network.launch_of(launch.label, other), stream)
            if not np.array_equal(target.read(device, stream), expected) or target.read_border(device, stream).any():
                raise AssertionError(f"'{launch.label}' writes something else as {other} than as {launch.tiling}")
            count += 1
        target.write(device, stream, before)
    return count


def check_special_frames(device: CudaDevice) -> str:
    """Clouds at the kernels' limits, through the whole graph."""
    spec = engine_spec(_SMALL, max_voxels=1000)
    frame = _frame(device, spec, 1 << 14, "int8")
    return _compare(frame, device, (cloud for _, cloud in hard_clouds(spec, 1 << 14)), spec)


def check_random_frames(device: CudaDevice, count: int = 1000) -> str:
    """Random clouds from empty to full through the whole graph, in both precisions."""
    spec = engine_spec(_SMALL, max_voxels=2000)
    rng = np.random.default_rng(0)
    details = []
    for precision in MAP_TYPES:
        frame = _frame(device, spec, 1 << 14, precision)
        sizes = [0, 1 << 14, *(int(size) for size in rng.integers(0, 1 << 13, count // 2 - 2))]
        clouds = (clumped_cloud(spec, size, seed) if size else _no_point(spec) for seed, size in enumerate(sizes))
        details.append(f"{precision}: {_compare(frame, device, clouds, spec)}")
    return "; ".join(details)


def check_large_frame(device: CudaDevice) -> str:
    """The 760 x 760 model's shapes with 200,000 points: equal boxes, and the time of the captured frame."""
    spec = engine_spec(760)
    cloud = large_cloud(spec)
    details = []
    for precision in MAP_TYPES:
        frame = _frame(device, spec, 1 << 18, precision, Architecture((760, 760)))
        detail = _compare(frame, device, [cloud], spec)
        runs = [frame.detect(cloud).stages_ms for _ in range(100)]
        network, total = (
            sorted(times)[50] for times in zip(*((run[_NETWORK], sum(run.values())) for run in runs), strict=True)
        )
        details.append(f"{precision}: {detail}, network {network:.3f} ms, frame {total:.3f} ms")
    return "; ".join(details)


def check_stock_frame(device: CudaDevice) -> str:
    """MMDetection3D's stock pillar model, one encoder layer and six tasks of 3x3 heads: equal boxes, and its times.

    Clouds of 200,000, 271,156 (ten sweeps of nuScenes) and 2,000,000 points.
    """
    spec = stock_spec()
    clouds = {count: large_cloud(spec, count) for count in (200_000, 271_156, DEFAULT_POINTS)}
    details = []
    for precision in MAP_TYPES:
        frame = _frame(device, spec, DEFAULT_POINTS, precision, stock_architecture(spec), hidden=0)
        detail = _compare(frame, device, clouds.values(), spec)
        times = []
        for count, cloud in clouds.items():
            runs = [frame.detect(cloud).stages_ms for _ in range(30)]
            medians = {stage: sorted(run[stage] for run in runs)[len(runs) // 2] for stage in runs[0]}
            times.append(f"{count} points: " + ", ".join(f"{stage} {ms:.3f} ms" for stage, ms in medians.items()))
        details.append(f"{precision}: {detail}; {'; '.join(times)}")
    return "; ".join(details)


def stock_architecture(spec: ModelSpec) -> Architecture:
    """The network of `stock_spec`."""
    return Architecture(
        (512, 512),
        canvas_channels=64,
        strides=(2, 2, 2),
        upsamples=(0.5, 1, 2),
        heads=tuple((head.name, head.channels) for head in spec.heads),
        head_kernel=3,
    )


def _frame(
    device: CudaDevice,
    spec: ModelSpec,
    capacity: int,
    precision: MapType,
    architecture: Architecture | None = None,
    hidden: int = 16,
) -> DeviceFrame:
    cells = spec.grid_size
    architecture = architecture or Architecture((cells[1], cells[0]), depths=(1, 1, 1))
    plan = random_plan(architecture, precision)
    return DeviceFrame(device, spec, plan, random_weights(spec, hidden), capacity=capacity)


def _compare(frame: DeviceFrame, device: CudaDevice, clouds: Iterable[NDArray[np.float32]], spec: ModelSpec) -> str:
    """Each cloud alone against the host's decoding of the same outputs, then all again with overlapping copies."""
    kept: list[NDArray[np.float32]] = []
    expected: list[FrameResult] = []
    boxes = 0
    for cloud in clouds:
        result = frame.detect(cloud)
        outputs: dict[str, NDArray[np.float32]] = {
            head.name: np.empty(spec.head_shape(head), np.float32) for head in spec.heads
        }
        frame.read_outputs(outputs)
        expect_host_boxes(result, outputs, spec, f"frame {len(kept)} of {len(cloud)} points")
        boxes += len(result.boxes.boxes)
        kept.append(cloud)
        expected.append(result)
    expect_same_with_overlap(frame, kept, expected)
    return f"{len(kept)} frames, {boxes} boxes equal to the host's"


def _check_borders(device: CudaDevice, network: DeviceNetwork, stream: int) -> None:
    for name, item in network.maps.items():
        if item.read_border(device, stream).any():
            raise AssertionError(f"the border of map '{name}' was written to")


def _no_point(spec: ModelSpec) -> NDArray[np.float32]:
    return np.zeros((0, spec.point_features), np.float32)
