"""Detections of every variant of `benchmarks.int8_accuracy` on the frames to score, by several processes.

Each process makes the canvases of its share of the frames once and gives them to one variant after another, so that
the variants differ in the network behind it alone. Every process computes with one thread, whatever their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.progress import progress
from benchmarks.int8_accuracy_results import StoredRun
from eval.metrics import FrameResult
from models.spec import BACKBONE_NECK_HEAD
from runtime.decode import decode

if TYPE_CHECKING:
    from torch import nn

    from datasets.frames import FrameSource
    from models.spec import ModelSpec
    from quant.calibration import CalibrationFrame

__all__ = ["Network", "network_opener", "score"]

Network = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class _Frame:
    index: int
    truth: FrameResult
    scene: str


@dataclass(frozen=True)
class _Detections:
    index: int
    name: str
    boxes: Boxes3D


def network_opener(spec: ModelSpec, folder: Path, backend: str = "onnx") -> Callable[[], Network]:
    """What opens the network of an ONNX folder on a backend, with one thread."""
    (component,) = (item for item in spec.components if item.name == BACKBONE_NECK_HEAD)

    def opened() -> Network:
        from runtime.backends import open_backend

        session = open_backend(backend, spec=spec, onnx_dir=folder, threads=1)
        return lambda canvas: session.run(BACKBONE_NECK_HEAD, {component.inputs[0].name: canvas})

    return opened


def score(
    run: StoredRun,
    openers: Mapping[str, Callable[[], Network]],
    frames: FrameSource,
    count: int,
    model: nn.Module,
    spec: ModelSpec,
    workers: int | None = None,
) -> None:
    """Runs variants over frames and keeps what they find in the run's folder, each as soon as it is whole.

    Args:
        run: Receives detections, ground truth and scenes.
        openers: Name of each variant -> what opens its network, canvas (1, C, H, W) -> raw heads by name; called once
            in every process.
        frames: Of the dataset.
        count: Of them that are scored, from the first on.
        model: Float CenterPoint on the CPU, whose voxel encoder makes the canvases.
        spec: Its specification.
        workers: Processes; None: one a processor.
    """
    import torch

    from quant.calibration.processes import in_processes

    workers = min(workers or len(os.sched_getaffinity(0)), count)

    def work(share: Sequence[int]) -> Iterator[_Frame | _Detections]:
        torch.set_num_threads(1)
        canvases = []
        for index in share:
            frame = frames[index]
            canvases.append(_canvas(frame, model, spec))
            yield _Frame(index, FrameResult(frame.token, Boxes3D.empty(), frame.ground_truth), frame.scene)
        for name, opener in openers.items():
            network = opener()
            for index, canvas in zip(share, canvases, strict=True):
                yield _Detections(index, name, decode(network(canvas[0].canvas.numpy()), spec))

    threads = torch.get_num_threads()
    shares = [range(first, count, workers) for first in range(workers)]
    messages = work(shares[0]) if workers == 1 else in_processes(work, shares)
    seen: dict[int, _Frame] = {}
    found: dict[str, dict[int, Boxes3D]] = {name: {} for name in openers}
    label = f"scoring {len(openers)} variants ({workers} process{'es' if workers > 1 else ''})"
    try:
        for message in progress(messages, label, count * (1 + len(openers)), unit="step"):
            if isinstance(message, _Frame):
                seen[message.index] = message
                if len(seen) == count:
                    rows = [seen[index] for index in range(count)]
                    run.save_frames([row.truth for row in rows], [row.scene for row in rows])
                continue
            boxes = found[message.name]
            boxes[message.index] = message.boxes
            if len(boxes) == count:
                run.save_detections(message.name, [boxes[index] for index in range(count)])
                boxes.clear()
    finally:
        torch.set_num_threads(threads)


def _canvas(frame: Any, model: nn.Module, spec: ModelSpec) -> Sequence[CalibrationFrame]:
    """One frame's canvas, kept as its occupied cells."""
    import torch

    from models.components import VoxelEncoder
    from quant.calibration import CalibrationFrame
    from quant.stored_frames import StoredFrames
    from runtime.preprocess import preprocess
    from runtime.scatter import scatter

    voxels = preprocess(frame.points, spec)
    with torch.no_grad():
        pillars = VoxelEncoder(model).eval()(torch.from_numpy(voxels.features))
    canvas = scatter(pillars, torch.from_numpy(voxels.coords), spec)
    return StoredFrames([CalibrationFrame(frame.token, canvas)], 1)
