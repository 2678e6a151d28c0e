"""TensorRT from points to boxes: recorded engines between kernels that the CPU emulator runs."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from datasets.frames import Frame
from eval.verification import verify
from models.spec import ModelSpec
from runtime import open_detector
from runtime.cuda_engine.decode_parameters import DecodeModel, DecodeSizes
from runtime.decode import decode
from runtime.graphs.detector import GraphDetector
from runtime.pipeline import Pipeline
from runtime.preprocess import preprocess
from runtime.scatter import scatter
from tests.runtime.emulated_device import EmulatedDevice
from tests.runtime.recording_device import RecordingDevice
from tests.runtime.small_model import cloud
from tests.runtime.test_tensorrt_backend import Bench

CAPACITY = 4000
PILLARS = ["pillars_assign", "pillars_rank", "pillars_group", "pillars_encode"]
DETECTIONS = ["detect_collect", "detect_prune", "detect_finish"]
# One frame's work: what the graph holds.
FRAME = [
    "record", "cloud_take", "record", *PILLARS, "record", "execute", "record", *DETECTIONS, "download", "download",
    "record",
]  # fmt: skip


class PointsBench(Bench):
    """Engines whose encoder is that of the ONNX file, on the emulated device."""

    device: RecordingDevice

    def __init__(self, spec: ModelSpec, folder: Path, monkeypatch: pytest.MonkeyPatch, onnx_dir: Path) -> None:
        from runtime.pillar_weights import PillarWeights

        super().__init__(spec, folder, monkeypatch, RecordingDevice())
        self.encoder_onnx = onnx_dir / "pts_voxel_encoder.onnx"
        self.pillar_weights = PillarWeights.from_onnx(self.encoder_onnx)

    def encode(self, features: Any) -> Any:
        return (self.pillar_weights.apply(features)[:, None],)

    @property
    def backbone(self) -> Any:
        return self.engines["pts_backbone_neck_head"]

    def open_points(self, **options: Any) -> Any:
        given: dict[str, Any] = {"encoder_onnx": self.encoder_onnx, "capacity": CAPACITY} | options
        return open_detector(
            "tensorrt", spec=self.spec, device="cuda:0", engine_dir=self.folder, library="tensorrt", **given
        )

    def canvas(self) -> Any:
        """The memory that the backbone's engine reads."""
        (context,) = self.backbone.contexts
        return self.device.view(context.addresses["spatial_features"], self.spec.canvas_shape)

    def expected_canvas(self, points: Any) -> Any:
        frame = preprocess(points, self.spec)
        if not len(frame):
            return np.zeros(self.spec.canvas_shape, np.float32)
        return scatter(self.pillar_weights.apply(frame.features), frame.coords, self.spec)


@pytest.fixture
def bench(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnx_dir: Path) -> PointsBench:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return PointsBench(spec, tmp_path, monkeypatch, onnx_dir)


def check_frame(bench: PointsBench, detector: Any, points: Any) -> None:
    """One frame against numpy: canvas, counters and boxes."""
    result = detector(points)
    assert result.outputs is None
    canvas = bench.canvas()
    np.testing.assert_allclose(canvas, bench.expected_canvas(points), rtol=1e-5, atol=2e-6)
    outputs = dict(zip([head.name for head in bench.spec.heads], bench.detect(canvas), strict=True))
    wanted = decode(outputs, bench.spec) if result.counts.voxels else Boxes3D.empty()
    np.testing.assert_array_equal(result.detections.labels, wanted.labels)
    np.testing.assert_allclose(result.detections.boxes, wanted.boxes, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.detections.scores, wanted.scores, rtol=1e-6)
    frame = preprocess(points, bench.spec)
    assert result.counts.voxels == len(frame)
    assert result.counts == frame.counts


def broken_cloud() -> Any:
    """Points that are not finite, and some beyond the range."""
    points = cloud(3, 800)
    points[::7, 2] = np.nan
    points[::11, 0] = 1e6
    return points


def test_frames_are_those_of_numpy_and_nothing_is_left_of_the_frame_before(bench: PointsBench) -> None:
    with bench.open_points() as detector:
        assert isinstance(detector, GraphDetector)
        for points in (cloud(0, CAPACITY), np.zeros((0, 5), np.float32), cloud(1, 60), broken_cloud(), cloud(0, 3000)):
            check_frame(bench, detector, points)
    assert bench.device.closed


