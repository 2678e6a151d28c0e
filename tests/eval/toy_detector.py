"""A small detector of numpy alone that obeys the pipeline's interface, and frames for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from models.spec import PILLAR_FEATURES, HeadSpec, ModelSpec, TaskSpec
from runtime.counts import BoxCounts, VoxelCounts
from runtime.decode import Decoded
from runtime.decoders import TRAINING, Decoder
from runtime.detector import Inference, InspectableDetector, Inspection, Pillars
from runtime.preprocess import preprocess

CLASSES = ("car", "bus")


@dataclasses.dataclass(frozen=True, eq=False)
class FakeFrame:
    token: str
    points: NDArray[Any]
    ground_truth: Boxes3D


def make_spec() -> ModelSpec:
    return ModelSpec(
        name="toy",
        point_cloud_range=(-40.0, -40.0, -3.0, 40.0, 40.0, 5.0),
        voxel_size=(2.0, 2.0, 8.0),
        max_points_per_voxel=4,
        max_voxels=500,
        point_columns=("x", "y", "z", "intensity", "time_lag"),
        voxel_center_dims=3,
        encoder_channels=4,
        out_size_factor=1,
        tasks=(TaskSpec(CLASSES, (HeadSpec("heatmap", 2), HeadSpec("reg", 2)), nms_min_radius_m2=0.5),),
        norm_bbox=True,
        score_threshold=0.1,
        max_detections_before_nms=100,
        post_center_range=(-50.0, -50.0, -5.0, 50.0, 50.0, 5.0),
        nms_type="circle",
        post_max_size=80,
    )


class FakePipeline(InspectableDetector):
    """Detects the boxes of `truth` shifted by `shift_m`; outputs follow from the points, plus `noise`.

    Its boxes are those that its decoder makes of its outputs, unless `suppressed` drops them on the way.
    """

    def __init__(
        self, name: str, noise: dict[str, float] | None = None, shift_m: float = 0.0, *, suppressed: bool = False
    ) -> None:
        decoder = Decoder(TRAINING, lambda outputs, spec: Decoded(self.found, BoxCounts()))
        super().__init__(make_spec(), name, "cpu", decoder)
        self.noise = noise or {}
        self.shift_m = shift_m
        self.suppressed = suppressed
        self.calls = 0
        self.found = Boxes3D.empty()

    def tensor(self, name: str, seed: int, shape: tuple[int, ...]) -> NDArray[Any]:
        values = np.random.default_rng(seed + len(name)).normal(size=shape)
        values += self.noise.get(name, 0.0) * np.random.default_rng(99).normal(size=shape)
        return values.astype(np.float32)

    def encode(self, points: NDArray[Any]) -> Pillars:
        frame = preprocess(points, self.spec)
        features = self.tensor(PILLAR_FEATURES, len(frame), (len(frame), 1, 4))
        return Pillars(features, frame.coords, frame.counts)

    def inspect(self, points: NDArray[Any]) -> Inspection:
        inference = self.detect(points)
        assert inference.outputs is not None
        return Inspection(inference, self.encode(points), inference.outputs)

    def outputs_of(self, canvas: NDArray[Any]) -> dict[str, NDArray[Any]]:
        seed = abs(int(1000 * canvas.sum()))
        return {head.name: self.tensor(head.name, seed, (1, head.channels, 40, 40)) for head in self.spec.heads}

    def detect(self, points: NDArray[Any]) -> Inference:
        self.calls += 1
        if not len(points):
            return Inference(Boxes3D.empty(), {}, {"preprocess": 1.0, "decode": 1.0}, 2.0, VoxelCounts())
        outputs = {
            head.name: self.tensor(head.name, len(points), (1, head.channels, 40, 40)) for head in self.spec.heads
        }
        # The first point of a cloud carries the place of its one object.
        box = np.array([[points[0, 0] + self.shift_m, points[0, 1], 0, 4, 2, 1.5, 0.3, 1, 0]])
        self.found = Boxes3D(box.astype(np.float32), np.array([0.8], np.float32), np.array([0]))
        found = Boxes3D.empty() if self.suppressed else self.found
        stages = {"preprocess": 1.0, "voxel_encoder": 2.0, "decode": float(self.calls)}
        return Inference(found, outputs, stages, 3.0 + self.calls, VoxelCounts(7, self.calls % 2, 3, 2, 1))


def make_frames(count: int = 4) -> list[FakeFrame]:
    frames = []
    for index in range(count):
        rng = np.random.default_rng(index)
        points = rng.uniform(-30, 30, (50 + index, 5)).astype(np.float32)
        points[:, 2] = 0.0
        box = np.array([[points[0, 0], points[0, 1], 0, 4, 2, 1.5, 0.3, 1, 0]])
        frames.append(
            FakeFrame(
                f"frame-{index}",
                points,
                Boxes3D(box.astype(np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), np.array([9])),
            )
        )
    return frames


class Toy:
    """Makers of the toy detector and its frames."""

    pipeline = FakePipeline
    frame = FakeFrame
    frames = staticmethod(make_frames)
    spec = staticmethod(make_spec)


def changed(found: Inference, **changes: Any) -> Inference:
    """The same result but for some of its fields."""
    fields = ("detections", "outputs", "stages_ms", "total_ms", "counts", "dropped")
    return Inference(**({name: getattr(found, name) for name in fields} | changes))
