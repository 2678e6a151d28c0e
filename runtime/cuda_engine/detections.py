"""Raw head maps on the device to boxes: `runtime.decode.decode` as three kernels and one small copy."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import BOX_COLUMNS, Boxes3D
from base.errors import ConfigError
from models.spec import HEAD_ORDER
from runtime.counts import BoxCounts
from runtime.cuda.device import pointers
from runtime.cuda_engine.decode_parameters import COUNTS, DECODE_SIZES, HEADER, DecodeModel, DecodeSizes
from runtime.cuda_engine.macros import definitions, kernel_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["DetectionKernels"]

_log = logging.getLogger(__name__)

_KERNELS = ("detect_collect", "detect_prune", "detect_finish")


class DetectionKernels:
    """Decodes one frame after the other; ties, thresholds and order are those of `runtime.decode.decode`.

    Attributes:
        max_boxes: Most boxes of a frame.
        header: Address of the words of `decode_parameters.HEADER`, int32: boxes, candidates dropped for a NaN or
            infinite number, logits above the threshold, candidates dropped for a size of 0 or less.
        boxes: Address of (max_boxes, 9) float32, columns `base.boxes.BOX_COLUMNS`, by descending score.
        scores: Address of (max_boxes,) float32.
        labels: Address of (max_boxes,) int32.
    """

    def __init__(self, device: CudaDevice, spec: ModelSpec, sizes: DecodeSizes = DECODE_SIZES) -> None:
        """Compiles and allocates.

        Args:
            sizes: Of the kernels; boxes do not depend on them.

        Raises:
            ConfigError: the model asks for more candidates than the kernels take, or lacks a head.
        """
        self._device, self._spec, self._sizes = device, spec, sizes
        self._names = {head.name for head in spec.heads}
        missing = sorted({"heatmap", "height", "dim", "rot"} - self._names)
        if missing:
            raise ConfigError(f"Model '{spec.name}' has no head {missing}; boxes cannot be decoded without.")
        model = self._model = DecodeModel.from_spec(spec, sizes)
        self.max_boxes = model.max_boxes
        macros = definitions(model, sizes, COUNTS, HEADER)
        kernels = device.compile_all(kernel_source(macros, "overlap.cuh", "decode.cu"), _KERNELS)
        self._collect, self._prune, self._finish = (kernels[name] for name in _KERNELS)
        self._collect_blocks = -(-model.logits // sizes.collect_tile)
        self._prune_blocks = min(-(-model.logits // sizes.prune_threads), 2 * device.num_multiprocessors)
        self._first, self._second = device.allocate(model.logits * 8), device.allocate(model.logits * 8)
        self._counts, self._histogram = device.allocate(COUNTS.num_bytes), device.allocate(sizes.bins * 4)
        # One block of memory, so that one copy brings a frame's result.
        lengths = [HEADER.num_bytes, self.max_boxes * len(BOX_COLUMNS) * 4, self.max_boxes * 4, self.max_boxes * 4]
        self._result_bytes = sum(lengths)
        self._starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
        self.header = device.allocate(self._result_bytes)
        self.boxes, self.scores, self.labels = (self.header + start for start in self._starts[1:4])
        self._host = device.allocate_pinned((self._result_bytes,), np.uint8)

    def enqueue(self, heads: Mapping[str, int], stream: int) -> None:
        """Puts the three kernels on the stream; may be captured.

        Args:
            heads: Head name -> address of (C, h, w) float32, aligned to 16 bytes, raw as for `runtime.decode.decode`.
            stream: Where they run.
        """
        device, sizes = self._device, self._sizes
        addresses = {name: heads[name] if name in self._names else 0 for name in HEAD_ORDER}
        first, second, counts, histogram = self._first, self._second, self._counts, self._histogram
        collected = pointers(addresses["heatmap"], first, counts, histogram)
        pruned = pointers(first, second, counts, histogram)
        maps = [addresses[name] for name in ("reg", "height", "dim", "rot", "vel")]
        finished = pointers(second, counts, histogram, *maps, self.header, self.boxes, self.scores, self.labels)
        device.launch(self._collect, self._collect_blocks, sizes.collect_threads, collected, stream)
        # Each waits for the one before it by itself.
        overlap = device.compute_capability >= (9, 0)
        device.launch(self._prune, self._prune_blocks, sizes.prune_threads, pruned, stream, overlap=overlap)
        device.launch(self._finish, 1, self._model.finish_threads, finished, stream, overlap=overlap)

    def new_host(self) -> NDArray[np.uint8]:
        """Page-locked memory for one frame's result, where several are in flight."""
        return self._device.allocate_pinned((self._result_bytes,), np.uint8)

    def enqueue_download(self, stream: int, host: NDArray[np.uint8] | None = None) -> None:
        """Puts the copy of the result to page-locked memory, `new_host`'s or its own, on the stream."""
        self._device.download(self._host if host is None else host, self.header, stream)

    def result(self, host: NDArray[np.uint8] | None = None) -> Boxes3D:
        """The boxes that `enqueue_download` brought, as a copy; the stream must have come past it."""
        host = self._host if host is None else host
        header = self._header(host)
        count, broken = header["boxes"], header["broken"]
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

    def dropped(self, host: NDArray[np.uint8] | None = None) -> BoxCounts:
        """What was dropped in the frame that `result` is of."""
        header = self._header(self._host if host is None else host)
        return BoxCounts(header["broken"], header["without_size"])

    @property
    def num_candidates(self) -> int:
        """Logits above the threshold in the frame that `result` is of."""
        return self._header(self._host)["candidates"]

    def _header(self, host: NDArray[np.uint8]) -> dict[str, int]:
        return dict(zip(HEADER.names, map(int, host[: HEADER.num_bytes].view(np.int32)), strict=True))
