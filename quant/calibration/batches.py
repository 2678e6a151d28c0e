"""Calibration frames as canvases, the input of backbone, neck and head: from a dataset or an mmengine data loader."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from base.checks import settle
from base.errors import ConfigError, DataError
from models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from datasets.frames import FrameSource

__all__ = [
    "CalibrationFrame",
    "CalibrationFrames",
    "calibration_batches",
    "dataloader_batches",
    "evenly_spaced",
    "frames_of",
]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CalibrationFrame:
    """One frame.

    Attributes:
        token: Its name in the dataset.
        canvas: (1, C, H, W) float32 scattered pillar features, on the model's device.
    """

    token: str
    canvas: Tensor


class CalibrationFrames(Sequence[CalibrationFrame]):
    """Frames of a dataset, each made when asked for: points, runtime's preprocessing, the model's voxel encoder,
    scatter.

    Nothing is kept between frames. The encoder is the model's own: where it has quantizers, whoever observes them while
    a frame is made sees their inputs too.
    """

    def __init__(self, frames: FrameSource, indices: Sequence[int], model: nn.Module, spec: ModelSpec) -> None:
        from models.components import VoxelEncoder

        self._frames = frames
        self._indices = tuple(indices)
        self._encoder = VoxelEncoder(model).eval()
        self._spec = spec

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def info_sha256(self) -> str:
        """SHA-256 of the info file that says which frames there are."""
        return self._frames.info_sha256

    def __getitem__(self, index: Any) -> Any:
        """The frame at `index`; a `CalibrationFrames` for a slice.

        Raises:
            DataError: its files are missing or broken.
        """
        import torch

        from runtime.counts import dropped_pillars
        from runtime.preprocess import preprocess
        from runtime.scatter import scatter

        if isinstance(index, slice):
            part = CalibrationFrames.__new__(CalibrationFrames)
            part.__dict__.update(self.__dict__, _indices=self._indices[index])
            return part
        frame = self._frames[self._indices[index]]
        device = next(self._encoder.parameters()).device
        voxels = preprocess(frame.points, self._spec)
        counts = voxels.counts
        if counts.dropped_voxels:
            place = f"Calibration frame {frame.token!r}"
            settle([dropped_pillars(place, counts.dropped_voxels, counts.voxels)])
        with torch.inference_mode():
            if len(voxels) == 0:
                _logger.warning(
                    "Calibration frame %r has no point in the model's range; its canvas is empty.", frame.token
                )
                return CalibrationFrame(frame.token, torch.zeros(self._spec.canvas_shape, device=device))
            features = self._encoder(torch.from_numpy(voxels.features).to(device))
            canvas = scatter(features, torch.from_numpy(voxels.coords).to(device), self._spec)
        return CalibrationFrame(frame.token, canvas)


def calibration_batches(
    model_cfg: Any,
    split: str = "train",
    data_root: str | None = None,
    max_frames: int | None = None,
    *,
    model: nn.Module,
    info_file: str | None = None,
) -> CalibrationFrames:
    """Canvases of a split, evenly spaced over it: consecutive frames of one scene tell little that the first did not.

    Args:
        model_cfg: `mmengine.Config`; points take its test pipeline, without augmentation.
        split: "train"; "val" and "test" are possible and warned about.
        data_root: Folder of the dataset, in place of the config's.
        max_frames: At most so many; None: all.
        model: CenterPoint with loaded weights, float or quantized, whose voxel encoder is used; kept, not copied.
        info_file: Info file in place of the config's; relative to the dataset.

    Returns:
        A sequence of `CalibrationFrame`, each made when it is asked for. The same arguments give the same frames.

    Raises:
        ConfigError: the config has no such split.
        DataError: the dataset is missing, broken or empty, or `max_frames` is below 1.
    """
    from datasets.frames import open_frames

    if max_frames is not None and max_frames < 1:
        raise DataError(f"Zero calibration frames: max_frames is {max_frames}; give 1 or more (100 are usual).")
    if split != "train":
        _logger.warning(
            "Calibrating on split '%s', not on 'train': scales are then fitted to frames that accuracy is measured on, "
            "and that accuracy says less about unseen frames. Use it for experiments, not for a model that ships.",
            split,
        )
    frames = open_frames(model_cfg, split=split, data_root=data_root, info_file=info_file)
    wanted = len(frames) if max_frames is None else max_frames
    if wanted > len(frames):
        _logger.info("Calibrating on %d frames: there are no more, %d were asked for.", len(frames), wanted)
    return CalibrationFrames(frames, evenly_spaced(len(frames), wanted), model, ModelSpec.from_config(model_cfg))


def dataloader_batches(model: nn.Module, dataloader: Iterable[Any]) -> Iterator[CalibrationFrame]:
    """Canvases from an mmengine data loader, one frame at a time, through the model's own preprocessing and voxel
    encoder.

    Order, augmentation and chance are the data loader's: `calibration_batches` is the one that repeats itself.

    Args:
        model: mmdet3d's CenterPoint with pillars.
        dataloader: Yields `{'inputs': {'points': [...]}, 'data_samples': [...]}`.

    Raises:
        ConfigError: the model cannot make canvases.
        DataError: a batch is no batch of mmdet3d's.
    """
    import torch

    stock = cast(Any, model)
    for part in ("data_preprocessor", "pts_voxel_encoder", "pts_middle_encoder"):
        if getattr(stock, part, None) is None:
            raise ConfigError(
                f"{type(model).__name__} has no '{part}', so it makes no canvas from a data loader's batches."
            )
    count = 0
    for batch in dataloader:
        if not _is_mmdet3d_batch(batch):
            raise DataError(
                f"Batch {count} of the calibration data loader is a {type(batch).__name__} without "
                "['inputs']['points']; mmdet3d's data loaders yield {'inputs': {'points': …}, 'data_samples': …}. "
                "Canvases can be given as tensors or CalibrationFrame."
            )
        with torch.inference_mode():
            data = stock.data_preprocessor(batch, False)
            voxels = data["inputs"]["voxels"]
            features = stock.pts_voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])
            size = len(data["inputs"]["points"])
            canvases = stock.pts_middle_encoder(features, voxels["coors"], size)
        samples = data.get("data_samples") or [None] * size
        for index, sample in enumerate(samples):
            yield CalibrationFrame(_token(sample, count), canvases[index : index + 1])
            count += 1


def frames_of(model: nn.Module, batches: Iterable[Any], num_batches: int) -> tuple[Iterable[Any], int]:
    """Calibration frames from whatever holds them, and how many of them make `num_batches` batches.

    Nothing is read before the frames are asked for: whoever observes an encoder sees the first one too.

    Args:
        model: The network, which makes canvases of mmdet3d's batches (`dataloader_batches`).
        batches: A data loader of mmengine's or a list of its batches; canvases or `CalibrationFrame`s, each a batch of
            one; another iterable of any of these, in which the frames are counted.
        num_batches: Batches at most.
    """
    from torch.utils.data import DataLoader

    if isinstance(batches, DataLoader):
        return dataloader_batches(model, islice(batches, num_batches)), num_batches * (batches.batch_size or 1)
    if isinstance(batches, list | tuple) and batches and _is_mmdet3d_batch(batches[0]):
        size = len(batches[0]["inputs"]["points"])
        return dataloader_batches(model, batches[:num_batches]), num_batches * size
    if isinstance(batches, Sequence):
        return batches, num_batches
    return _each(model, batches), num_batches


def _each(model: nn.Module, batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        if _is_mmdet3d_batch(batch):
            yield from dataloader_batches(model, [batch])
        else:
            yield batch


def _is_mmdet3d_batch(batch: Any) -> bool:
    inputs = batch.get("inputs") if isinstance(batch, dict) else None
    return isinstance(inputs, dict) and "points" in inputs


def evenly_spaced(total: int, wanted: int) -> tuple[int, ...]:
    """`min(wanted, total)` ascending indices below `total`: the middles of equal parts."""
    wanted = min(wanted, total)
    return tuple((2 * part + 1) * total // (2 * wanted) for part in range(wanted))


def _token(sample: Any, index: int) -> str:
    meta = getattr(sample, "metainfo", {})
    for key in ("token", "sample_idx", "lidar_path"):
        if key in meta:
            return str(meta[key])
    return f"batch {index}"
