"""Raw head maps on the device to boxes: `runtime.decode.decode` as three kernels and one small copy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import BOX_COLUMNS, Boxes3D
from base.errors import ConfigError
from models.spec import HEAD_ORDER
from runtime.cuda.device import pointers
from runtime.cuda_engine.macros import Unsigned, kernel_source
from runtime.decode import sigmoid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["DetectionKernels", "logit_limit"]

_log = logging.getLogger(__name__)

_KERNELS = ("detect_collect", "detect_prune", "detect_finish")
# As in kernels/decode.cu.
_COLLECT_THREADS, _PRUNE_THREADS, _MOST_CANDIDATES = 512, 512, 1024
_COLLECT_TILE = _COLLECT_THREADS * 16
_BINS, _NUM_COUNTS, _HEADER = 4096, 2, 4
_KEY_NONE = 0xFFFFFFFF


class DetectionKernels:
    """Decodes one frame after the other; ties, thresholds and order are those of `runtime.decode.decode`.

    Attributes:
        max_boxes: Most boxes of a frame.
        header: Address of four int32: boxes, candidates dropped for a NaN or infinite number, logits above the
            threshold, 0.
        boxes: Address of (max_boxes, 9) float32, columns `base.boxes.BOX_COLUMNS`, by descending score.
        scores: Address of (max_boxes,) float32.
        labels: Address of (max_boxes,) int32.
    """

    def __init__(self, device: CudaDevice, spec: ModelSpec) -> None:
        """Compiles and allocates.

        Raises:
            ConfigError: the model asks for more candidates than the kernels take, or lacks a head.
        """
        self._device, self._spec = device, spec
        self._names = {head.name for head in spec.heads}
        missing = sorted({"heatmap", "height", "dim", "rot"} - self._names)
        if missing:
            raise ConfigError(f"Model '{spec.name}' has no head {missing}; boxes cannot be decoded without.")
        macros = _macros(spec)
        self.max_boxes = int(str(macros["MAX_BOXES"]))
        logits = int(str(macros["LOGITS"]))
        self._finish_threads = int(str(macros["FINISH_THREADS"]))
        kernels = device.compile_all(kernel_source(macros, "overlap.cuh", "decode.cu"), _KERNELS)
        self._collect, self._prune, self._finish = (kernels[name] for name in _KERNELS)
        self._collect_blocks = -(-logits // _COLLECT_TILE)
        self._prune_blocks = min(-(-logits // _PRUNE_THREADS), 2 * device.num_multiprocessors)
        self._first, self._second = device.allocate(logits * 8), device.allocate(logits * 8)
        self._counts, self._histogram = device.allocate(_NUM_COUNTS * 4), device.allocate(_BINS * 4)
        # One block of memory, so that one copy brings a frame's result.
        sizes = [_HEADER * 4, self.max_boxes * len(BOX_COLUMNS) * 4, self.max_boxes * 4, self.max_boxes * 4]
        self._result_bytes = sum(sizes)
        starts = np.cumsum([0, *sizes])
        self._starts = [int(start) for start in starts]
        self.header = device.allocate(self._result_bytes)
        self.boxes, self.scores, self.labels = (self.header + start for start in self._starts[1:4])
        self._host = device.allocate_pinned((self._result_bytes,), np.uint8)

    def enqueue(self, heads: Mapping[str, int], stream: int) -> None:
        """Puts the three kernels on the stream; may be captured.

        Args:
            heads: Head name -> address of (C, h, w) float32, aligned to 16 bytes, raw as for `runtime.decode.decode`.
            stream: Where they run.
        """
        device = self._device
        addresses = {name: heads[name] if name in self._names else 0 for name in HEAD_ORDER}
        first, second, counts, histogram = self._first, self._second, self._counts, self._histogram
        collected = pointers(addresses["heatmap"], first, counts, histogram)
        pruned = pointers(first, second, counts, histogram)
        maps = [addresses[name] for name in ("reg", "height", "dim", "rot", "vel")]
        finished = pointers(second, counts, histogram, *maps, self.header, self.boxes, self.scores, self.labels)
        device.launch(self._collect, self._collect_blocks, _COLLECT_THREADS, collected, stream)
        # Each waits for the one before it by itself.
        overlap = device.compute_capability >= (9, 0)
        device.launch(self._prune, self._prune_blocks, _PRUNE_THREADS, pruned, stream, overlap=overlap)
        device.launch(self._finish, 1, self._finish_threads, finished, stream, overlap=overlap)

    def new_host(self) -> NDArray[np.uint8]:
        """Page-locked memory for one frame's result, where several are in flight."""
        return self._device.allocate_pinned((self._result_bytes,), np.uint8)

    def enqueue_download(self, stream: int, host: NDArray[np.uint8] | None = None) -> None:
        """Puts the copy of the result to page-locked memory, `new_host`'s or its own, on the stream."""
        self._device.download(self._host if host is None else host, self.header, stream)

    def result(self, host: NDArray[np.uint8] | None = None) -> Boxes3D:
        """The boxes that `enqueue_download` brought, as a copy; the stream must have come past it."""
        host = self._host if host is None else host
        header = host[: self._starts[1]].view(np.int32)
        count, broken = int(header[0]), int(header[1])
        if broken:
            _log.warning(
                "Model '%s': %d candidate boxes have a NaN or infinite number and were dropped.",
                self._spec.name,
                broken,
            )
        parts = [host[self._starts[i] : self._starts[i + 1]] for i in (1, 2, 3)]
        boxes = parts[0].view(np.float32).reshape(self.max_boxes, len(BOX_COLUMNS))
        scores, labels = parts[1].view(np.float32), parts[2].view(np.int32)
        return Boxes3D(boxes[:count].copy(), scores[:count].copy(), labels[:count].astype(np.int64))

    @property
    def num_candidates(self) -> int:
        """Logits above the threshold in the frame that `result` is of."""
        return int(self._host[: self._starts[1]].view(np.int32)[2])


