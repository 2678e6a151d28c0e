"""What evaluation needs of a frame, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import DataError
from base.progress import progress

__all__ = ["FrameLike", "FramesLike", "first_frames"]


class FrameLike(Protocol):
    """One frame with its truth; `datasets.frames.Frame` is one."""

    @property
    def token(self) -> str:
        """Unique name."""
        ...

    @property
    def points(self) -> NDArray[np.float32]:
        """(N, C) float32 as the model takes them."""
        ...

    @property
    def ground_truth(self) -> Boxes3D:
        """Annotated boxes."""
        ...


class FramesLike(Protocol):
    """Frames by index; `datasets.frames.FrameSource` is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> FrameLike: ...


def first_frames(
    frames: FramesLike, num: int, label: str, show_progress: bool, share: tuple[int, int] = (0, 1)
) -> Iterator[FrameLike]:
    """The first `num` frames, each read when it is needed.

    Args:
        frames: Where they come from.
        num: How many; -1 for all.
        label: What is done with them, for the progress bar.
        show_progress: Whether to show one.
        share: (r, n): of these, frames r, r + n, r + 2n, … alone; there may be none.

    Raises:
        DataError: there are no or too few frames, or one cannot be read: a frame left out would change the result
            without a word.
    """
    if num < -1 or num == 0:
        raise DataError(f"{label}: {num} frames were asked for; give a positive number, or -1 for all")
    available = len(frames)
    if available == 0:
        raise DataError(f"{label}: the dataset has no frames")
    if num > available:
        raise DataError(f"{label}: {num} frames were asked for, but the dataset has {available}; use -1 for all")
    indices = range(share[0], available if num == -1 else num, share[1])
    for index in progress(indices, label) if show_progress else indices:
        try:
            frame = frames[index]
        except DataError as error:
            raise DataError(f"{label}: frame {index} of {available} cannot be read: {error}") from error
        yield frame
