"""Checks of skipping: a network that leaves empty tiles out beside one that computes all, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda_engine.checks.cases import clumped_cloud, engine_spec, random_weights
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.frame import DeviceFrame
from runtime.cuda_engine.network import DeviceNetwork
from runtime.cuda_engine.pillar_parameters import COUNTERS
from runtime.cuda_engine.plan import MAP_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from base.boxes import Boxes3D
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.network import Tiling
    from runtime.cuda_engine.plan import NetworkPlan

__all__ = ["SkippingPair", "check_skipping", "marks_of", "random_cells"]

# Every kind of layer, in sizes that have tiles to skip and end within one.
_ARCHITECTURES = {
    "upsampled": Architecture(size=(180, 236), depths=(1, 1, 1)),
    "half size": Architecture(size=(160, 160), depths=(1, 1, 1), upsamples=(0.5, 1, 2)),
    "wide heads": Architecture(
        size=(128, 200), channels=(64, 128), depths=(1, 0), strides=(2, 2), upsamples=(1, 2), head_kernel=3
    ),
}  # fmt: skip
_ALL_MAPS_EVERY = 40


class SkippingPair:
    """The same plan twice on one device, and the same frames for both.

    Attributes:
        dense, skipping: The networks; one and the same where no comparison is asked for.
    """

    def __init__(
        self,
        device: CudaDevice,
        plan: NetworkPlan,
        stream: int,
        tilings: Mapping[str, Tiling] | None = None,
        *,
        dense: bool = True,
    ) -> None:
        self._device, self._plan, self._stream = device, plan, stream
        self.skipping = DeviceNetwork(device, plan, tilings, skips_empty=True)
        self.dense = DeviceNetwork(device, plan, tilings) if dense else self.skipping
        self._pillars = device.allocate(plan.canvas.height * plan.canvas.width * 16)
        self._counters = device.allocate(COUNTERS.num_bytes)

    def run(self, cells: NDArray[np.bool_], rng: np.random.Generator) -> None:
        """One frame on both.

        Args:
            cells: (height, width) of the canvas, where it has pillars; their values are drawn.
            rng: Draws them.
        """
        canvas = self._plan.canvas
        rows, columns = np.nonzero(cells)
        values = np.zeros((canvas.channels, *cells.shape), np.int8 if canvas.type == "int8" else np.float16)
        values[:, rows, columns] = rng.integers(1, 100, (canvas.channels, len(rows)))
        if canvas.type == "float16":
            values /= 50
        self.mark(cells)
        for network in (self.dense, self.skipping):
            network.canvas.write(self._device, self._stream, values)
            network.enqueue(self._stream)

    def mark(self, cells: NDArray[np.bool_]) -> None:
        """Tells the skipping network of a frame's cells, as the pillar kernels do. Waits for the stream."""
        records, counters = marks_of(cells)
        self._device.upload(self._pillars, records, self._stream)
        self._device.upload(self._counters, counters, self._stream)
        self.enqueue_marks()
        self._device.synchronize(self._stream)

    def enqueue_marks(self) -> None:
        """The last `mark`'s cells once more, from device memory; may be captured."""
        assert self.skipping.activity is not None
        self.skipping.activity.enqueue_marks(self._pillars, self._counters, self._stream)

    def differing(self, *, maps: bool = True) -> list[str]:
        """Outputs, and maps too, that are not equal bit for bit."""
        names = []
        for name in self.dense.outputs:
            a, b = (network.read_output(name, self._stream) for network in (self.dense, self.skipping))
            if a.tobytes() != b.tobytes():
                names.append(name)
        for name in self.dense.maps if maps else ():
            a, b = (network.maps[name].read(self._device, self._stream) for network in (self.dense, self.skipping))
            if a.tobytes() != b.tobytes():
                names.append(name)
        return names


