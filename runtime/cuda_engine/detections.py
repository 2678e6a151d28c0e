"""Raw head maps on the device to boxes: `runtime.decode.decode` as three kernels a task and one small copy."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import BOX_COLUMNS, Boxes3D
from base.errors import ConfigError
from models.spec import CIRCLE, CLASS_PEAKS, HEAD_ORDER
from runtime.counts import BoxCounts
from runtime.cuda.device import pointers
from runtime.cuda_engine.decode_parameters import COUNTS, DECODE_SIZES, HEADER, DecodeModel, DecodeSizes
from runtime.cuda_engine.macros import definitions, kernel_source
from runtime.decode import by_score, suppress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["DetectionKernels"]

_log = logging.getLogger(__name__)

_KERNELS = ("detect_collect", "detect_prune", "detect_finish")
_BOXES = HEADER.names.index("boxes")


@dataclass(frozen=True)
class _Scratch:
    """Device memory that the tasks of a frame use one after the other: addresses."""

    first: int
    second: int
    counts: int
    histogram: int


class _TaskKernels:
    """One task, or one class of it: its kernels, and where its boxes lie in the block of the results.

    Attributes:
        first_class: Label of its first class among those of all tasks.
        max_boxes: Most boxes of a frame.
        num_bytes: Of its part of the block.
    """

    def __init__(self, device: CudaDevice, spec: ModelSpec, index: int, sizes: DecodeSizes, own_class: int = 0) -> None:
        self._device, self._sizes = device, sizes
        self.task = spec.tasks[index]
        self.first_class = sum(len(task.class_names) for task in spec.tasks[:index]) + own_class
        # Where the heatmap of its classes begins.
        self._heatmap_start = own_class * spec.head_size[0] * spec.head_size[1] * 4
        self._names = {head.name: spec.output_name(index, head.name) for head in spec.tasks[index].heads}
        missing = sorted({"heatmap", "height", "dim", "rot"} - set(self._names))
        if missing:
            raise ConfigError(f"Model '{spec.name}' has no head {missing}; boxes cannot be decoded without.")
        model = self.model = DecodeModel.from_spec(spec, sizes, index)
        self.max_boxes = model.max_boxes
        macros = definitions(model, sizes, COUNTS, HEADER)
        kernels = device.compile_all(kernel_source(macros, "overlap.cuh", "ranking.cuh", "decode.cu"), _KERNELS)
        self._collect, self._prune, self._finish = (kernels[name] for name in _KERNELS)
        self._collect_blocks = -(-model.logits // sizes.collect_tile)
        self._prune_blocks = min(-(-model.logits // sizes.prune_threads), 2 * device.num_multiprocessors)
        lengths = [HEADER.num_bytes, self.max_boxes * len(BOX_COLUMNS) * 4, self.max_boxes * 4, self.max_boxes * 4]
        self._starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
        self.num_bytes = self._starts[-1]

    def enqueue(self, heads: Mapping[str, int], scratch: _Scratch, result: int, stream: int, overlap: bool) -> None:
        """Puts its three kernels on the stream.

        Args:
            result: Address of its part of the results.
            overlap: Whether the first kernel may start while the one before it ends.
        """
        device, sizes = self._device, self._sizes
        addresses = {name: heads[self._names[name]] if name in self._names else 0 for name in HEAD_ORDER}
        heatmap = addresses["heatmap"] + self._heatmap_start
        collected = pointers(heatmap, scratch.first, scratch.counts, scratch.histogram)
        pruned = pointers(scratch.first, scratch.second, scratch.counts, scratch.histogram)
        maps = [addresses[name] for name in ("reg", "height", "dim", "rot", "vel")]
        parts = [result + start for start in self._starts[:4]]
        finished = pointers(scratch.second, scratch.counts, scratch.histogram, *maps, *parts)
        chained = device.compute_capability >= (9, 0)
        device.launch(
            self._collect, self._collect_blocks, sizes.collect_threads, collected, stream, overlap=overlap and chained
        )
        # Each waits for the one before it by itself.
        device.launch(self._prune, self._prune_blocks, sizes.prune_threads, pruned, stream, overlap=chained)
        device.launch(self._finish, 1, self.model.finish_threads, finished, stream, overlap=chained)

    def header(self, host: NDArray[np.uint8]) -> dict[str, int]:
        """Word -> value, from its part of a result on the host."""
        return dict(zip(HEADER.names, map(int, host[: HEADER.num_bytes].view(np.int32)), strict=True))

    def boxes(self, host: NDArray[np.uint8]) -> Boxes3D:
        """A copy of its boxes, labels into its own classes, by descending score."""
        boxes, scores, labels = self.rows(host)
        return Boxes3D(boxes.copy(), scores.copy(), labels - self.first_class)

    def rows(self, host: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Its boxes and scores as they lie there, and their labels among the classes of all tasks."""
        count = int(host[: HEADER.num_bytes].view(np.int32)[_BOXES])
        first, second, third, end = self._starts[1:]
        boxes = host[first:second].view(np.float32).reshape(self.max_boxes, len(BOX_COLUMNS))
        labels = host[third:end].view(np.int32)[:count].astype(np.int64)
        return boxes[:count], host[second:third].view(np.float32)[:count], labels + self.first_class