def logit_limit(threshold: float) -> np.float32 | None:
    """The smallest float32 logit whose score is above the threshold as `runtime.decode` compares them; None if none is.

    Found by bisection over all float32 numbers, so that the device compares logits and still agrees in every bit.
    """

    def passes(key: int) -> bool:
        return bool(sigmoid(np.asarray([_logit(key)]))[0] > np.float32(threshold))

    low, high = _key(np.float32(-np.inf)), _key(np.float32(np.inf))
    if not passes(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return _logit(low)


def _key(logit: np.float32) -> int:
    """Unsigned number in the order of the logits, as in kernels/decode.cu."""
    bits = int((logit + np.float32(0)).view(np.uint32))
    return ~bits & 0xFFFFFFFF if bits >> 31 else bits | 0x80000000


def _logit(key: int) -> np.float32:
    bits = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    return np.uint32(bits).view(np.float32)


def _macros(spec: ModelSpec) -> dict[str, object]:
    width, height = spec.head_size
    classes = next(head.channels for head in spec.heads if head.name == "heatmap")
    top_k = spec.max_detections_before_nms
    if not 1 <= top_k <= _MOST_CANDIDATES:
        raise ConfigError(
            f"Model '{spec.name}': max_num of the bbox coder is {top_k}; this engine's kernels take 1 to "
            f"{_MOST_CANDIDATES}."
        )
    if spec.post_max_size < 1:
        raise ConfigError(f"Model '{spec.name}': post_max_size is {spec.post_max_size}; no box would be left.")
    limit = logit_limit(spec.score_threshold)
    start = np.float32(0) if limit is None else max(limit, np.float32(-16))
    names = {head.name for head in spec.heads}
    macros: dict[str, object] = {
        "CELLS": width * height,
        "WIDTH": width,
        "LOGITS": classes * width * height,
        "KEY_LIMIT": Unsigned(_KEY_NONE if limit is None else _key(limit)),
        "BIN_START": start,
        "TOP_K": top_k,
        "FINISH_THREADS": 512 if top_k <= 512 else _MOST_CANDIDATES,
        "MAX_BOXES": min(spec.post_max_size, top_k),
        "STRIDE": np.float32(spec.out_size_factor),
        "MIN_RADIUS": float(spec.nms_min_radius_m2),
        "NORM_BBOX": spec.norm_bbox,
        "Y_AXIS_REFERENCE": spec.rot_y_axis_reference,
        "HAS_OFFSET": "reg" in names,
        "HAS_VELOCITY": "vel" in names,
    }
    for axis, name in enumerate("XYZ"):
        macros[f"RANGE_{name}0"] = np.float32(spec.post_center_range[axis])
        macros[f"RANGE_{name}1"] = np.float32(spec.post_center_range[axis + 3])
    for axis, name in enumerate("XY"):
        macros[f"SIZE_{name}"] = np.float32(spec.voxel_size[axis])
        macros[f"LOWER_{name}"] = np.float32(spec.point_cloud_range[axis])
    return macros
