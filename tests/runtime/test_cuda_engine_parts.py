"""Parts of a layer's input that tiles leave out: on the CPU, bit for bit against a network that reads all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import runtime.cuda_engine.network
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.checks.skip_checks import SkippingPair
from runtime.cuda_engine.packing import column_channels
from runtime.cuda_engine.parts import PartsBackground, parts_background, with_parts
from runtime.cuda_engine.plan import FusedConv
from runtime.cuda_engine.tiling import ConvTiling, conv_tilings
from tests.runtime.emulated_device import EmulatedDevice
from tests.runtime.engine_device import EngineDevice, smallest_tiles
from tests.runtime.kernel_model import listed_words

STREAM = 1
# Large enough for tiles that no border reaches, and branches of three resolutions.
ARCHITECTURE = Architecture(
    (64, 72), channels=(32, 32, 32), depths=(0, 0, 0), neck_channels=32, shared_channels=32, heads=(("heatmap", 2),)
)


@pytest.fixture
def device() -> EngineDevice:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return EngineDevice()


def opened(device: EngineDevice) -> SkippingPair:
    return smallest_tiles(device, random_plan(ARCHITECTURE, "int8"), STREAM)


def shared_parts(device: EngineDevice, pair: SkippingPair) -> list[int]:
    """Bits of the parts that each of the last frame's tiles of the layer behind the neck reads, in their order."""
    launch = next(launch for launch in pair.skipping.launches if launch.label == "shared")
    return [word & 15 for word in listed_words(device, launch.arguments.tiles)]


def frames() -> list[NDArray[np.bool_]]:
    empty = np.zeros(ARCHITECTURE.size, bool)
    one = empty.copy()
    one[33, 30] = True
    return [one, empty, ~empty, empty, one]


def test_tiles_leave_out_parts_of_background(device: EngineDevice) -> None:
    pair, rng, read = opened(device), np.random.default_rng(3), []
    for cells in frames():
        pair.run(cells, rng)
        assert pair.differing() == []
        read.append(shared_parts(device, pair))
    # A pillar spreads furthest through the last, coarsest part.
    assert {4, 7} <= set(read[0])
    assert set(read[2]) == set(read[3]) == {7}
    # Tiles that read every part take longest: they come first.
    assert read[0] == sorted(read[0], key=lambda parts: parts != 7)


@pytest.mark.parametrize("wrong", ["sums", "always"])
def test_a_wrong_background_is_caught(device: EngineDevice, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> PartsBackground:
        right = parts_background(*args)
        if wrong == "sums":
            return PartsBackground(right.sums + 40, right.always)
        return PartsBackground(right.sums, np.zeros_like(right.always))

    monkeypatch.setattr(runtime.cuda_engine.network, "parts_background", broken)
    pair, rng, found = opened(device), np.random.default_rng(3), set()
    for y, x in ((33, 30), (0, 0), (63, 40), (30, 71)):
        cells = np.zeros(ARCHITECTURE.size, bool)
        cells[y, x] = True
        pair.run(cells, rng)
        found |= set(pair.differing())
    assert found


@pytest.mark.parametrize(("kernel", "stride", "padding", "period"), [(3, 1, 1, 4), (3, 2, 1, 4), (1, 1, 0, 2)])
def test_sums_of_background_are_those_of_torch(kernel: int, stride: int, padding: int, period: int) -> None:
    """An endless pattern with a spoilt border: a convolution of it, and which tiles the border reaches."""
    rng, (height, width) = np.random.default_rng(0), (48, 64)
    weight = rng.integers(-128, 128, (16, 64, kernel, kernel), dtype=np.int8)
    pattern = rng.integers(-128, 128, (64, period, period), dtype=np.int8)
    codes = np.tile(pattern, (1, height // period, width // period))
    codes[:, :3] = 1
    ones = np.ones(16, np.float32)
    conv = FusedConv("x", "in", "out", 0, weight, ones, ones, stride, padding, 1, False)
    size = (height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1
    tiling = ConvTiling(
        True, False, False, 16, kernel, stride, padding, 1, False, 2, 2, 2, 1, 1, 8, 1, 2, True, 2, period
    )
    padded = np.pad(codes, ((0, 0), (1, 1), (1, 1))).reshape(2, 2, 16, height + 2, width + 2).transpose(0, 1, 3, 4, 2)
    background = parts_background(conv, tiling, list(np.ascontiguousarray(padded)), size)
    channels = column_channels(conv, tiling)[:, 0]
    for part in range(2):
        masked = codes.astype(np.float64)
        masked[(1 - part) * 32 : (2 - part) * 32] = 0
        total = torch.nn.functional.conv2d(
            torch.from_numpy(masked)[None], torch.from_numpy(weight.astype(np.float64)), stride=stride, padding=padding
        )[0].numpy()
        wrong = np.zeros(size, bool)
        for y in range(size[0]):
            for x in range(size[1]):
                wrong[y, x] = np.any(background.sums[part, y % period, x % period] != total[channels, y, x])
        tiles = [[bool(wrong[y : y + 8, x : x + 8].any()) for x in range(0, size[1], 8)] for y in range(0, size[0], 8)]
        always = background.always >> part & 1
        # Every tile with another sum reads the part; one that need not differs from the pattern in codes of weight 0.
        assert np.all(always >= np.array(tiles))
        assert not always[1:-1, 1:-1].any()


def test_layers_without_parts_keep_their_tiling() -> None:
    plan = random_plan(ARCHITECTURE, "int8")
    halves = random_plan(ARCHITECTURE, "float16")
    for which, expected in ((plan, {"shared": (3, 4)}), (halves, {})):
        found = {}
        for conv in which.convs:
            tiling = conv_tilings(conv, which.maps[conv.source], which.target(conv))[0]
            parted = with_parts(which, conv, tiling)
            if parted != tiling:
                found[conv.node] = (parted.parts, parted.period)
        assert found == expected
