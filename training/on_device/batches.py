"""Batches ready to be learned from, made ahead of the training by a thread on a stream of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch

from models.spec import ModelSpec
from training.on_device.augmentation import Augmentation, draw_moves, move_boxes, move_points
from training.on_device.encoder import PointRows, pillar_rows
from training.on_device.frames import FrameStore, unpack
from training.on_device.losses import BatchTargets, batch_targets
from training.on_device.pasting import Drawn, ObjectBank
from training.on_device.pillars import BatchPillars, batch_pillars

__all__ = ["Batch", "ahead", "make_batch"]

_DEPTH = 3


@dataclass(frozen=True)
class Batch:
    """What the network sees and what it should say.

    Attributes:
        pillars: As points' rows, or padded where the encoder wants that.
        targets: Of the same frames.
        size: Frames.
    """

    pillars: PointRows | BatchPillars
    targets: BatchTargets
    size: int


def make_batch(
    store: FrameStore,
    size: int,
    rng: np.random.Generator,
    augmentation: Augmentation,
    spec: ModelSpec,
    train_cfg: Mapping[str, Any],
    encoder: Any,
    bank: ObjectBank | None = None,
) -> Batch:
    """Draws `size` frames, moves them, and makes their pillars and targets, all on the store's device.

    Args:
        store: Where frames are drawn from.
        size: Of the batch.
        rng: Of the moves.
        augmentation: How far they go.
        spec: The model's.
        train_cfg: Of its head.
        encoder: The model's, which tells how it wants its pillars.
        bank: Of objects to put into frames; None: none.
    """
    points, stored = store.draw(size)
    frames = [Drawn.of(frame, part) for frame, part in zip(stored, points, strict=True)]
    if bank is not None:
        frames = [bank.add_to(frame, rng) for frame in frames]
    moves = draw_moves(rng, size, augmentation)
    boxes = [move_boxes(frame.boxes, moves, index) for index, frame in enumerate(frames)]
    targets = batch_targets(boxes, [frame.labels for frame in frames], spec, train_cfg, store.device)
    lengths = [
        frame.of_last_sweep if single else len(frame.points) for frame, single in zip(frames, moves.single, strict=True)
    ]
    cloud = unpack(torch.cat([frame.points[:length] for frame, length in zip(frames, lengths, strict=True)]))
    cloud, which = move_points(torch.split(cloud, lengths), moves)
    pillars = batch_pillars(cloud, which, spec)
    return Batch(pillar_rows(pillars, encoder) or pillars, targets, size)


def ahead(make: Callable[[int], Batch], total: Callable[[], int | None], device: torch.device) -> Iterator[Batch]:
    """Yields `make(0)`, `make(1)`, … in that order, up to `total()` of them where it is known.

    On a CUDA device a thread makes a few of them ahead on a stream of its own, so that what has to wait there for a
    size keeps nobody else waiting. What it raises is raised here.
    """
    if device.type != "cuda":
        index = 0
        while (end := total()) is None or index < end:
            yield make(index)
            index += 1
        return
    ready: queue.Queue[tuple[Batch, torch.cuda.Event] | BaseException] = queue.Queue(_DEPTH)
    ended = threading.Event()

    def put(item: tuple[Batch, torch.cuda.Event] | BaseException) -> None:
        while not ended.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            stream: torch.cuda.Stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
            index = 0
            with torch.cuda.device(device), torch.cuda.stream(stream):
                while not ended.is_set():
                    batch = make(index)
                    done: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    done.record(stream)
                    put((batch, done))
                    index += 1
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is asked for
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        index = 0
        while (end := total()) is None or index < end:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            batch, done = item
            current = torch.cuda.current_stream(device)
            current.wait_event(done)
            for tensor in _tensors(batch):
                tensor.record_stream(current)  # else their memory is given out again while they are read
            yield batch
            index += 1
    finally:
        ended.set()
        thread.join()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
