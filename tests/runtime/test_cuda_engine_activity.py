"""Skipping empty tiles: sequences of frames on the CPU, bit for bit against a network that computes all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.cuda_engine.reach
from runtime.cuda_engine.activity import ActivitySizes, TileActivity, TiledLayer
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.checks.skip_checks import marks_of
from runtime.cuda_engine.plan import FusedConv, MapType
from runtime.cuda_engine.reach import Reach, layer_reach, map_reaches
from tests.runtime.emulated_device import EmulatedDevice
from tests.runtime.engine_device import EngineDevice, smallest_tiles
from tests.runtime.kernel_model import listed_words

STREAM = 1
# Every kind of layer: strides, transposed and plain branches of the neck, a branch of half size, fused and wide heads.
ARCHITECTURES = {
    "upsampled": Architecture(
        (24, 40), channels=(32, 32, 32), depths=(0, 0, 0), neck_channels=32, shared_channels=32,
        heads=(("heatmap", 2), ("reg", 2)),
    ),
    "half size": Architecture(
        (24, 40), channels=(32, 32), depths=(0, 1), strides=(1, 2), neck_channels=32, upsamples=(0.5, 1),
        shared_channels=32, heads=(("heatmap", 3), ("reg", 2)),
    ),
    "heads of 3x3": Architecture(
        (24, 40), channels=(32,), depths=(0,), strides=(2,), neck_channels=32, upsamples=(1,), shared_channels=32,
        heads=(("heatmap", 2), ("reg", 2), ("height", 1)), head_kernel=3,
    ),
}  # fmt: skip


@pytest.fixture
def device() -> EngineDevice:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return EngineDevice()


def sequence(height: int, width: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Empty, single cells in corners and in the middle, scattered ones, all, and empty again."""
    empty = np.zeros((height, width), bool)
    yield "empty", empty
    for y, x in ((0, 0), (height - 1, width - 1), (height // 2, width // 2), (0, width - 1)):
        one = empty.copy()
        one[y, x] = True
        yield f"({y}, {x})", one
    yield "all", ~empty
    yield "empty again", empty
    random = np.random.default_rng(7)
    for share in (0.002, 0.01):
        yield f"{share}", random.random((height, width)) < share


@pytest.mark.parametrize(
    ("name", "map_type"), [("upsampled", "int8"), ("half size", "float16"), ("heads of 3x3", "int8")]
)
def test_frames_are_those_of_all_tiles(device: EngineDevice, name: str, map_type: MapType) -> None:
    architecture = ARCHITECTURES[name]
    pair, rng, counts = (
        smallest_tiles(device, random_plan(architecture, map_type), STREAM),
        np.random.default_rng(3),
        {},
    )
    for what, cells in sequence(*architecture.size):
        pair.run(cells, rng)
        assert pair.differing() == [], what
        assert pair.skipping.activity is not None
        counts[what] = pair.skipping.activity.counts(STREAM)
    assert all(active == 0 for active, _ in counts["empty"].values())
    assert all(active == every for active, every in counts["all"].values())
    first = pair.skipping.plan.convs[0].node
    assert 0 < counts["(0, 0)"][first][0] < counts["(0, 0)"][first][1]
    # What was full in the last frame becomes background; in the next one there is nothing left to do.
    assert all(active == every for active, every in counts["empty again"].values())


@pytest.mark.parametrize("narrow", ["rows", "columns"])
def test_a_reach_that_is_too_small_is_caught(
    device: EngineDevice, narrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convolved(source: Any, conv: FusedConv, size: int) -> Any:
        reach = right(source, conv, size)
        reach[:, 1] = np.maximum(reach[:, 1] - (len(source) == {"rows": 24, "columns": 40}[narrow]), reach[:, 0])
        return reach

    right = runtime.cuda_engine.reach._convolved
    monkeypatch.setattr(runtime.cuda_engine.reach, "_convolved", convolved)
    pair, rng = (
        smallest_tiles(device, random_plan(ARCHITECTURES["half size"], "int8"), STREAM),
        np.random.default_rng(3),
    )
    found: set[str] = set()
    for _, cells in sequence(24, 40):
        pair.run(cells, rng)
        found |= set(pair.differing())
    assert found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reaches_are_those_that_gradients_have(name: str) -> None:
    """Against automatic differentiation: convolutions of ones, and which cells each pixel's value depends on."""
    import torch
    from torch.nn import functional

    plan = random_plan(ARCHITECTURES[name], "int8")
    reaches = map_reaches(plan)
    canvas = torch.ones(1, 1, plan.canvas.height, plan.canvas.width, dtype=torch.float64, requires_grad=True)
    values = {plan.canvas.name: canvas}
    for conv in plan.convs:
        source, kernel = values[conv.source], torch.ones(1, 1, conv.kernel, conv.kernel, dtype=torch.float64)
        if conv.upsample > 1:
            result = functional.conv_transpose2d(source, kernel, stride=conv.upsample)
        else:
            result = functional.conv2d(source, kernel, stride=conv.stride, padding=conv.padding)
        values[conv.target] = values[conv.target] + result if conv.target in values else result
    for target, value in values.items():
        reach = reaches[target]
        height, width = value.shape[2:]
        assert (len(reach.rows), len(reach.columns)) == (height, width)
        for y, x in ((0, 0), (height - 1, width - 1), (height // 2, width // 3), (height // 3, width - 2)):
            (gradient,) = torch.autograd.grad(value[0, 0, y, x], canvas, retain_graph=True)
            rows, columns = np.nonzero(gradient[0, 0].numpy())
            assert tuple(reach.rows[y]) == (rows.min(), rows.max()), (target, y)
            assert tuple(reach.columns[x]) == (columns.min(), columns.max()), (target, x)


@pytest.mark.parametrize(
    "sizes", [ActivitySizes(32, 1, 64, 3), ActivitySizes(64, 3, 32, 16), ActivitySizes(64, 2, 96, 1), ActivitySizes()]
)
def test_lists_are_the_tiles_that_numpy_finds(device: EngineDevice, sizes: ActivitySizes) -> None:
    """Each once, whatever the kernels' sizes; also for the last frame's pillars."""
    plan = random_plan(ARCHITECTURES["upsampled"], "int8")
    reaches, size = map_reaches(plan), (plan.canvas.height, plan.canvas.width)
    layers = [TiledLayer(conv.node, (layer_reach(plan, conv, reaches),), 3, 5) for conv in plan.convs]
    activity = TileActivity(cast(Any, device), size, layers, sizes)
    for cells in _frames(device, activity, size, (0.001, 0.0, 0.003)):
        for layer in layers:
            words = listed_words(device, _tiles(activity, layer))
            assert [(word >> 18, word >> 4 & 0x3FFF) for word in words] == _expected(layer, layer.reaches[0], cells)


def test_lists_of_a_wide_canvas_with_parts_are_those_that_numpy_finds(device: EngineDevice) -> None:
    """Reaches of more columns than a warp has words, more tiles in a row than it has lanes, and tiles of parts."""
    size = (41, 2600)
    narrow, wide, tall = (_spread(size, *margins) for margins in ((1, 2), (0, 700), (30, 3)))
    layers = [
        TiledLayer("wide", (wide,), 7, 64),
        TiledLayer("many", (narrow,), 5, 8),
        TiledLayer("parts", (narrow, wide, tall), 4, 48),
    ]
    activity = TileActivity(cast(Any, device), size, layers)
    random = np.random.default_rng(5)
    always = random.integers(0, 8, (layers[2].down, layers[2].across)).astype(np.uint8)
    activity.always_read("parts", always, STREAM)
    for cells in _frames(device, activity, size, (0.0, 0.0001, 0.002, 0.0)):
        for layer in layers[:2]:
            words = listed_words(device, _tiles(activity, layer))
            assert [(word >> 18, word >> 4 & 0x3FFF) for word in words] == _expected(layer, layer.reaches[0], cells)
        found = [set(_expected(layers[2], reach, cells)) for reach in layers[2].reaches]
        bits = {tile: sum((tile in tiles) << part for part, tiles in enumerate(found)) for tile in set().union(*found)}
        read = {tile: parts | int(always[tile]) for tile, parts in bits.items()}
        # Those that read every part come first, both halves row by row.
        words = [row << 18 | column << 4 | parts for (row, column), parts in read.items()]
        order = sorted(words, key=lambda word: (word & 15 != 7, word))
        assert listed_words(device, _tiles(activity, layers[2])) == order


def _frames(
    device: EngineDevice, activity: TileActivity, size: tuple[int, int], shares: tuple[float, ...]
) -> Iterator[NDArray[np.bool_]]:
    """Runs frames of so many cells; gives those of each and of the one before it."""
    before: NDArray[np.bool_] = np.zeros(size, bool)
    random = np.random.default_rng(1)
    for share in shares:
        now = random.random(size) < share
        records, counters = marks_of(now)
        activity.enqueue_marks(device.upload_new(records), device.upload_new(counters), STREAM)
        activity.enqueue(STREAM)
        yield now | before
        before = now


def _spread(size: tuple[int, int], rows: int, columns: int) -> Reach:
    """Of pixels that are cells, and depend on so many more on each side."""

    def axis(length: int, margin: int) -> NDArray[np.int64]:
        each = np.arange(length)
        return np.stack([np.maximum(each - margin, 0), np.minimum(each + margin, length - 1)], axis=1)

    return Reach(axis(size[0], rows), axis(size[1], columns))


def _tiles(activity: TileActivity, layer: TiledLayer) -> Any:
    tiles: Any = type("Tiles", (), {})()
    activity.feed(layer.label, tiles)
    tiles.all = layer.down * layer.across
    return tiles


def _expected(layer: TiledLayer, reach: Reach, cells: NDArray[np.bool_]) -> list[tuple[int, int]]:
    found = []
    for row in range(layer.down):
        for column in range(layer.across):
            rows = reach.rows[row * layer.tile_rows : (row + 1) * layer.tile_rows]
            columns = reach.columns[column * layer.tile_columns : (column + 1) * layer.tile_columns]
            if cells[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].any():
                found.append((row, column))
    return found
