"""Checks of the detection kernels on a device against runtime.decode."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from models.spec import CLASS_PEAKS
from runtime.class_peaks import class_peaks
from runtime.cuda_engine.checks.cases import ROTATED, engine_spec, several_tasks
from runtime.cuda_engine.checks.timing import replay_time_us
from runtime.cuda_engine.decode_parameters import DECODE_SIZES, DecodeSizes
from runtime.cuda_engine.detections import DetectionKernels
from runtime.decode import decode_counted, sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["DetectionBench", "check_large_maps", "check_random_maps", "check_special_maps", "hard_maps", "random_maps"]

Maps = dict[str, "NDArray[np.float32]"]

# In metres, or their logarithms: exp(-200) is 0 in single precision, exp(-90) is not.
_CENTRES = (-4.0, -4.0, -1.0, 4.0, 4.0, 1.0)
_SIZES = (2.0, 1.0, 1.5, 0.5, 0.0, -0.0, -1.0, 1e-30, -1e-30, -200.0, -90.0)
# Columns that are copied or made of float32 sums and products; the rest comes from exp and atan2.
_EXACT = [0, 1, 2, 7, 8]
_ROUNDED = [3, 4, 5, 6]


def random_maps(spec: ModelSpec, seed: int, mean: float = -4.0, deviation: float = 1.0) -> Maps:
    """Head maps with independent normal values, logits of the given mean."""
    rng = np.random.default_rng(seed)
    maps = {head.name: rng.standard_normal(spec.head_shape(head), np.float32) for head in spec.heads}
    return _changed(maps, "heatmap", lambda logits: logits * np.float32(deviation) + np.float32(mean))


def _changed(maps: Maps, branch: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Maps:
    """Other values in one branch of every task."""
    return {name: change(value) if _branch(name) == branch else value for name, value in maps.items()}


def _branch(name: str) -> str:
    """Of a head's name in the graph."""
    return name.partition("_")[0]


def hard_maps(spec: ModelSpec) -> Iterator[tuple[str, Maps]]:
    """Maps at the limits of the kernels, by name."""
    base: Maps = random_maps(spec, 1)
    above = _changed(base, "heatmap", lambda logits: logits + 2)
    yield "few", base
    yield "none above", _changed(base, "heatmap", lambda logits: logits - 50)
    yield "all above", _changed(base, "heatmap", lambda logits: logits + 50)
    yield "half above", above
    yield "one value", _changed(base, "heatmap", np.zeros_like)
    yield "ties", _changed(base, "heatmap", lambda logits: np.rint(logits * 2) * np.float32(0.5))
    yield "both zeros", _changed(base, "heatmap", _both_zeros)
    yield "not finite logits", _changed(base, "heatmap", _not_finite)
    broken = above
    for branch in ("reg", "height", "dim", "rot", "vel"):
        broken = _changed(broken, branch, _broken)
    yield "broken boxes", broken
    rng = np.random.default_rng(5)
    yield "sizes about 0", _changed(above, "dim", lambda dim: rng.choice(np.array(_SIZES, np.float32), dim.shape))
    crowd = _changed(base, "heatmap", lambda logits: logits + 4)
    yield "crowd", _changed(crowd, "reg", np.zeros_like)
    yield "at the threshold", _changed(base, "heatmap", lambda logits: _around(spec, logits.shape))
    limits = np.array([spec.post_center_range[2], spec.post_center_range[5]], np.float32)
    edges = np.concatenate(
        [limits, np.nextafter(limits, np.float32(-np.inf)), np.nextafter(limits, np.float32(np.inf))]
    )
    places = np.random.default_rng(4)
    yield "at the limits of the range", _changed(above, "height", lambda height: places.choice(edges, height.shape))


def _both_zeros(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.random.default_rng(2).random(logits.shape) < 0.5, np.float32(-0.0), np.float32(0.0))


def _not_finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    wild = logits.copy()
    for start, step, value in ((0, 7, np.nan), (1, 11, np.inf), (2, 13, -np.inf)):
        wild.reshape(-1)[start::step] = value
    return wild


def _broken(values: NDArray[np.float32]) -> NDArray[np.float32]:
    broken = values.copy()
    broken.reshape(-1)[::5] = np.nan
    broken.reshape(-1)[1::17] = 200.0
    return broken


