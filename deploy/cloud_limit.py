"""Frames that are too large for a run: told before its work, not at the frame."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from base.messages import shown
from runtime.capacity import check_cloud

if TYPE_CHECKING:
    from datasets.frames import FrameSource
    from models.spec import ModelSpec

__all__ = ["check_frames"]

_logger = logging.getLogger(__name__)


def check_frames(frames: FrameSource, number: int, max_points: int, spec: ModelSpec) -> None:
    """Holds the files of frames against the most points of a cloud.

    Args:
        frames: Of the run.
        number: The first so many; -1 is all.
        max_points: The most.
        spec: The model.

    Raises:
        DataError: a frame can have more; the message names it, and the option that makes room.
    """
    points, token = frames.most_points(number)
    check_cloud(f"By the sizes of its files, frame {shown(token)} has up to {points} points", points, max_points, spec)
    _logger.info("   at most %d points a frame, room for %d", points, max_points)
