"""Points to boxes: the detector `cuda`, and mmdet3d's own predict on the same cloud."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.lazy import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from models.spec import ModelSpec
    from runtime.detector import Detector

__all__ = ["Mmdet3dPredict", "OurFrame", "points_to_boxes"]


@dataclass(eq=False)
class OurFrame:
    """A detector from points on the host to boxes on the host.

    Attributes:
        detector: Open; `close` it through this.
    """

    detector: Detector

    def stages_ms(self, points: NDArray[np.float32], repeats: int = 20) -> dict[str, float]:
        """Median milliseconds of each stage that the backend tells apart; "total" last."""
        found: dict[str, list[float]] = {}
        for _ in range(repeats):
            inference = self.detector(points)
            for name, value in (*inference.stages_ms.items(), ("total", inference.total_ms)):
                found.setdefault(name, []).append(value)
        return {name: statistics.median(values) for name, values in found.items()}


def points_to_boxes(spec: ModelSpec, onnx_dir: Path, device: str) -> OurFrame:
    """Opens the detector.

    Args:
        spec: The model.
        onnx_dir: Folder of both ONNX files, in one precision.
        device: "cuda:N".

    Raises:
        BackendUnavailable: it does not run on this machine.
        UserError: it does not take the model or the files.
    """
    from deploy.detectors import DetectorFiles, open_checked_detector

    detector, _ = open_checked_detector("cuda", DetectorFiles(onnx_dir=onnx_dir), spec=spec, device=device)
    return OurFrame(detector)


class Mmdet3dPredict:
    """`model.test_step`, whose data preprocessor brings the points to the device and voxelizes them there."""

    def __init__(self, model: nn.Module, *, autocast: bool = False) -> None:
        """Args:
        model: From `models.build.build_model`, on the device that it is to run on.
        autocast: Run in float16 where torch's autocast sees fit, as mmengine does for models trained with AMP.
        """
        self._torch = require("torch", "to run mmdet3d's predict")
        structures = require("mmdet3d.structures", "to run mmdet3d's predict")
        self._model: Any = model.eval()
        self._device = next(model.parameters()).device
        self._autocast = autocast
        self._sample: Callable[[], Any] = lambda: structures.Det3DDataSample(
            metainfo={"box_type_3d": structures.LiDARInstance3DBoxes, "box_mode_3d": structures.Box3DMode.LIDAR}
        )

    def __call__(self, points: NDArray[np.float32]) -> Any:
        """(N, C) float32 points on the host to `InstanceData` with boxes, scores and labels on the host."""
        with self._torch.inference_mode(), self._precision():
            (result,) = self._model.test_step(self._data(points))
        return result.pred_instances_3d.to("cpu")

    def stages_ms(self, points: NDArray[np.float32], repeats: int = 10) -> dict[str, float]:
        """Median milliseconds of the data preprocessor (copy, voxelization) and of the rest; "total" last."""
        taken: list[tuple[float, float]] = []
        for _ in range(repeats):
            begin = time.perf_counter()
            with self._torch.inference_mode(), self._precision():
                data = self._model.data_preprocessor(self._data(points), False)
                self._wait()
                middle = time.perf_counter()
                (result,) = self._model.predict(data["inputs"], data["data_samples"])
            result.pred_instances_3d.to("cpu")
            self._wait()
            taken.append(((middle - begin) * 1e3, (time.perf_counter() - middle) * 1e3))
        first, second = (statistics.median(values) for values in zip(*taken, strict=True))
        total = statistics.median(sum(pair) for pair in taken)
        return {"data_preprocessor": first, "predict": second, "total": total}

    def _data(self, points: NDArray[np.float32]) -> dict[str, Any]:
        return {"inputs": {"points": [self._torch.from_numpy(points)]}, "data_samples": [self._sample()]}

    def _precision(self) -> Any:
        return self._torch.autocast(self._device.type, self._torch.float16, enabled=self._autocast)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)
