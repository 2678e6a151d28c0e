"""The training loop: one process, one device, bfloat16 for all that is dense."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from base.errors import UserError
from models.spec import ModelSpec
from training.on_device.augmentation import Augmentation
from training.on_device.batches import Batch, ahead, make_batch
from training.on_device.dense import Dense, Heads, can_capture, canvas_dtype, captured
from training.on_device.encoder import PointRows, encode
from training.on_device.frames import FrameStore
from training.on_device.losses import batch_losses
from training.on_device.pasting import ObjectBank
from training.on_device.pillars import batch_canvas

__all__ = ["Progress", "Schedule", "train"]

_logger = logging.getLogger(__name__)

_WARM_UP = 30
_RATED = 60


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        iterations: of the whole training; None: as many as `minutes` hold, measured over the first ones.
        minutes: see there.
        batch_size: frames an iteration.
        rate: highest learning rate, of one cycle (Smith, arXiv 1708.07120).
        weight_decay: AdamW's.
        clip: largest norm of the gradient.
        rot_weight: weight of the orientation's sine and cosine in the boxes' loss; the other numbers' are the config's.
        seed: of the frames' order and their augmentation.
        fade: share of the training, its last, over which the augmentation goes down to nothing but turns and mirrors.
        capture: the dense part's kernels as CUDA graphs, where the device is one of CUDA.
        log_interval: iterations.
    """

    iterations: int | None
    minutes: float
    batch_size: int = 16
    rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 15.0
    rot_weight: float = 1.0
    seed: int = 0
    fade: float = 0.0
    capture: bool = False
    log_interval: int = 50


@dataclass(frozen=True)
class Progress:
    """Means over the iterations since the last one."""

    iteration: int
    iterations: int
    seconds: float
    rate: float
    heatmap_loss: float
    box_loss: float
    rot_loss: float
    grad_norm: float


def train(
    model: Any,
    spec: ModelSpec,
    store: FrameStore,
    schedule: Schedule,
    augmentation: Augmentation,
    report: Callable[[Progress], None],
    bank: ObjectBank | None = None,
) -> int:
    """Trains in place; returns the iterations done.

    Args:
        model: mmdet3d's CenterPoint, on the store's device.
        spec: Its specification; one task.
        store: The frames.
        schedule: How long.
        augmentation: How frames are changed.
        report: Called every `schedule.log_interval` iterations, and at the end.
        bank: Of objects that are put into frames; None: none.

    Raises:
        UserError: the loss is no number any more.
    """
    device = store.device
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng([schedule.seed, 1])
    model.train()
    model.to(memory_format=torch.channels_last)  # as the canvas lies
    head = model.pts_bbox_head
    weights = torch.tensor(head.train_cfg["code_weights"], device=device)
    weights[6:8] = schedule.rot_weight
    box_weight = float(head.loss_bbox.loss_weight)
    dense = Dense(model)
    state = _Length(schedule, device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=schedule.rate / 25.0,
        weight_decay=schedule.weight_decay,
        betas=(0.9, 0.99),
        fused=device.type == "cuda",
    )
    sums = torch.zeros(4, device=device)
    since, iteration = 0, 0

    def make(index: int) -> Batch:
        moved = augmentation.faded(index, state.total, schedule.fade)
        return make_batch(store, schedule.batch_size, rng, moved, spec, head.train_cfg, model.pts_voxel_encoder, bank)

    network: Heads = dense
    if schedule.capture and can_capture(device):
        channels, (nx, ny) = int(model.pts_middle_encoder.in_channels), spec.grid_size
        empty = torch.zeros((schedule.batch_size, ny, nx, channels), dtype=canvas_dtype(device), device=device)
        network = captured(dense, empty.permute(0, 3, 1, 2))
    for batch in ahead(make, lambda: state.total, device):
        state.look(iteration)
        rate = _rate(iteration, state.total, schedule.rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        heads = network(canvas_of(model, batch, spec))
        heatmap_loss, box_loss = batch_losses(heads, batch.targets, weights, box_weight)
        optimizer.zero_grad(set_to_none=True)
        loss: Any = heatmap_loss + box_loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        with torch.no_grad():
            rot = heads["rot"].permute(0, 2, 3, 1).flatten(0, 2)[batch.targets.cells]
            rot_error = (rot - batch.targets.values[:, 6:8]).abs().sum() / max(1, len(rot))
            sums += torch.stack([heatmap_loss.detach(), box_loss.detach(), rot_error, norm])
        iteration, since = iteration + 1, since + 1
        if iteration % schedule.log_interval == 0 or iteration == state.total:
            means = (sums / since).tolist()
            if not all(math.isfinite(value) for value in means):
                raise UserError(f"The loss is no number after {iteration} iterations; lower --rate.")
            report(Progress(iteration, state.total or 0, time.monotonic() - state.started, rate, *means))
            sums.zero_()
            since = 0
    model.to(memory_format=torch.contiguous_format)
    return iteration


class _Length:
    """How many iterations a training has: what its schedule says, or what fits, once that is measured."""

    def __init__(self, schedule: Schedule, device: torch.device) -> None:
        self.total = schedule.iterations
        self.started = time.monotonic()
        self._minutes, self._device, self._rated_at = schedule.minutes, device, 0.0

    def look(self, iteration: int) -> None:
        """Takes the time where it is needed; called before each iteration."""
        if self.total is not None or iteration not in (_WARM_UP, _WARM_UP + _RATED):
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.monotonic()
        if iteration == _WARM_UP:
            self._rated_at = now
            return
        each = (now - self._rated_at) / _RATED
        self.total = iteration + max(1, int((self._minutes * 60.0 - (now - self.started)) / each))
        _logger.info("%.1f ms an iteration: %d iterations in %.1f minutes", 1e3 * each, self.total, self._minutes)


def canvas_of(model: Any, batch: Batch, spec: ModelSpec) -> torch.Tensor:
    """The pillars' features on their canvases, bfloat16 on a CUDA device."""
    pillars, encoder = batch.pillars, model.pts_voxel_encoder
    if isinstance(pillars, PointRows):
        features = encode(encoder, pillars)
    else:
        features = encoder(pillars.points, pillars.num_points, pillars.coords)
    return batch_canvas(features.to(canvas_dtype(features.device)), pillars.coords, batch.size, spec)


def _rate(iteration: int, total: int | None, highest: float) -> float:
    """One cycle: up over the first 30 %, down to next to nothing, both as half a cosine."""
    if total is None:
        return highest / 25.0
    turn = max(1.0, 0.3 * total)
    if iteration < turn:
        low, share = highest / 25.0, iteration / turn
    else:
        low, share = highest / 1e5, 1.0 - (iteration - turn) / max(1.0, total - turn)
    return low + (highest - low) * (1.0 - math.cos(math.pi * share)) / 2.0
