"""Frames for the analysis: the canvas that the network runs on, and the boxes that it should find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from base.boxes import Boxes3D
from base.errors import ConfigError
from quant.calibration.batches import CalibrationFrames, evenly_spaced

if TYPE_CHECKING:
    from torch import Tensor, nn

    from datasets.frames import Frame, FrameSource

__all__ = ["SensitivityFrame", "SensitivityFrames", "open_sensitivity_frames"]


@dataclass(frozen=True, eq=False)
class SensitivityFrame:
    """One frame.

    Attributes:
        token: Unique name.
        scene: Scene it belongs to; the bootstrap draws whole scenes.
        canvas: (1, C, H, W) float32, scattered pillar features, on the model's device.
        ground_truth: Annotated boxes.
    """

    token: str
    scene: str
    canvas: Tensor
    ground_truth: Boxes3D


class _Remembered:
    """A source of frames that keeps the last one, so that canvas and boxes come from one reading."""

    def __init__(self, source: FrameSource) -> None:
        self.source = source
        self.last: Frame | None = None

    def __getitem__(self, index: int) -> Frame:
        self.last = self.source[index]
        return self.last


class SensitivityFrames(Sequence[SensitivityFrame]):
    """Frames of a split, made when they are asked for."""

    def __init__(self, source: FrameSource, indices: Sequence[int], model: nn.Module, spec: Any) -> None:
        self._frames = _Remembered(source)
        self._canvases = CalibrationFrames(self._frames, indices, model, spec)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._canvases)

    def __getitem__(self, index: Any) -> Any:
        """The frame at `index`.

        Raises:
            DataError: its files are missing or broken.
        """
        canvas = self._canvases[index].canvas
        frame = self._frames.last
        assert frame is not None
        return SensitivityFrame(frame.token, frame.scene, canvas, frame.ground_truth)


def open_sensitivity_frames(
    model_cfg: Any,
    model: nn.Module,
    num_frames: int = -1,
    *,
    split: str = "val",
    data_root: str | None = None,
    info_file: str | None = None,
) -> SensitivityFrames:
    """Opens frames of a split, with the pillars encoded by the model's own voxel encoder.

    Args:
        model_cfg: Of the dataset and the model.
        model: The detector.
        num_frames: How many, evenly spaced so that they come from as many scenes as possible; -1 takes all.
        split: "val", "train" or "test".
        data_root: Folder of the dataset, in place of the config's.
        info_file: Info file in place of the config's; relative to the dataset.

    Raises:
        ConfigError: a number of frames that is not positive, or more than there are.
    """
    from datasets.frames import open_frames
    from models.spec import ModelSpec

    source = open_frames(model_cfg, split, data_root, info_file)
    count = len(source) if num_frames == -1 else num_frames
    if not 0 < count <= len(source):
        raise ConfigError(f"--frames is {num_frames}, but split '{split}' has {len(source)}; -1 takes all.")
    return SensitivityFrames(source, evenly_spaced(len(source), count), model, ModelSpec.from_config(model_cfg))