def test_one_graph_holds_a_frame_and_nothing_passes_through_the_host(bench: PointsBench) -> None:
    with bench.open_points() as detector:
        kinds = bench.device.kinds()
        # The engine runs once before it is captured, and each slot's frame is captured once.
        assert kinds[kinds.index("execute") + 1] == "synchronize"
        assert kinds.count("execute") == 1
        assert [kind for kind in kinds if "capture" in kind] == ["begin_capture", "end_capture"] * 2
        assert kinds.index("synchronize") < kinds.index("begin_capture")
        for seed, count in ((0, 3000), (1, 150)):
            bench.device.calls.clear()
            result = detector(cloud(seed, count))
            assert list(result.stages_ms) == ["h2d", "voxel_encoder", "backbone_neck_head", "decode"]
            # One call puts a frame on the stream, its cloud included.
            assert bench.device.kinds() == ["launch_graph", *FRAME, "record", "wait"]
            calls = bench.device.calls
            # The boxes' block and the counters come back.
            boxes = 16 + bench.spec.post_max_size * (9 + 2) * 4
            assert [call[2] for call in calls if call[0] == "download"] == [boxes, 5 * 4]
            assert [call[1:3] for call in calls if call[0] == "execute"] == [
                ("pts_backbone_neck_head", bench.spec.canvas_shape)
            ]


def test_addresses_are_bound_once_and_memory_is_allocated_when_opened(bench: PointsBench) -> None:
    with bench.open_points() as detector:
        (context,) = bench.backbone.contexts
        addresses = dict(context.addresses)
        bench.device.calls.clear()
        for seed in range(3):
            detector(cloud(seed, 1000))
        assert sorted(context.bindings) == sorted(["spatial_features", *(head.name for head in bench.spec.heads)])
        assert context.addresses == addresses
        assert len(bench.backbone.contexts) == 1
        assert not [kind for kind in bench.device.kinds() if kind.startswith("allocate")]