class DetectionKernels:
    """Decodes one frame after the other; ties, thresholds and order are those of `runtime.decode.decode`.

    Suppression by distance is done on the device. What suppresses by overlap leaves it as at most
    `max_detections_before_nms` candidates a task, and `runtime.decode.suppress` takes the rest of the way on the host.
    Where each class has its peaks, each has kernels of its own, and the host takes the best of all.
    """

    def __init__(self, device: CudaDevice, spec: ModelSpec, sizes: DecodeSizes = DECODE_SIZES) -> None:
        """Compiles and allocates.

        Args:
            sizes: Of the kernels; boxes do not depend on them.

        Raises:
            ConfigError: the model asks for more candidates than the kernels take, or lacks a head.
        """
        self._device, self._spec = device, spec
        self._tasks = [
            _TaskKernels(device, spec, index, sizes, own_class)
            for index, task in enumerate(spec.tasks)
            for own_class in (range(len(task.class_names)) if spec.decoding == CLASS_PEAKS else [0])
        ]
        logits = max(task.model.logits for task in self._tasks)
        self._scratch = _Scratch(
            device.allocate(logits * 8),
            device.allocate(logits * 8),
            device.allocate(COUNTS.num_bytes),
            device.allocate(sizes.bins * 4),
        )
        # One block of memory, so that one copy brings a frame's result; headers are aligned to 16 bytes.
        self._starts, self._num_bytes = [], 0
        for task in self._tasks:
            self._starts.append(-(-self._num_bytes // 16) * 16)
            self._num_bytes = self._starts[-1] + task.num_bytes
        self._results = device.allocate(self._num_bytes)
        # Words of each header that are read for every frame, also of those whose boxes nobody asks for.
        broken, without_size = HEADER.names.index("broken"), HEADER.names.index("without_size")
        self._broken = [start // 4 + broken for start in self._starts]
        self._without_size = [start // 4 + without_size for start in self._starts]
        self._host = self.new_host()

    def enqueue(self, heads: Mapping[str, int], stream: int) -> None:
        """Puts the kernels on the stream, three a task; may be captured.

        Args:
            heads: Head name -> address of (C, h, w) float32, aligned to 16 bytes, raw as for `runtime.decode.decode`.
            stream: Where they run.
        """
        for index, task in enumerate(self._tasks):
            task.enqueue(heads, self._scratch, self._results + self._starts[index], stream, overlap=index > 0)

    def new_host(self) -> NDArray[np.uint8]:
        """Page-locked memory for one frame's result, where several are in flight."""
        return self._device.allocate_pinned((self._num_bytes,), np.uint8)

    def enqueue_download(self, stream: int, host: NDArray[np.uint8] | None = None) -> None:
        """Puts the copy of the result to page-locked memory, `new_host`'s or its own, on the stream."""
        self._device.download(self._host if host is None else host, self._results, stream)

    def result(self, host: NDArray[np.uint8] | None = None) -> Boxes3D:
        """The boxes that `enqueue_download` brought, as a copy; the stream must have come past it."""
        broken = self.dropped(host).broken
        if broken:
            _log.warning(
                "Model '%s': %d candidate boxes have a NaN or infinite number and were dropped.",
                self._spec.name,
                broken,
            )
        if self._spec.nms_type == CIRCLE and self._spec.decoding != CLASS_PEAKS:
            return self._joined(host)
        found = []
        for task, part in zip(self._tasks, self._parts(host), strict=True):
            boxes = task.boxes(part)
            if self._spec.nms_type != CIRCLE:
                boxes = suppress(boxes, task.task, self._spec)
            found.append(Boxes3D(boxes.boxes, boxes.scores, boxes.labels + task.first_class))
        boxes = by_score(found)
        if self._spec.decoding == CLASS_PEAKS:
            boxes = boxes.select(np.arange(min(self._spec.post_max_size, len(boxes))))
        return boxes

    def _joined(self, host: NDArray[np.uint8] | None) -> Boxes3D:
        """What `by_score` makes of the tasks' boxes, without boxes of each task in between."""
        rows = [task.rows(part) for task, part in zip(self._tasks, self._parts(host), strict=True)]
        boxes, scores, labels = (np.concatenate(columns) for columns in zip(*rows, strict=True))
        order = np.argsort(-scores, kind="stable") if len(rows) > 1 else slice(None)
        return Boxes3D(boxes[order], scores[order], labels[order])

    def dropped(self, host: NDArray[np.uint8] | None = None) -> BoxCounts:
        """What was dropped in the frame that `result` is of."""
        words = (self._host if host is None else host).view(np.int32)
        return BoxCounts(
            sum(int(words[index]) for index in self._broken), sum(int(words[index]) for index in self._without_size)
        )

    @property
    def num_candidates(self) -> int:
        """Logits above the threshold in the frame that `result` is of."""
        return sum(item["candidates"] for item in self._headers(None))

    def _headers(self, host: NDArray[np.uint8] | None) -> list[dict[str, int]]:
        return [task.header(part) for task, part in zip(self._tasks, self._parts(host), strict=True)]

    def _parts(self, host: NDArray[np.uint8] | None) -> list[NDArray[np.uint8]]:
        """Each task's part of a result."""
        block = self._host if host is None else host
        return [block[start:][: task.num_bytes] for start, task in zip(self._starts, self._tasks, strict=True)]
