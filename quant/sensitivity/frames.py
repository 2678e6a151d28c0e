"""Frames for the analysis: the canvas that the network runs on, and the boxes that it should find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.spec import ModelSpec

__all__ = ["SensitivityFrame", "SensitivityFrames", "open_sensitivity_frames"]


@dataclass(frozen=True, eq=False)
class SensitivityFrame:
    """One frame.

    Attributes:
        token: Unique name.
        scene: Scene it belongs to; the bootstrap draws whole scenes.
        canvas: (1, C, H, W) float32, scattered pillar features.
        ground_truth: Annotated boxes.
    """

    token: str
    scene: str
    canvas: Tensor
    ground_truth: Boxes3D


class SensitivityFrames:
    """Frames of a split, evenly spaced over it, made when they are asked for."""

    def __init__(self, source: Any, indices: tuple[int, ...], encoder: nn.Module, spec: ModelSpec, device: str) -> None:
        self._source = source
        self._indices = indices
        self._encoder = encoder
        self._spec = spec
        self._device = device

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[SensitivityFrame]:
        import torch

        from runtime.preprocess import preprocess
        from runtime.scatter import scatter

        for index in self._indices:
            frame = self._source[index]
            voxels = preprocess(frame.points, self._spec)
            if not len(voxels):
                raise DataError(f"Frame '{frame.token}' has no point in the model's range; leave it out.")
            with torch.inference_mode():
                features = torch.from_numpy(voxels.features).to(self._device)
                coords = torch.from_numpy(voxels.coords).to(self._device)
                canvas = scatter(self._encoder(features), coords, self._spec)
            yield SensitivityFrame(frame.token, frame.scene, canvas, frame.ground_truth)


def open_sensitivity_frames(
    model_cfg: Any,
    model: nn.Module,
    num_frames: int = -1,
    *,
    split: str = "val",
    data_root: str | None = None,
    device: str = "cpu",
) -> SensitivityFrames:
    """Opens frames of a split, with the pillars encoded by the model's own voxel encoder.

    Args:
        model_cfg: Of the dataset and the model.
        model: The detector; its voxel encoder stays in floating point.
        num_frames: How many, evenly spaced so that they come from as many scenes as possible; -1 takes all.
        split: "val", "train" or "test".
        data_root: Folder of the dataset, in place of the config's.
        device: Where the model lies.

    Raises:
        ConfigError: a number of frames that is not positive, or more than there are.
    """
    from datasets.frames import open_frames
    from models.components import VoxelEncoder
    from models.spec import ModelSpec

    source = open_frames(model_cfg, split, data_root)
    available = len(source)
    count = available if num_frames == -1 else num_frames
    if not 0 < count <= available:
        raise ConfigError(f"--frames is {num_frames}, but the '{split}' split has {available}; -1 takes all.")
    indices = tuple(index * available // count for index in range(count))
    return SensitivityFrames(source, indices, VoxelEncoder(model).eval(), ModelSpec.from_config(model_cfg), device)