def marks_of(cells: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What `TileActivity.enqueue_marks` reads: records of its pillars, whose cells alone count, and the counters.

    Args:
        cells: (height, width) of the canvas, where it has pillars.
    """
    rows, columns = np.nonzero(cells)
    records: NDArray[np.int32] = np.zeros((max(len(rows), 1), 4), np.int32)
    records[: len(rows), 3] = rows << 16 | columns
    counters: NDArray[np.int32] = np.zeros(len(COUNTERS.names), np.int32)
    counters[COUNTERS.names.index("voxels")] = len(rows)
    return records, counters


def random_cells(size: tuple[int, int], rng: np.random.Generator) -> Iterator[NDArray[np.bool_]]:
    """Frames without end: empty and full ones, corners and borders, clusters that move, scattered cells."""
    height, width = size
    middle = rng.uniform(0, 1, 2) * size
    while True:
        cells: NDArray[np.bool_] = np.zeros(size, bool)
        kind = rng.choice(
            ["empty", "full", "corners", "border", "clusters", "scattered"], p=[0.1, 0.05, 0.1, 0.1, 0.45, 0.2]
        )
        if kind == "full":
            cells[:] = True
        elif kind == "corners":
            for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
                cells[y, x] = rng.random() < 0.5
        elif kind == "border":
            side, share = rng.integers(4), rng.random() / 4
            edge = (cells[0], cells[-1], cells[:, 0], cells[:, -1])[side]
            edge[:] = rng.random(len(edge)) < share
        elif kind == "clusters":
            middle = (middle + rng.normal(0, 6, 2)) % size
            near = rng.normal(middle, rng.uniform(1, 30), (int(rng.integers(1, 300)), 2)).astype(int)
            kept = near[((near >= 0) & (near < size)).all(axis=1)]
            cells[kept[:, 0], kept[:, 1]] = True
        elif kind == "scattered":
            cells = rng.random((height, width)) < rng.uniform(0, 0.01)
        yield cells


def check_skipping(device: CudaDevice, frames: int = 300) -> str:
    """Sequences of frames through networks of every kind of layer, and whole frames with their boxes.

    Args:
        frames: In all, over architectures and both types.
    """
    stream, counted = device.create_stream(), 0
    each = -(-frames // (2 * len(_ARCHITECTURES)))
    for name, architecture in _ARCHITECTURES.items():
        for map_type in MAP_TYPES:
            rng = np.random.default_rng(counted)
            pair = SkippingPair(device, random_plan(architecture, map_type), stream)
            for index, cells in zip(range(each), random_cells(architecture.size, rng), strict=False):
                pair.run(cells, rng)
                wrong = pair.differing(maps=index % _ALL_MAPS_EVERY == 0)
                if wrong:
                    raise AssertionError(f"{name}, {map_type}, frame {index}: {', '.join(wrong)} differ")
            counted += each
    return f"{counted} frames equal bit for bit; {_whole_frames(device)}"


def _bytes(boxes: Boxes3D) -> bytes:
    return boxes.boxes.tobytes() + boxes.scores.tobytes() + boxes.labels.tobytes()


def _whole_frames(device: CudaDevice, cells: int = 96, clouds: int = 60) -> str:
    """Clouds to boxes, with and without skipping."""
    spec = engine_spec(cells, max_voxels=2000)
    sequence = [clumped_cloud(spec, int(count), seed) for seed, count in enumerate(np.linspace(0, 3000, clouds))]
    order = np.random.default_rng(1).permutation(clouds)
    boxes = 0
    for map_type in MAP_TYPES:
        plan = random_plan(Architecture((cells, cells), depths=(1, 1, 1)), map_type)
        weights = random_weights(spec, 16)
        both = [DeviceFrame(device, spec, plan, weights, capacity=4000, skips_empty=skips) for skips in (False, True)]
        for index in order:
            results = [frame.detect(sequence[index]).boxes for frame in both]
            if _bytes(results[0]) != _bytes(results[1]):
                raise AssertionError(f"{map_type}, cloud {index}: boxes differ")
            boxes += len(results[0])
    return f"{2 * clouds} clouds to {boxes} equal boxes"
