"""Calibration frames that are read more than once, kept as their occupied cells."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from base.errors import CheckpointError, DataError
from base.files import atomic_path
from base.progress import progress
from base.untrusted import load_weights_file
from quant.calibration.batches import CalibrationFrame, evenly_spaced
from quant.calibration.processes import in_processes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StoredFrames"]


_LARGEST_CANVAS = 1 << 28  # values, 1 GiB


@dataclass(frozen=True, eq=False)
class _Cells:
    token: str
    shape: torch.Size
    index: Tensor
    values: Tensor


class StoredFrames(Sequence[CalibrationFrame]):
    """Frames on the host; a canvas whose cells are mostly empty takes a few per cent of its size."""

    def __init__(self, batches: Iterable[Any], count: int) -> None:
        """Reads frames.

        Args:
            batches: `CalibrationFrame`s or canvases (1, C, H, W); of a sequence, evenly spaced ones are taken, of
                another iterable the first.
            count: Frames at most.

        Raises:
            DataError: no frame, or something else than a canvas.
        """
        if count < 1:
            raise DataError(
                f"Zero calibration frames: num_calibration_batches is {count}; give 1 or more (100 are usual)."
            )
        if isinstance(batches, StoredFrames) and len(batches) <= count:
            self._frames: list[_Cells] = batches._frames
            return
        if isinstance(batches, Sequence):
            items: Iterable[Any] = (batches[index] for index in evenly_spaced(len(batches), count))
            total = min(count, len(batches))
        else:
            items, total = islice(iter(batches), count), count
        self._frames = [
            _stored(item, index) for index, item in enumerate(progress(items, "reading calibration frames", total))
        ]
        if not self._frames:
            raise DataError(
                "Zero calibration frames: the batches are empty. Give a split with frames, or another --data-root."
            )

    @classmethod
    def read(cls, frames: Sequence[Any], count: int, workers: int | None = None) -> Self:
        """The same frames as the constructor stores, read by several processes of one thread each.

        Args:
            frames: `CalibrationFrame`s or canvases, each made when it is asked for; on the CPU.
            count: Frames at most, evenly spaced.
            workers: Processes; None: one a processor. What is stored does not depend on it.

        Raises:
            DataError: no frame, or something else than a canvas.
        """
        chosen = evenly_spaced(len(frames), count) if count >= 1 and len(frames) else ()
        workers = max(1, min(workers or len(os.sched_getaffinity(0)), len(chosen)))

        def work(share: Sequence[int]) -> Iterator[tuple[int, str, tuple[int, ...], Any, Any]]:
            torch.set_num_threads(1)
            for place in share:
                cells = _stored(frames[chosen[place]], place)
                yield place, cells.token, tuple(cells.shape), cells.index.numpy(), cells.values.numpy()

        if not chosen:
            return cls((), count)  # which says what is wrong
        threads = torch.get_num_threads()
        shares = [range(first, len(chosen), workers) for first in range(workers)]
        messages = work(shares[0]) if workers == 1 else in_processes(work, shares)
        rows: dict[int, _Cells] = {}
        try:
            for place, token, shape, index, values in progress(messages, "reading calibration frames", len(chosen)):
                rows[place] = _Cells(token, torch.Size(shape), torch.from_numpy(index), torch.from_numpy(values))
        finally:
            torch.set_num_threads(threads)
        stored = cls.__new__(cls)
        stored._frames = [rows[place] for place in range(len(chosen))]
        return stored

    def save(self, path: str | Path) -> None:
        """Writes the frames; `load` reads them."""
        rows = [(cells.token, tuple(cells.shape), cells.index, cells.values) for cells in self._frames]
        # In memory first: torch's own writer does not tell a full disk from a fault.
        buffer = io.BytesIO()
        torch.save({"frames": rows}, buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Frames that `save` wrote.

        Raises:
            CheckpointError: the file is missing, broken or unsafe, or `save` did not write it.
        """
        frames = cls.__new__(cls)
        rows = load_weights_file(path).get("frames")
        cells = [_cells(row) for row in rows] if isinstance(rows, list) else [None]
        frames._frames = [cell for cell in cells if cell is not None]
        if len(frames._frames) != len(cells):
            raise CheckpointError(f"'{path}' holds no calibration frames. Remove it, and they are read again.")
        return frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: Any) -> Any:
        """The frame at `index`, its canvas made anew on the host; a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        cells = self._frames[index]
        canvas = torch.zeros(cells.shape)
        canvas[0].reshape(cells.shape[1], -1)[:, cells.index] = cells.values
        return CalibrationFrame(cells.token, canvas)


def _cells(row: object) -> _Cells | None:
    """A row of a file, if it is one that `save` writes: cells inside of a canvas."""
    match row:
        case (
            str(token),
            (int(batch), int(channels), int(height), int(width)),
            torch.Tensor() as index,
            torch.Tensor() as values,
        ):
            pass
        case _:
            return None
    count = height * width
    if (index.dtype, values.dtype, index.dim(), values.shape) != (
        torch.int64,
        torch.float32,
        1,
        (channels, len(index)),
    ):
        return None
    if (
        batch != 1
        or not 0 < channels * count <= _LARGEST_CANVAS
        or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < count)
    ):
        return None
    return _Cells(token, torch.Size((1, channels, height, width)), index, values)


def _stored(item: Any, index: int) -> _Cells:
    token, canvas = (item.token, item.canvas) if isinstance(item, CalibrationFrame) else (f"batch {index}", item)
    if not isinstance(canvas, torch.Tensor) or canvas.dim() != 4 or len(canvas) != 1:
        got = tuple(canvas.shape) if isinstance(canvas, torch.Tensor) else f"a {type(canvas).__name__}"
        raise DataError(f"Calibration frame '{token}' is {got}; a canvas (1, C, H, W) or a CalibrationFrame is needed.")
    flat = canvas.detach()[0].reshape(canvas.shape[1], -1).float().cpu()
    # NaN is not 0 either: a broken canvas stays one.
    occupied = (flat != 0).any(dim=0).nonzero()[:, 0]
    return _Cells(token, canvas.shape, occupied, flat[:, occupied].clone())