def _around(spec: ModelSpec, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits within a few units in the last place of the threshold's."""
    threshold = min(max(spec.score_threshold, 1e-3), 1 - 1e-3)
    center = np.float32(np.log(threshold / (1 - threshold)))
    steps = np.random.default_rng(3).integers(-8, 9, shape)
    return (np.full(shape, center, np.float32).view(np.int32) + steps.astype(np.int32)).view(np.float32)


class DetectionBench:
    """The kernels of one model with head maps of their own, compared frame by frame."""

    def __init__(self, device: CudaDevice, spec: ModelSpec, sizes: DecodeSizes = DECODE_SIZES) -> None:
        self._device, self._spec = device, spec
        self.stream = device.create_stream()
        self.kernels = DetectionKernels(device, spec, sizes)
        self.heads = {head.name: device.allocate(int(np.prod(spec.head_shape(head))) * 4) for head in spec.heads}
        self.values, self.rounded = 0, 0

    def upload(self, maps: Mapping[str, NDArray[np.float32]]) -> None:
        """Head maps to the device."""
        for name, address in self.heads.items():
            self._device.upload(address, np.ascontiguousarray(maps[name]), self.stream)
        self._device.synchronize(self.stream)

    def enqueue(self) -> None:
        """One frame."""
        self.kernels.enqueue(self.heads, self.stream)

    def compare(self, maps: Mapping[str, NDArray[np.float32]], name: str) -> None:
        """Raises AssertionError unless the last frame's boxes are those of these maps."""
        self.kernels.enqueue_download(self.stream)
        self._device.synchronize(self.stream)
        found, decoded = self.kernels.result(), decode_counted(maps, self._spec)
        expected = decoded.boxes
        if self.kernels.dropped() != decoded.dropped:
            raise AssertionError(f"{name}: dropped {self.kernels.dropped()}, not {decoded.dropped}")
        if len(found) != len(expected):
            raise AssertionError(f"{name}: {len(found)} boxes, not {len(expected)}")
        if not np.array_equal(found.labels, expected.labels):
            raise AssertionError(f"{name}: labels differ")
        if not np.array_equal(found.boxes[:, _EXACT], expected.boxes[:, _EXACT]):
            wrong = np.count_nonzero((found.boxes[:, _EXACT] != expected.boxes[:, _EXACT]).any(axis=1))
            raise AssertionError(f"{name}: {wrong} of {len(found)} boxes have another centre or velocity")
        pairs = [(found.scores, expected.scores), (found.boxes[:, _ROUNDED], expected.boxes[:, _ROUNDED])]
        for ours, theirs in pairs:
            # exp and atan2 in double precision may differ in their last place, which rounding to float32 mostly hides.
            self.values += ours.size
            self.rounded += int(np.count_nonzero(ours != theirs))
            if not np.array_equal(ours, theirs) and not (np.abs(ours - theirs) <= np.spacing(np.abs(theirs))).all():
                raise AssertionError(f"{name}: a score, size or yaw differs by more than its last place")
        above = 0
        for head, values in maps.items():
            if _branch(head) == "heatmap":
                logits = np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
                if self._spec.decoding == CLASS_PEAKS:
                    logits = logits.reshape(-1)[class_peaks(values[0], values.size)]
                above += int(np.count_nonzero(sigmoid(logits) > np.float32(self._spec.score_threshold)))
        if self.kernels.num_candidates != above:
            raise AssertionError(f"{name}: {self.kernels.num_candidates} logits above the threshold, not {above}")

    def run(self, maps: Mapping[str, NDArray[np.float32]], name: str) -> None:
        """Upload, one frame, comparison."""
        self.upload(maps)
        self.enqueue()
        self.compare(maps, name)

    def summary(self) -> str:
        """What was found over all frames."""
        return f"{self.rounded} of {self.values} scores, sizes and yaws in the last place"


def check_special_maps(device: CudaDevice, cells: int = 64) -> str:
    """Maps at the limits of the kernels, for several models."""
    variants: tuple[dict[str, object], ...] = (
        {},
        {"norm_bbox": False, "rot_y_axis_reference": True, "score_threshold": 0.0},
        {"nms_min_radius_m2": 0.0, "max_detections_before_nms": 1000, "post_max_size": 1000},
        {"nms_min_radius_m2": 25.0, "max_detections_before_nms": 70, "post_max_size": 3, "score_threshold": 0.5},
        {"heads": tuple(head for head in engine_spec(8).heads if head.name not in ("reg", "vel"))},
        {"score_threshold": 1.0},
        # Heights have a deviation of 1: most boxes are too high or too low, and some too far to a side.
        {"post_center_range": (-0.1 * cells, -0.15 * cells, -0.5, 0.15 * cells, 0.1 * cells, 0.7)},
        {"tasks": several_tasks(), "post_max_size": 20},
        {"tasks": several_tasks(), "max_detections_before_nms": 60, **ROTATED},
        {"nms_min_radius_m2": 0.0, "max_detections_before_nms": 60, **ROTATED, "nms_center_range": _CENTRES},
        {"decoding": CLASS_PEAKS, "max_detections_before_nms": 50, "post_max_size": 50},
    )
    rounded = 0
    with _quiet():
        for changes in variants:
            bench = DetectionBench(device, engine_spec(cells, **changes))
            for name, maps in hard_maps(bench._spec):
                bench.run(maps, f"{name} with {sorted(changes)}")
            rounded += bench.rounded
    return f"{len(variants)} models, {rounded} values in the last place"


def check_random_maps(device: CudaDevice, count: int = 1000, cells: int = 40) -> str:
    """Random maps of random densities through one instance."""
    bench = DetectionBench(device, engine_spec(cells))
    rng = np.random.default_rng(0)
    for case in range(count):
        maps = random_maps(bench._spec, case, float(rng.uniform(-6, 2)), float(rng.uniform(0.1, 3)))
        bench.run(maps, f"maps {case}")
    return f"{count} frames; {bench.summary()}"


def check_large_maps(device: CudaDevice, replays: int = 200) -> str:
    """Maps of 760 x 760 cells with few, many and all logits above the threshold, from a captured graph; times."""
    bench = DetectionBench(device, engine_spec(760))
    notes = []
    for name, mean, deviation in (("few", -6.0, 1.0), ("half", -2.2, 0.3), ("all", 5.0, 1.0)):
        maps = random_maps(bench._spec, 0, mean, deviation)
        bench.upload(maps)
        time = replay_time_us(device, bench.stream, bench.enqueue, replays)
        bench.compare(maps, name)
        notes.append(f"{time:.1f} us with {bench.kernels.num_candidates} above")
    return f"{'; '.join(notes)}; {bench.summary()}"


class _quiet:  # noqa: N801 - reads as a statement
    """No warnings about the boxes that the checks break on purpose."""

    def __enter__(self) -> None:
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
