"""Checks of the pillar kernels on a device against runtime.preprocess and the encoder in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.arguments import DEFAULT_POINTS
from models.point_columns import NODE_COLUMNS
from runtime.cuda_engine.checks.cases import (
    clumped_cloud,
    engine_spec,
    features_alone,
    hard_clouds,
    large_cloud,
    random_weights,
)
from runtime.cuda_engine.checks.timing import replay_time_us
from runtime.cuda_engine.cloud_memory import CloudMemory
from runtime.cuda_engine.pillar_parameters import PILLAR_SIZES, PillarSizes
from runtime.cuda_engine.pillars import CanvasMemory, PillarEncoderKernels
from runtime.preprocess import decorate, voxelize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.pillar_weights import PillarWeights

__all__ = [
    "PillarBench",
    "check_crowded_pillar",
    "check_encoder_forms",
    "check_large_cloud",
    "check_random_clouds",
    "check_special_clouds",
]

# Where sums are taken in another order, float32 results differ by this share of the largest, float16 ones by steps.
_FLOAT32_SHARE, _FLOAT16_SHARE = 2e-6, 4e-3
_EQUAL_CODES = 0.999
# Pillars that numpy encodes at a time: a hundred points of a hundred channels each are a lot of memory.
_CHUNK = 4096
_WIDE = ("x", "y", "z", "intensity", "time_lag", "ring", "reflectivity", "ambient")
_FOUR = ("x", "y", "z", "intensity")

# Step of the canvas' codes or None for float16, whether the graph is of float16, channels of the first of two layers or
# 0 for one, and what the model changes.
EncoderForm = tuple[float | None, bool, int, dict[str, object]]
ENCODER_FORMS: dict[str, EncoderForm] = {
    "[64], 20 points": (0.05, False, 0, {"encoder_channels": 64, "max_points_per_voxel": 20}),
    "[64], 32 points": (None, False, 0, {"encoder_channels": 64, "voxel_center_dims": 2}),
    "[64], 100 points": (
        0.05,
        True,
        0,
        {"encoder_channels": 64, "max_points_per_voxel": 100, "point_columns": _FOUR},
    ),
    "[128], 128 points": (
        None,
        False,
        0,
        {"encoder_channels": 128, "max_points_per_voxel": 128, "point_columns": _WIDE, "point_distance": True},
    ),
    "[12], 5 points": (0.05, False, 0, {"encoder_channels": 12, "max_points_per_voxel": 5, "voxel_center_dims": 0}),
    "[16, 32], 100 points": (0.05, False, 16, {"max_points_per_voxel": 100}),
    "[32, 64], 128 points": (None, True, 32, {"encoder_channels": 64, "max_points_per_voxel": 128}),
    "legacy, distance": (0.05, False, 0, {"legacy_encoder": True, "point_distance": True}),
    "no cluster": (None, True, 0, {"cluster_center": False, "legacy_encoder": True, "max_points_per_voxel": 40}),
    "bare": (0.05, False, 8, {"cluster_center": False, "voxel_center_dims": 0, "point_columns": _FOUR}),
}


@dataclass
class _Tally:
    codes: int = 0
    equal: int = 0
    largest_share: float = 0.0


class PillarBench:
    """The kernels of one model with a canvas of their own, compared frame by frame."""

    def __init__(
        self,
        device: CudaDevice,
        spec: ModelSpec,
        weights: PillarWeights,
        scale: float | None,
        capacity: int,
        sizes: PillarSizes = PILLAR_SIZES,
    ) -> None:
        self._device, self._spec, self._weights, self._scale = device, spec, weights, scale
        self.stream = device.create_stream()
        nx, ny = spec.grid_size
        per_chunk = 8 if scale is None else 16
        self._shape = (-(-spec.encoder_channels // per_chunk), ny + 2, nx + 2, per_chunk)
        self._dtype = np.dtype(np.float16 if scale is None else np.int8)
        size = int(np.prod(self._shape)) * self._dtype.itemsize
        self._canvas = device.allocate(size)
        canvas = CanvasMemory(self._canvas, size // self._shape[0], scale)
        self.kernels = PillarEncoderKernels(device, spec, weights, canvas, capacity=capacity, sizes=sizes)
        self.cloud = CloudMemory(device, spec, capacity)
        self.tally = _Tally()

    def read(self, address: int, shape: tuple[int, ...], dtype: type | np.dtype[np.generic]) -> NDArray[np.generic]:
        """A copy of device memory; waits for the stream."""
        values = np.empty(shape, dtype)
        if values.size:
            self._device.download(values, address, self.stream)
        self._device.synchronize(self.stream)
        return values

    def run(self, cloud: NDArray[np.float32]) -> None:
        """One frame."""
        self.upload(cloud)
        self.enqueue()
        self._device.synchronize(self.stream)

    def upload(self, cloud: NDArray[np.float32]) -> None:
        """Puts the copy of a cloud on the stream."""
        self.cloud.fill(cloud)
        self.cloud.enqueue_copy(self.stream)

    def enqueue(self) -> None:
        """Puts the kernels on the stream."""
        self.kernels.enqueue(self.cloud, self.stream)

    def enqueue_encoding(self) -> None:
        """Puts the last kernel alone on the stream."""
        self.kernels.enqueue_encoding(self.cloud, self.stream)

    def compare(self, cloud: NDArray[np.float32], name: str, *, is_exact: bool = False) -> None:
        """Raises AssertionError unless the last frame's results are those of this cloud.

        Args:
            cloud: What ran last.
            name: For messages.
            is_exact: Sums have one summand, so that pillar features must be equal bit by bit.
        """
        spec = self._spec
        voxels = voxelize(cloud, spec)
        counts = self.kernels.download_counts(self.stream)
        if counts != voxels.counts:
            raise AssertionError(f"{name}: {counts}, not {voxels.counts}")
        pillars = self.read(self.kernels.pillars, (len(voxels), 4), np.int32)
        nx = spec.grid_size[0]
        cells = voxels.coords[:, 1] * nx + voxels.coords[:, 2]
        if not np.array_equal(pillars[:, 0], cells):
            raise AssertionError(f"{name}: pillars are others, or in another order")

        found = self.read(self.kernels.features, (len(voxels), spec.encoder_channels), np.float32).astype(np.float32)
        encoded: NDArray[np.float32] = np.zeros((0, spec.encoder_channels), np.float32)
        if len(voxels):
            features = decorate(voxels, spec)
            parts = [self._weights.apply(features[at : at + _CHUNK]) for at in range(0, len(voxels), _CHUNK)]
            encoded = np.concatenate(parts)
            share = float(np.abs(found - encoded).max() / max(float(np.abs(encoded).max()), 1e-6))
            limit = 0.0 if is_exact else _FLOAT16_SHARE if self._weights.float16 else _FLOAT32_SHARE
            if not share <= limit:
                raise AssertionError(f"{name}: pillar features differ by {share:g} of the largest")
            self.tally.largest_share = max(self.tally.largest_share, share)

        canvas = np.zeros(self._shape, self._dtype)
        canvas[:, cells // nx + 1, cells % nx + 1] = self._blocked(found)
        device_canvas = self.read(self._canvas, self._shape, self._dtype)
        if not np.array_equal(device_canvas, canvas):
            wrong = int(np.count_nonzero(device_canvas != canvas))
            raise AssertionError(f"{name}: {wrong} canvas elements are not those of the features")
        if self._scale is not None:
            wanted = self._blocked(encoded).astype(int)
            steps = np.abs(self._blocked(found).astype(int) - wanted)
            if steps.size and steps.max() > 1 and not self._weights.float16:
                raise AssertionError(f"{name}: a code differs by {steps.max()} steps")
            self.tally.codes += steps.size
            self.tally.equal += int(np.count_nonzero(steps == 0))

    def _blocked(self, features: NDArray[np.float32]) -> NDArray[np.generic]:
        """(M, C) -> (chunks, M, channels of a chunk) as stored, by QuantizeLinear's formula."""
        chunks, per_chunk = self._shape[0], self._shape[3]
        values = np.zeros((len(features), chunks * per_chunk), np.float32)
        values[:, : features.shape[1]] = features
        if self._scale is not None:
            values = np.clip(np.rint(values / np.float32(self._scale)), -128, 127)
        return values.astype(self._dtype).reshape(len(features), chunks, per_chunk).transpose(1, 0, 2)

    def summary(self) -> str:
        """What was found over all frames; raises AssertionError where too few codes are equal."""
        tally = self.tally
        text = f"largest difference {tally.largest_share:.1e} of the largest feature"
        if not tally.codes:
            return text
        share = tally.equal / tally.codes
        if share < _EQUAL_CODES:
            raise AssertionError(f"only {share:.4%} of the codes are equal")
        return f"{text}, {share:.4%} of {tally.codes} codes equal"


