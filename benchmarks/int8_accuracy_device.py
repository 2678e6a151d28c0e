"""Detections of variants that go from points to boxes on one GPU, for `benchmarks.int8_accuracy`.

Processes read the frames, each its share, and one process gives every frame to all variants in turn: their times are
of the same clouds in the same minute. A variant that the engine refuses is left out, and its reason kept.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import Boxes3D
from base.errors import ConfigError, ExportError
from base.progress import progress
from benchmarks.int8_accuracy_results import StoredRun
from eval.metrics import FrameResult
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER
from runtime.backends.base import component_paths, device_index

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from datasets.frames import FrameSource
    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.detector import Detector

__all__ = ["Engines", "score_on_device"]

_logger = logging.getLogger(__name__)

_WARM_UP = 3
# Of `runtime.backends.base.STAGES`: backbone, neck and head.
_STAGE = "backbone_neck_head"
# Seconds of a run, for its log, beside the detectors' own.
_READ, _DETECT = "waiting for frames", "detecting"


class Engines:
    """Detectors of ONNX folders on one GPU, many at a time: kernels that several use are compiled once.

    Args:
        spec: The model of all.
        gpu: "cuda:N".
        capacity: Most points of a cloud.
    """

    def __init__(self, spec: ModelSpec, gpu: str, capacity: int) -> None:
        index = device_index(gpu)
        if index is None:
            raise ConfigError(f"--gpu is '{gpu}'; the backend cuda runs on a GPU, such as cuda:0.")
        self._spec, self._index, self._capacity = spec, index, capacity
        self._device: CudaDevice | None = None

    def open(self, onnx_dir: Path) -> Detector:
        """A detector that lives until `close`; the driver is loaded with the first.

        Raises:
            ConfigError, ExportError: the engine does not run the files; the message names the node.
            BackendUnavailable: this machine cannot run it.
        """
        from benchmarks.gpu_engine import CachingDevice
        from runtime.cuda_engine.frame import DeviceFrame
        from runtime.cuda_engine.from_onnx import plan_from_onnx
        from runtime.graphs.detector import GraphDetector
        from runtime.pillar_weights import PillarWeights

        paths = component_paths(self._spec, onnx_dir, ".onnx", None, "Prepare it first (--stages prepare).")
        plan = plan_from_onnx(paths[BACKBONE_NECK_HEAD], self._spec)
        weights = PillarWeights.from_onnx(paths[VOXEL_ENCODER])
        self._device = self._device or CachingDevice.open(self._index)
        frame = DeviceFrame(self._device, self._spec, plan, weights, capacity=self._capacity)
        return GraphDetector(self._spec, "cuda", f"cuda:{self._index}", frame, lambda: None)

    def close(self) -> None:
        """Frees the device's memory; the detectors must be closed."""
        if self._device is not None:
            self._device.close()
            self._device = None


@dataclass(frozen=True, eq=False)
class _Loaded:
    index: int
    points: NDArray[np.float32]
    truth: FrameResult
    scene: str


class _Variant:
    """One detector with what it found, by frame."""

    def __init__(self, detector: Detector, count: int) -> None:
        self._detector = detector
        self.boxes: list[Boxes3D] = [Boxes3D.empty()] * count
        self.network_ms = np.zeros(count, np.float32)

    def detect(self, index: int, points: NDArray[np.float32]) -> None:
        found = self._detector(points)
        self.boxes[index] = found.detections
        self.network_ms[index] = found.stages_ms[_STAGE]


def score_on_device(
    run: StoredRun,
    openers: Mapping[str, Callable[[], Detector]],
    frames: FrameSource,
    count: int,
    workers: int | None = None,
) -> None:
    """Runs variants over frames and keeps what they find, and what they refuse, in the run's folder.

    Args:
        run: Receives detections with the network's time on each frame, ground truth and scenes.
        openers: Name of each variant -> what opens its detector; all are open at the same time.
        frames: Of the dataset.
        count: Of them that are scored, from the first on.
        workers: Processes that read frames; None: one a processor.

    Raises:
        ConfigError: every variant was refused.
    """
    from quant.calibration.processes import in_processes

    workers = min(workers or len(os.sched_getaffinity(0)), count)

    def load(share: Sequence[int]) -> Iterator[_Loaded]:
        import torch

        torch.set_num_threads(1)
        for index in share:
            frame = frames[index]
            truth = FrameResult(frame.token, Boxes3D.empty(), frame.ground_truth)
            yield _Loaded(index, frame.points, truth, frame.scene)

    # Processes first, the GPU after: a process with a GPU's driver in it should not be copied.
    loading = in_processes(load, [range(first, count, workers) for first in range(workers)])
    first = next(loading)
    with ExitStack() as opened:
        variants = _opened(run, openers, count, opened)
        for _ in range(_WARM_UP):
            for variant in variants.values():
                variant.detect(first.index, first.points)
        seen: dict[int, _Loaded] = {}
        seconds = dict.fromkeys((_READ, _DETECT), 0.0)
        label = f"scoring {len(variants)} variants on the GPU ({workers} read frames)"
        before = time.perf_counter()
        for item in progress(chain([first], loading), label, count):
            read = time.perf_counter()
            for variant in variants.values():
                variant.detect(item.index, item.points)
            seen[item.index] = _Loaded(item.index, np.empty((0, 0), np.float32), item.truth, item.scene)
            after = time.perf_counter()
            seconds[_READ] += read - before
            seconds[_DETECT] += after - read
            before = after
    _logger.info("%d frames: %s", count, ", ".join(f"{value:.1f} s {what}" for what, value in seconds.items()))
    rows = [seen[index] for index in range(count)]
    run.save_frames([row.truth for row in rows], [row.scene for row in rows])
    for name, variant in variants.items():
        run.save_detections(name, variant.boxes, variant.network_ms)


def _opened(
    run: StoredRun, openers: Mapping[str, Callable[[], Detector]], count: int, opened: ExitStack
) -> dict[str, _Variant]:
    """The variants that open; of the others the reason is kept."""
    variants: dict[str, _Variant] = {}
    refused: dict[str, str] = {}
    for name, opener in progress(list(openers.items()), "opening variants"):
        try:
            variants[name] = _Variant(opened.enter_context(opener()), count)
        except (ConfigError, ExportError) as reason:
            _logger.warning("'%s' does not run: %s", name, reason)
            refused[name] = str(reason)
    run.save_refusals(refused)
    if not variants:
        raise ConfigError(f"None of the variants runs; the first one's reason: {next(iter(refused.values()))}")
    return variants
