"""Checks of tilings: however a layer is cut, its result is the same."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.checks.skip_checks import SkippingPair, random_cells
from runtime.cuda_engine.network import DeviceNetwork, channels_per_chunk
from runtime.cuda_engine.plan import MAP_TYPES
from runtime.cuda_engine.tiling import ConvTiling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.network import Tiling

__all__ = ["check_tilings"]

# Widths and heights that end inside a tile; the second with float16 maps behind INT8 ones.
_ARCHITECTURES = (
    Architecture(size=(76, 100), depths=(1, 1, 1)),
    Architecture(size=(52, 72), channels=(64,), depths=(0,), strides=(1,), upsamples=(1,), head_kernel=3),
)
_SKIPPING = Architecture(size=(180, 236), depths=(1, 1, 1))
# Networks that skip, and frames of each.
_NETWORKS, _FRAMES = 6, 8
# float16 sums of one order differ in nothing; those of another by their rounding, of values around 1.
_TOLERANCE = 2.0**-9


def check_tilings(device: CudaDevice) -> str:
    """The forms of each layer's tilings on equal inputs, and networks of each form that skip what is empty."""
    stream, compared, frames = device.create_stream(), 0, 0
    for architecture in _ARCHITECTURES:
        for map_type in MAP_TYPES:
            compared += _same_maps(device, DeviceNetwork(device, random_plan(architecture, map_type)), stream)
    for map_type in MAP_TYPES:
        network = DeviceNetwork(device, random_plan(_SKIPPING, map_type))
        for number in range(_NETWORKS):
            frames += _same_frames(device, network, number, stream)
    return f"{compared} tilings of layers give the same maps; {frames} frames equal bit for bit"


def _same_maps(device: CudaDevice, network: DeviceNetwork, stream: int) -> int:
    plan, rng, compared = network.plan, np.random.default_rng(0), 0
    canvas = plan.canvas
    values = rng.integers(0, 100, (canvas.channels, canvas.height, canvas.width))
    network.canvas.write(
        device, stream, values.astype(np.int8) if canvas.type == "int8" else (values / 50).astype(np.float16)
    )
    network.enqueue(stream)
    device.synchronize(stream)
    launches = {launch.label: launch for launch in network.launches}
    chosen = {conv.node: [*_forms(network, conv.node)] for conv in plan.convs if conv.target in network.maps}
    network.prepare(tiling for tilings in chosen.values() for tiling in tilings)
    for conv in plan.convs:
        if conv.target not in network.maps:
            continue
        target = network.maps[conv.target]
        # Its input may be of another tiling, whose float16 sums were rounded otherwise.
        network.enqueue_layer(launches[conv.node], stream)
        expected = target.read(device, stream).astype(np.float32)
        first, chunks = (count // channels_per_chunk(target.map) for count in (conv.target_channel, conv.out_channels))
        for tiling in chosen[conv.node]:
            # The other channels of a concat are other layers'.
            device.zero(target.address + first * target.plane, chunks * target.plane, stream)
            network.enqueue_layer(network.launch_of(conv.node, tiling), stream)
            found = target.read(device, stream).astype(np.float32)
            limit = 0.0 if plan.maps[conv.source].type == target.map.type == "int8" else _TOLERANCE
            difference = np.abs(found - expected)
            if not (difference <= limit * np.maximum(np.abs(expected), 1)).all():
                raise AssertionError(f"'{conv.node}' differs by up to {difference.max():g} as {tiling}")
            if target.read_border(device, stream).any():
                raise AssertionError(f"'{conv.node}' writes to the border as {tiling}")
            compared += 1
    return compared


def _same_frames(device: CudaDevice, network: DeviceNetwork, number: int, stream: int) -> int:
    """Frames with and without skipping, channels as rows in all layers that can be cut so, in one form or another."""
    tilings: dict[str, Tiling] = {}
    for conv in network.plan.convs:
        rows = [tiling for tiling in _forms(network, conv.node) if tiling.channels_as_rows]
        if rows:
            tilings[conv.node] = rows[number * len(rows) // _NETWORKS]
    pair, rng = SkippingPair(device, network.plan, stream, tilings), np.random.default_rng(number)
    for index, cells in zip(range(_FRAMES), random_cells(_SKIPPING.size, rng), strict=False):
        pair.run(cells, rng)
        wrong = pair.differing()
        if wrong:
            raise AssertionError(f"frame {index}, network {number}: {', '.join(wrong)} differ")
    return _FRAMES


def _forms(network: DeviceNetwork, label: str) -> Iterator[ConvTiling]:
    """The first tiling of each form of a layer, by their estimates."""
    found = [tiling for tiling in network.tilings(label) if isinstance(tiling, ConvTiling)]
    found.sort(key=_form)
    for _, tilings in groupby(found, key=_form):
        yield next(tilings)


def _form(tiling: ConvTiling) -> tuple[bool, ...]:
    return tiling.channels_as_rows, tiling.register_weights, tiling.resident, tiling.staged, tiling.ordered