def test_an_engine_that_cannot_be_captured_is_enqueued_plainly(
    bench: PointsBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.backbone.synchronizes = True
    caplog.set_level(logging.WARNING)
    with bench.open_points() as detector:
        assert [kind for kind in bench.device.kinds() if "capture" in kind] == ["begin_capture", "abandon_capture"]
        for points in (cloud(0, 2000), cloud(1, 50)):
            check_frame(bench, detector, points)
        bench.device.calls.clear()
        detector(cloud(2, 500))
        engine = FRAME.index("execute")
        # The engine waits for the stream before it goes on.
        assert bench.device.kinds() == [*FRAME[:engine], "synchronize", *FRAME[engine:], "record", "wait"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "'small' runs without a CUDA graph" in message
    assert "pts_backbone_neck_head.engine: TensorRT refused to enqueue" in message


def test_what_lies_between_points_and_boxes_is_the_graphs_own(bench: PointsBench) -> None:
    with bench.open_points() as detector:
        for points in (cloud(4, 900), broken_cloud(), cloud(0, 0)):
            bench.device.calls.clear()
            seen = detector.inspect(points)
            # The same graph, once; then copies to the host alone.
            kinds = bench.device.kinds()
            assert kinds.count("launch_graph") == 1
            assert set(kinds[kinds.index("wait") + 1 :]) <= {"allocate_pinned", "download", "synchronize"}
            frame = preprocess(points, bench.spec)
            assert seen.inference.counts == seen.pillars.counts == frame.counts
            np.testing.assert_array_equal(seen.pillars.coords, frame.coords)
            if not len(frame):
                assert dict(seen.outputs) == {}
                continue
            np.testing.assert_allclose(
                seen.pillars.features[:, 0], bench.pillar_weights.apply(frame.features), rtol=1e-5, atol=2e-6
            )
            for head, values in zip(bench.spec.heads, bench.detect(bench.canvas()), strict=True):
                np.testing.assert_array_equal(seen.outputs[head.name], values)


def test_a_canvas_that_was_lent_is_handed_back_clear(bench: PointsBench) -> None:
    with bench.open_points() as detector:
        check_frame(bench, detector, cloud(1, 900))
        noise = np.random.default_rng(0).normal(size=bench.spec.canvas_shape).astype(np.float32)
        outputs = detector.outputs_of(noise)
        for head, values in zip(bench.spec.heads, bench.detect(noise), strict=True):
            np.testing.assert_array_equal(outputs[head.name], values)
        assert not bench.canvas().any()
        bench.device.calls.clear()
        check_frame(bench, detector, cloud(5, 300))
        # The pillar kernels clear what they wrote themselves: a frame costs no clearing of the whole canvas.
        assert "zero" not in bench.device.kinds()


def test_the_graph_and_the_pipeline_of_the_same_engines_agree(bench: PointsBench) -> None:
    """Two detectors, each with a canvas of its own: whatever one does, the other's frames are right."""
    with bench.open_points() as from_points, Pipeline(bench.spec, bench.open()) as from_pillars:
        for seed in range(3):
            points = cloud(seed, 900)
            wanted, found = from_pillars(points), from_points(points)
            assert list(wanted.outputs or ()) == [head.name for head in bench.spec.heads]
            assert found.counts == wanted.counts
            # Where the float32 sums of both encoders differ in the last place.
            np.testing.assert_allclose(found.detections.scores, wanted.detections.scores, rtol=1e-4)


@pytest.mark.parametrize("radius", [1, 2])
def test_verification_judges_both_ends_around_the_engine(
    bench: PointsBench, monkeypatch: pytest.MonkeyPatch, radius: int
) -> None:
    """The pipeline of the same engines is the reference; kernels with another suppression radius are found out."""
    right = DecodeModel.from_spec

    def with_radius(spec: ModelSpec, sizes: DecodeSizes, index: int = 0) -> DecodeModel:
        model = right(spec, sizes, index)
        return dataclasses.replace(model, min_radius=radius**2 * model.min_radius)

    monkeypatch.setattr(DecodeModel, "from_spec", with_radius)
    frames = [Frame(f"frame-{seed}", "", 0.0, cloud(seed, 900), Boxes3D.empty()) for seed in range(2)]
    with bench.open_points() as graph, Pipeline(bench.spec, bench.open()) as pipeline:
        result = verify(pipeline, graph, frames, num_frames=2, precision="fp16", show_progress=False)
    assert all(item.passed for item in result.outputs)
    assert result.passed == (radius == 1), result.reasons
    if radius == 2:
        assert result.reasons[0].startswith("frame 'frame-0': ")
        assert "missing: " in result.reasons[0]


def test_clouds_that_do_not_fit_are_refused(bench: PointsBench) -> None:
    with bench.open_points() as detector:
        bench.device.calls.clear()
        with pytest.raises(DataError, match=r"4001 points, but at most 4000 are taken .*Give --max-points=4001"):
            detector(cloud(0, CAPACITY + 1))
        with pytest.raises(DataError, match=r"\(10, 4\); model 'small' needs float32 \(N, 5\)"):
            detector(cloud(0, 10, columns=4))
        with pytest.raises(DataError, match=r"Point cloud is float64"):
            detector(cloud(0, 10).astype(np.float64))
        assert bench.device.calls == []
    with pytest.raises(RuntimeError, match="was closed"):
        detector(cloud(0, 10))


def test_without_the_encoders_file_it_starts_from_pillars(bench: PointsBench, tmp_path: Path) -> None:
    with bench.open_points(encoder_onnx=None) as detector:
        assert isinstance(detector, Pipeline)
        assert detector(cloud(0, 500)).outputs
        assert not set(bench.device.kinds()) & {*PILLARS, *DETECTIONS, "begin_capture"}
    with pytest.raises(ConfigError, match=r"encoder's ONNX file is missing: .*none.onnx. Export it with --mode=onnx"):
        bench.open_points(encoder_onnx=tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"encoder_onnx": "pts_backbone_neck_head.onnx"}, "has no product with weights"),
        ({"capacity": 1 << 25}, "points: 33554432; this engine's kernels take 1 to 16777216"),
    ],
)
def test_a_model_that_the_kernels_do_not_take_starts_from_pillars(
    bench: PointsBench, onnx_dir: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any], reason: str
) -> None:
    if "encoder_onnx" in options:
        options = {"encoder_onnx": onnx_dir / options["encoder_onnx"]}
    caplog.set_level(logging.WARNING)
    with bench.open_points(**options) as detector:
        assert isinstance(detector, Pipeline)
        assert detector(cloud(0, 500)).outputs
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Backend 'tensorrt' starts from pillars, not from points: ")
    assert reason in message