def check_special_clouds(device: CudaDevice, capacity: int = 20_000) -> str:
    """Clouds at the limits, INT8 and float16, one frame after the other through the same buffers."""
    notes = []
    variants: tuple[tuple[float | None, bool, int, dict[str, object]], ...] = (
        (0.05, False, 16, {"max_voxels": 3000}),
        (None, False, 16, {"max_voxels": 3000}),
        (0.05, True, 16, {"max_voxels": 3000}),
        (
            0.05,
            False,
            4,
            {
                "encoder_channels": 8,
                "max_points_per_voxel": 8,
                "voxel_center_dims": 2,
                "point_columns": NODE_COLUMNS[0],
            },
        ),
        (None, False, 32, {"encoder_channels": 64, "max_points_per_voxel": 20}),
    )
    for scale, float16, hidden, changes in variants:
        spec = engine_spec(80, **changes)
        bench = PillarBench(device, spec, random_weights(spec, hidden, float16=float16), scale, capacity)
        for name, cloud in hard_clouds(spec, capacity):
            bench.run(cloud)
            bench.compare(cloud, name)
        notes.append(bench.summary())
    return f"{len(variants)} models; {notes[0]}"


def check_encoder_forms(
    device: CudaDevice, capacity: int = 20_000, cells: int = 80, forms: Iterable[str] = tuple(ENCODER_FORMS)
) -> str:
    """Every form of encoder on clouds at the limits, and the decoration of its points bit by bit."""
    notes = []
    for form in forms:
        scale, float16, hidden, changes = ENCODER_FORMS[form]
        spec = engine_spec(cells, max_voxels=3000, **changes)
        bench = PillarBench(device, spec, random_weights(spec, hidden, float16=float16), scale, capacity)
        for name, cloud in hard_clouds(spec, capacity):
            bench.run(cloud)
            bench.compare(cloud, f"{form}: {name}")
        notes.append(bench.summary())
        seen = engine_spec(cells, max_voxels=3000, **(changes | {"encoder_channels": 2 * spec.layer_in_features}))
        exact = PillarBench(device, seen, features_alone(seen), None, capacity)
        for name, cloud in hard_clouds(seen, capacity):
            exact.run(cloud)
            exact.compare(cloud, f"{form}, decoration: {name}", is_exact=True)
    return f"{len(notes)} forms, decoration equal bit by bit; {notes[0]}"


