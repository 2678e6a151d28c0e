"""The training loop: one process, one device, bfloat16 for backbone and neck."""

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
from training.on_device.augmentation import Augmentation, draw_moves, move_boxes, move_points
from training.on_device.frames import FrameStore, unpack
from training.on_device.losses import batch_losses, batch_targets
from training.on_device.pillars import batch_canvas, batch_pillars

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
) -> int:
    """Trains in place; returns the iterations done.

    Args:
        model: mmdet3d's CenterPoint, on the store's device.
        spec: Its specification; one task.
        store: The frames.
        schedule: How long.
        augmentation: How frames are changed.
        report: Called every `schedule.log_interval` iterations, and at the end.

    Raises:
        UserError: the loss is no number any more.
    """
    device = store.device
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng([schedule.seed, 1])
    model.train()
    weights = torch.tensor(model.pts_bbox_head.train_cfg["code_weights"], device=device)
    weights[6:8] = schedule.rot_weight
    box_weight = float(model.pts_bbox_head.loss_bbox.loss_weight)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.rate / 25.0, weight_decay=schedule.weight_decay, betas=(0.9, 0.99)
    )
    total = schedule.iterations
    sums = torch.zeros(4, device=device)
    since, started = 0, time.monotonic()
    iteration, rated_at = 0, 0.0
    while total is None or iteration < total:
        if total is None and iteration == _WARM_UP:
            _wait(device)
            rated_at = time.monotonic()
        if total is None and iteration == _WARM_UP + _RATED:
            _wait(device)
            each = (time.monotonic() - rated_at) / _RATED
            left = schedule.minutes * 60.0 - (time.monotonic() - started)
            total = iteration + max(1, int(left / each))
            _logger.info("%.1f ms an iteration: %d iterations in %.1f minutes", 1e3 * each, total, schedule.minutes)
        rate = _rate(iteration, total, schedule.rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        points, frames = store.draw(schedule.batch_size)
        moves = draw_moves(rng, len(frames), augmentation)
        boxes = [move_boxes(frame.boxes, moves, index) for index, frame in enumerate(frames)]
        targets = batch_targets(boxes, [frame.labels for frame in frames], spec, model.pts_bbox_head.train_cfg, device)
        which = torch.repeat_interleave(
            torch.arange(len(points), device=device), torch.tensor([len(part) for part in points], device=device)
        )
        cloud, which = move_points(unpack(torch.cat(points)), which, moves)
        heads = forward(model, cloud, which, len(points), spec)
        heatmap_loss, box_loss = batch_losses(heads, targets, weights, box_weight)
        optimizer.zero_grad(set_to_none=True)
        loss: Any = heatmap_loss + box_loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        with torch.no_grad():
            rot = heads["rot"].permute(0, 2, 3, 1).flatten(0, 2)[targets.cells]
            rot_error = (rot - targets.values[:, 6:8]).abs().sum() / max(1, len(rot))
            sums += torch.stack([heatmap_loss.detach(), box_loss.detach(), rot_error, norm])
        iteration, since = iteration + 1, since + 1
        if iteration % schedule.log_interval == 0 or iteration == total:
            means = (sums / since).tolist()
            if not all(math.isfinite(value) for value in means):
                raise UserError(f"The loss is no number after {iteration} iterations; lower --rate.")
            report(Progress(iteration, total or 0, time.monotonic() - started, rate, *means))
            sums.zero_()
            since = 0
    return iteration


def forward(
    model: Any, points: torch.Tensor, frame: torch.Tensor, batch: int, spec: ModelSpec
) -> dict[str, torch.Tensor]:
    """Raw heads, float32, of moved points (N, 5) of `batch` frames."""
    pillars = batch_pillars(points, frame, spec)
    features = model.pts_voxel_encoder(pillars.points, pillars.num_points, pillars.coords)
    canvas = batch_canvas(features, pillars.coords, batch, spec)
    with torch.autocast(canvas.device.type, dtype=torch.bfloat16, enabled=canvas.is_cuda):
        maps = model.pts_neck(model.pts_backbone(canvas))
    ((heads,),) = model.pts_bbox_head([part.float() for part in maps])
    return {name: value.float() for name, value in heads.items()}


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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
