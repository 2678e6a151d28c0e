"""What kernels/decode.cu is compiled with: sizes that both sides rely on, and the model's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import BOX_COLUMNS
from base.errors import ConfigError
from models.spec import CIRCLE, CLASS_PEAKS
from runtime.cuda_engine.macros import Unsigned, Words
from runtime.decode import sigmoid

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = ["COUNTS", "DECODE_SIZES", "HEADER", "NO_RADIUS", "DecodeModel", "DecodeSizes", "logit_limit"]

# What a frame's kernels count among themselves, and what the host reads: with the boxes behind it, which are read as
# vectors of 16 bytes, the header fills such a vector.
COUNTS = Words("COUNT", ("collected", "pruned"))
HEADER = Words("HEADER", ("boxes", "broken", "candidates", "without_size"))

# Squared metres: no distance is below it.
NO_RADIUS = -1.0
_BINS_PER_LOGIT = np.float32(256)
_KEY_NONE = Unsigned(0xFFFFFFFF)
# Below the histogram's first bin lies nothing of interest: a score of 1e-7.
_LOWEST_BIN_START = np.float32(-16)


@dataclass(frozen=True)
class DecodeSizes:
    """Sizes of the kernels; the same for every model.

    Attributes:
        collect_threads: Of a block of detect_collect.
        collect_vectors: Of four logits each, that one of its threads reads at a time.
        prune_threads: Of a block of detect_prune.
        bins: Of the histogram of logits.
        bins_per_logit: How fine it is.
        sort: Candidates that detect_finish can sort.
        box_columns: Numbers of a box.
        key_none: Key that no logit has.
    """

    collect_threads: int = 512
    collect_vectors: int = 4
    prune_threads: int = 512
    bins: int = 4096
    bins_per_logit: np.float32 = _BINS_PER_LOGIT
    sort: int = 2048
    box_columns: int = len(BOX_COLUMNS)
    key_none: Unsigned = _KEY_NONE

    @property
    def collect_tile(self) -> int:
        """Logits that a block of detect_collect reads at a time."""
        return self.collect_threads * self.collect_vectors * 4

    @property
    def most_candidates(self) -> int:
        """Largest top-k: one block of detect_finish has a thread for each."""
        return 1024


DECODE_SIZES = DecodeSizes()
"""The fastest, as measured."""


@dataclass(frozen=True)
class DecodeModel:
    """A model's numbers; each attribute is the macro of its name, described in kernels/decode.cu."""

    cells: int
    width: int
    logits: int
    key_limit: Unsigned
    bin_start: np.float32
    top_k: int
    max_boxes: int
    finish_threads: int
    stride: np.float32
    min_radius: float
    norm_bbox: bool
    y_axis_reference: bool
    has_offset: bool
    has_velocity: bool
    peaks: bool
    range_x0: np.float32
    range_y0: np.float32
    range_z0: np.float32
    range_x1: np.float32
    range_y1: np.float32
    range_z1: np.float32
    size_x: np.float32
    size_y: np.float32
    lower_x: np.float32
    lower_y: np.float32

    @classmethod
    def from_spec(cls, spec: ModelSpec, sizes: DecodeSizes, index: int = 0) -> DecodeModel:
        """Of one task of a model, or of one of its classes where each class has its peaks.

        Boxes that suppress by overlap all leave the device: `NO_RADIUS` suppresses none.

        Args:
            index: Of the task.

        Raises:
            ConfigError: it asks for more candidates than the kernels take, or for no box.
        """
        task = spec.tasks[index]
        top_k = spec.max_detections_before_nms
        if not 1 <= top_k <= sizes.most_candidates:
            raise ConfigError(
                f"Model '{spec.name}': max_num of the bbox coder is {top_k}; this engine's kernels take 1 to "
                f"{sizes.most_candidates}."
            )
        if spec.post_max_size < 1:
            raise ConfigError(f"Model '{spec.name}': post_max_size is {spec.post_max_size}; no box would be left.")
        peaks = spec.decoding == CLASS_PEAKS
        by_distance = spec.nms_type == CIRCLE
        width, height = spec.head_size
        classes = next(head.channels for head in task.heads if head.name == "heatmap")
        names = {head.name for head in task.heads}
        limit = logit_limit(spec.score_threshold)
        x0, y0, z0, x1, y1, z1 = (np.float32(value) for value in spec.post_center_range)
        size_x, size_y = (np.float32(value) for value in spec.voxel_size[:2])
        lower_x, lower_y = (np.float32(value) for value in spec.point_cloud_range[:2])
        return cls(
            cells=width * height,
            width=width,
            logits=(1 if peaks else classes) * width * height,
            key_limit=sizes.key_none if limit is None else Unsigned(_key(limit)),
            bin_start=np.float32(0) if limit is None else max(limit, _LOWEST_BIN_START),
            top_k=top_k,
            max_boxes=min(spec.post_max_size, top_k) if by_distance else top_k,
            finish_threads=512 if top_k <= 512 else sizes.most_candidates,
            stride=np.float32(spec.out_size_factor),
            min_radius=float(task.nms_min_radius_m2) if by_distance else NO_RADIUS,
            norm_bbox=spec.norm_bbox,
            y_axis_reference=spec.rot_y_axis_reference,
            has_offset="reg" in names,
            has_velocity="vel" in names,
            peaks=peaks,
            range_x0=x0,
            range_y0=y0,
            range_z0=z0,
            range_x1=x1,
            range_y1=y1,
            range_z1=z1,
            size_x=size_x,
            size_y=size_y,
            lower_x=lower_x,
            lower_y=lower_y,
        )


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