def check_random_clouds(device: CudaDevice, count: int = 1000, most: int = 3000) -> str:
    """Random clouds of random sizes through one instance."""
    spec = engine_spec(64, max_voxels=150)
    bench = PillarBench(device, spec, random_weights(spec, 16), 0.05, most)
    rng = np.random.default_rng(0)
    for case in range(count):
        cloud = clumped_cloud(spec, int(rng.integers(0, most + 1)), case)
        bench.run(cloud)
        bench.compare(cloud, f"cloud {case}")
    return f"{count} clouds; {bench.summary()}"


def check_large_cloud(device: CudaDevice, replays: int = 200) -> str:
    """200,000 points on 760 x 760 cells, from a captured graph; its time, also with room for ten times as many."""
    notes = []
    for scale, float16, capacity in (
        (0.05, False, 1 << 18),
        (0.05, False, DEFAULT_POINTS),
        (0.05, True, DEFAULT_POINTS),
        (None, False, DEFAULT_POINTS),
    ):
        spec = engine_spec(760)
        bench = PillarBench(device, spec, random_weights(spec, 16, float16=float16), scale, capacity)
        cloud = large_cloud(spec)
        bench.upload(cloud)
        time = replay_time_us(device, bench.stream, bench.enqueue, replays)
        bench.compare(cloud, "large cloud")
        pillars = bench.kernels.download_counts(bench.stream).voxels
        kind = f"{'int8' if scale else 'float16'} canvas{', float16 graph' if float16 else ''}, room for {capacity}"
        notes.append(f"{kind}: {time:.1f} us for {pillars} pillars, {bench.summary()}")
        bench.run(cloud[:1000])
        bench.compare(cloud[:1000], "small cloud after a large one")
    return "; ".join(notes)


def check_crowded_pillar(device: CudaDevice, most: int = DEFAULT_POINTS, replays: int = 20) -> str:
    """All points in one pillar, then all over the range: the time must grow as the number of points does.

    Raises:
        AssertionError: results differ, or four times as many points take more than eight times as long.
    """
    notes = []
    for hidden, max_points in ((16, 32), (0, 20), (0, 128)):
        spec = engine_spec(512, encoder_channels=64 if not hidden else 32, max_points_per_voxel=max_points)
        bench = PillarBench(device, spec, random_weights(spec, hidden), 0.05, most)
        rng = np.random.default_rng(6)
        points = rng.uniform(0.05, 0.25, (most, spec.point_features)).astype(np.float32)
        clouds = {"all in one": points, "a quarter of them": points[: most // 4], "spread": large_cloud(spec, most)}
        times = {}
        for name, cloud in clouds.items():
            bench.upload(cloud)
            times[name] = replay_time_us(device, bench.stream, bench.enqueue, replays)
            bench.compare(cloud, name)
        if times["all in one"] > 8 * times["a quarter of them"]:
            raise AssertionError(f"{most} points in a pillar of {max_points}: {times} us, more than in proportion")
        listed = ", ".join(f"{name} {time:.0f} us" for name, time in times.items())
        notes.append(f"{max_points} points a pillar: {listed}")
    return f"{most} points; " + "; ".join(notes)
