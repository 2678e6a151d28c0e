"""The network on a device: weights packed, maps addressed and layers cut as the kernels read them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest

from base.errors import ConfigError
from models.spec import ModelSpec
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.checks.agreement import compare_layers
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.network import DeviceNetwork, heads_label
from runtime.cuda_engine.plan import FusedConv, NetworkPlan, PlanMap
from runtime.cuda_engine.sources import ARCHITECTURE, conv_source, heads_source
from runtime.cuda_engine.tiling import ConvTiling, conv_signature, conv_tilings
from tests.runtime.fake_engine import FakeDevice
from tests.runtime.kernel_model import run_launch
from tests.runtime.nvcc import compile_cubin, needs_nvcc

MapType = Literal["int8", "float16"]
TYPES: tuple[MapType, ...] = ("int8", "float16")
# Small, and with every kind of layer: strides, kernels of 1, 2 and 3, transposed ones, widths that end inside a tile.
ARCHITECTURES = {
    "upsampled": Architecture(
        (12, 72), channels=(32, 32, 64), depths=(1, 0, 0), neck_channels=32, shared_channels=32
    ),
    "half size": Architecture(
        (12, 40), channels=(32, 32), depths=(0, 0), strides=(1, 2), neck_channels=32, upsamples=(0.5, 1),
        shared_channels=32, heads=(("heatmap", 9), ("reg", 2)),
    ),
    "heads of 3x3": Architecture(
        (12, 72), channels=(32,), depths=(0,), strides=(1,), neck_channels=32, upsamples=(1,), shared_channels=32,
        heads=(("heatmap", 20), ("reg", 2), ("height", 1)), head_kernel=3,
    ),
}  # fmt: skip
RELEASED = {
    "760": Architecture((760, 760)),
    "1020": Architecture((1020, 1020), upsamples=(0.5, 1, 2)),
    "demo": Architecture((320, 320), channels=(64, 128, 192), depths=(3, 5, 3), strides=(2, 2, 2), neck_channels=96),
}
WIDE_HEADS = Architecture(
    (512, 512), channels=(64, 128), depths=(0, 0), strides=(2, 2), upsamples=(0.5, 1), head_kernel=3
)


def open_network(plan: NetworkPlan, *, staged: bool | None = None) -> tuple[FakeDevice, DeviceNetwork]:
    """With the best tilings, or the best ones of those that are staged or not."""
    device = FakeDevice(cast(ModelSpec, None))
    tilings: dict[str, ConvTiling] = {}
    for conv in plan.convs if staged is not None else ():
        found = conv_tilings(conv, plan.maps[conv.source], plan.target(conv))
        tilings[conv.node] = next(tiling for tiling in found if tiling.staged == (staged and not tiling.out_dense))
    return device, DeviceNetwork(cast(CudaDevice, device), plan, tilings)


def filled(plan: NetworkPlan, *, staged: bool | None = None) -> tuple[FakeDevice, DeviceNetwork]:
    device, network = open_network(plan, staged=staged)
    rng = np.random.default_rng(5)
    canvas = plan.canvas
    values = np.abs(rng.normal(0, 1, (canvas.channels, canvas.height, canvas.width)))
    codes = np.clip(values * 40, 0, 127).astype(np.int8)
    network.canvas.write(cast(CudaDevice, device), 1, codes if canvas.scale else values.astype(np.float16))
    return device, network


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("map_type", TYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_computes_the_plan(name: str, map_type: MapType, staged: bool) -> None:
    device, network = filled(random_plan(ARCHITECTURES[name], map_type), staged=staged)
    for launch in network.launches:
        assert (launch.target is not None) == (isinstance(launch.tiling, ConvTiling) and launch.tiling.staged)
        run_launch(device, launch)
    agreements = compare_layers(cast(CudaDevice, device), network, 1)
    assert [item for item in agreements if not item.passed] == []
    assert len(agreements) == len(network.plan.convs) + sum(len(layer.branches) for layer in network.plan.heads)
    for item in network.maps.values():
        assert not item.read_border(cast(CudaDevice, device), 1).any()


@pytest.mark.parametrize("map_type", TYPES)
def test_maps_that_are_quickly_computed_begin_each_row_with_a_line_of_the_caches(map_type: MapType) -> None:
    plan = random_plan(Architecture((24, 40), depths=(1, 1, 1)), map_type)
    _, network = open_network(plan)
    in_lines = set()
    for name, item in network.maps.items():
        assert item.pitch >= item.map.width + 2
        first = {
            (item.address + chunk * item.plane + (row + 1) * item.pitch * 16 + 16) % 128
            for row in range(item.map.height)
            for chunk in range(item.chunks)
        }
        if first == {0}:
            in_lines.add(name)
    # The first 3x3 layer, of 32 channels, and the neck's layers of one tap; not 3x3 layers of 64 channels and more.
    neck = {conv.target for conv in plan.convs if conv.node.startswith("deblocks")}
    assert in_lines == {plan.convs[0].target, *neck}


@pytest.mark.parametrize("map_type", TYPES)
def test_every_tiling_gives_the_same_map(map_type: MapType) -> None:
    device, network = filled(random_plan(ARCHITECTURES["half size"], map_type))
    for launch in network.launches:
        run_launch(device, launch)
    for conv in network.plan.convs:
        target = network.maps[conv.target]
        channels = slice(conv.target_channel, conv.target_channel + conv.out_channels)
        kept = device.bytes_from(target.address).copy()
        expected = target.read(cast(CudaDevice, device), 1)[channels]
        tilings = [tiling for tiling in network.tilings(conv.node) if isinstance(tiling, ConvTiling)]
        ways = {staged: [tiling for tiling in tilings if tiling.staged == staged][:5] for staged in (False, True)}
        for tiling in [*ways[False], *ways[True]]:
            device.bytes_from(target.address)[:] = 0
            run_launch(device, network.launch_of(conv.node, tiling))
            found = target.read(cast(CudaDevice, device), 1)[channels]
            np.testing.assert_array_equal(found, expected, err_msg=str(tiling))
        device.bytes_from(target.address)[:] = kept


# 64 channels and more, kernels of 1 and 3, and a type that changes on the way.
OF_64 = Architecture((20, 44), channels=(64,), depths=(1,), strides=(1,), neck_channels=128, upsamples=(1,))
HALVES_BETWEEN = Architecture(
    (20, 28), channels=(64,), depths=(0,), strides=(1,), upsamples=(1,), heads=(("reg", 2),), head_kernel=3
)


@pytest.mark.parametrize("map_type", TYPES)
@pytest.mark.parametrize("architecture", [OF_64, HALVES_BETWEEN], ids=["64", "halves between"])
def test_channels_as_rows_give_the_same_map(
    architecture: Architecture, map_type: MapType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.cuda_engine.tiling._CANDIDATES", 1000)
    device, network = filled(random_plan(architecture, map_type))
    for launch in network.launches:
        run_launch(device, launch)
    forms = set()
    for conv in network.plan.convs:
        if conv.target not in network.maps:
            continue
        result = network.maps[conv.target]
        channels = slice(conv.target_channel, conv.target_channel + conv.out_channels)
        kept = device.bytes_from(result.address).copy()
        expected = result.read(cast(CudaDevice, device), 1)[channels]
        found = {
            (
                tiling.register_weights,
                tiling.n_tile,
                tiling.warpgroups,
                tiling.staged,
                tiling.block_rows,
                tiling.across,
            ): (tiling)
            for tiling in network.tilings(conv.node)
            if isinstance(tiling, ConvTiling) and tiling.channels_as_rows and tiling.block_rows in (8, 12, 32)
        }
        forms |= {form[:4] for form in found}
        for tiling in found.values():
            device.bytes_from(result.address)[:] = 0
            run_launch(device, network.launch_of(conv.node, tiling))
            read = result.read(cast(CudaDevice, device), 1)[channels]
            np.testing.assert_array_equal(read, expected, err_msg=str(tiling))
        device.bytes_from(result.address)[:] = kept
    # Weights in registers, in shared memory and streamed; two warpgroups that share pixels or channels.
    ways = ((True, 64, 1), (False, 64, 1), (False, 64, 2), (False, 128, 2))
    assert forms >= {(*way, staged) for way in ways for staged in (False, True)}


@pytest.mark.parametrize("map_type", TYPES)
@pytest.mark.parametrize("name", RELEASED)
def test_tilings_stay_within_the_hardware(name: str, map_type: MapType) -> None:
    plan = random_plan(RELEASED[name], map_type)
    for conv in plan.convs:
        tilings = conv_tilings(conv, plan.maps[conv.source], plan.maps[conv.target])
        assert len(set(tilings)) == len(tilings) > 1
        for tiling in tilings:
            # 227 KB of shared memory and 65,536 registers for a block; 24 registers for a thread that loads.
            assert tiling.shared_bytes <= 227 * 1024 - 1024
            consumers = tiling.groups * tiling.warpgroups
            assert (consumers * tiling.macros["REGISTERS"] + 24) * 128 <= 65536
            columns = tiling.block_rows * 8 if tiling.channels_as_rows else tiling.n_tile
            held = tiling.blocks * columns // 2
            if tiling.register_weights:
                # 32 bytes of K of 16 rows are four registers of a warp.
                held += tiling.kernel**2 * tiling.slabs * tiling.slab_chunks // 2 * 4
            assert held < tiling.macros["REGISTERS"] - 30
            assert tiling.slabs * tiling.slab_chunks * (16 if tiling.in_int8 else 8) == conv.in_channels


def test_released_shapes_are_cut_as_measured() -> None:
    import json

    import runtime.cuda_engine

    table = json.loads((Path(runtime.cuda_engine.__file__).parent / "tilings.json").read_text())
    assert table["gpu"].startswith("NVIDIA H")
    for architecture in RELEASED.values():
        for map_type in TYPES:
            plan = random_plan(architecture, map_type)
            for conv in plan.convs:
                source, target = plan.maps[conv.source], plan.maps[conv.target]
                measured = table["tilings"][conv_signature(conv, source, target)]
                assert conv_tilings(conv, source, target)[0].choice == measured


def test_a_layer_that_no_kernel_computes_is_named() -> None:
    source, target = PlanMap("in", 24, 8, 8, 0.1), PlanMap("out", 64, 8, 8, 0.1)
    weight = np.zeros((64, 24, 3, 3), np.int8)
    conv = FusedConv(
        "/neck/Conv_7", "in", "out", 0, weight, np.ones(64, np.float32), np.zeros(64, np.float32), 1, 1, 1, True
    )
    with pytest.raises(ConfigError, match=r"'/neck/Conv_7'.*3x3 convolution of 24 to 64 channels \(int8 to int8"):
        conv_tilings(conv, source, target)


def test_layers_follow_each_other_on_one_stream() -> None:
    plan = random_plan(ARCHITECTURES["upsampled"], "int8")
    device, network = open_network(plan)
    device.calls.clear()
    network.enqueue(5)
    launches = [call for call in device.calls if call[0] == "launch"]
    labels = [*(conv.node for conv in plan.convs), *map(heads_label, plan.heads)]
    assert [launch.label for launch in network.launches] == labels
    assert len(device.calls) == len(launches) == len(plan.convs) + 1
    for call, launch in zip(launches, network.launches, strict=True):
        assert (call[1], call[2], call[3], call[5], call[6]) == (
            "conv" if isinstance(launch.tiling, ConvTiling) else "heads",
            launch.blocks, launch.tiling.threads, 5, launch.tiling.shared_bytes,
        )  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize("map_type", TYPES)
def test_kernels_compile(map_type: MapType, tmp_path: Path) -> None:
    """One of each kind; wgmma that the compiler serializes would run at a fraction of the speed."""
    networks = [open_network(random_plan(net, map_type))[1] for net in (RELEASED["760"], WIDE_HEADS)]
    kinds = {}
    for launch in [launch for network in networks for launch in network.launches]:
        tiling = launch.tiling
        kind = (
            (tiling.stride, tiling.upsample, tiling.resident, tiling.out_dense)
            if isinstance(tiling, ConvTiling)
            else "heads"
        )
        kinds[kind] = launch
    for launch in kinds.values():
        source = (conv_source if isinstance(launch.tiling, ConvTiling) else heads_source)(launch.tiling.macros)
        said = compile_cubin(source, ARCHITECTURE, tmp_path, "-Xptxas", "-v")
        assert "registers" in said
        assert "serialized" not in said
