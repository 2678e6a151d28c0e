"""The detector `cuda` whole, on the CPU: both ends by the emulator, convolutions by the model of their kernels."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.cuda_engine.from_onnx
from base.boxes import Boxes3D
from base.errors import BackendUnavailable, ConfigError, DataError
from datasets.frames import Frame
from eval.box_comparison import BoxTolerance
from eval.verification import VerificationResult, verify
from models.spec import PILLAR_FEATURES, VOXEL_ENCODER, ModelSpec
from runtime import open_backend, open_detector
from runtime.backends.base import Backend, BackendOutput
from runtime.counts import BoxCounts
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.activity import TileActivity
from runtime.cuda_engine.checks.cases import clumped_cloud, engine_spec, random_weights
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.checks.reference import run_plan
from runtime.cuda_engine.decode_parameters import DecodeModel, DecodeSizes
from runtime.cuda_engine.plan import NetworkPlan
from runtime.decode import Decoded, decode
from runtime.decoders import Decoder
from runtime.detector import InspectableDetector
from runtime.pillar_weights import PillarWeights
from runtime.pipeline import Pipeline
from runtime.preprocess import preprocess
from runtime.scatter import scatter
from tests.runtime.engine_device import EngineDevice

CAPACITY = 3000
CELLS = 32
# Random weights make a peak of every cell: one rounding more, and another of two near ones stays.
LOOSE = BoxTolerance(min_matched_share=0.5)


class PlanBackend(Backend):
    """The plan's exact arithmetic, from pillars: the reference."""

    name = "onnx"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.spec, "cpu")
        self.bench = bench

    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        (values,) = inputs.values()
        if component == VOXEL_ENCODER:
            return {PILLAR_FEATURES: self.bench.weights.apply(values)[:, None, :]}
        return run_plan(self.bench.plan, values[0])

    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        pillars = self.bench.weights.apply(features)
        return BackendOutput(run_plan(self.bench.plan, scatter(pillars, coords, self.spec)[0]), {})


class Bench:
    """A model, its engine's files, and the device that the detector will open."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, map_type: Literal["int8", "float16"]) -> None:
        # Heights of the random heads lie within ±2 m or so: the range filter has something to drop.
        limits = (-10.0, -10.0, -1.0, 10.0, 10.0, 1.0)
        self.spec: ModelSpec = engine_spec(CELLS, max_voxels=300, max_points_per_voxel=8, post_center_range=limits)
        network = Architecture(
            (CELLS, CELLS), channels=(32, 32), depths=(0, 0), strides=(1, 2), neck_channels=32, upsamples=(1, 2),
            shared_channels=32,
        )  # fmt: skip
        self.map_type = map_type
        self.plan: NetworkPlan = random_plan(network, map_type)
        self.weights = random_weights(self.spec, 16)
        self.device = EngineDevice()
        self.folder = folder
        monkeypatch.setattr(CudaDevice, "open", lambda index=0: self.device)
        monkeypatch.setattr(runtime.cuda_engine.from_onnx, "plan_from_onnx", lambda path, spec: self.plan)
        monkeypatch.setattr(PillarWeights, "from_onnx", lambda path: self.weights)
        for component in self.spec.components:
            (folder / f"{component.name}.onnx").touch()

    def open(self, **options: Any) -> InspectableDetector:
        given: dict[str, Any] = {
            "spec": self.spec,
            "onnx_dir": self.folder,
            "device": "cuda:0",
            "capacity": CAPACITY,
        } | options
        return open_detector("cuda", **given)

    def expected(self, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """The canvas, and the outputs of the plan's exact arithmetic on it."""
        frame = preprocess(points, self.spec)
        canvas = scatter(self.weights.apply(frame.features), frame.coords, self.spec)
        return canvas, run_plan(self.plan, canvas[0])

    def frames(self) -> list[Frame]:
        clouds = [clumped_cloud(self.spec, 900, seed) for seed in range(2)]
        return [Frame(f"frame-{i}", "", 0.0, cloud, Boxes3D.empty()) for i, cloud in enumerate(clouds)]

    def verify(self) -> VerificationResult:
        """The detector that ships against the plan's arithmetic, as a deployment does it."""
        is_int8 = self.map_type == "int8"
        with Pipeline(self.spec, PlanBackend(self)) as reference, self.open() as detector:
            return verify(
                reference,
                detector,
                self.frames(),
                num_frames=2,
                precision="int8" if is_int8 else "fp16",
                equal_inputs=is_int8,
                box_tolerance=LOOSE,
                show_progress=False,
            )


@pytest.fixture(params=["int8", "float16"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    if EngineDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return Bench(tmp_path, monkeypatch, request.param)


def check_outputs(found: Mapping[str, NDArray[np.float32]], wanted: Mapping[str, NDArray[np.float32]]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        # float16 rounds a layer's result to 11 bits; codes differ where a sum lies on the border of two.
        np.testing.assert_allclose(found[name], values, rtol=2e-2, atol=2e-2, err_msg=name)
        assert np.abs(found[name] - values).mean() < 2e-3


def test_points_to_boxes_and_outputs_are_those_of_the_plan(bench: Bench) -> None:
    with bench.open() as detector:
        assert (detector.name, detector.device) == ("cuda", "cuda:0")
        for seed, count in enumerate((900, 0, 1, CAPACITY)):
            points = clumped_cloud(bench.spec, count, seed) if count else np.zeros((0, 5), np.float32)
            found = detector(points)
            assert found.outputs is None
            assert list(found.stages_ms) == ["h2d", "voxel_encoder", "backbone_neck_head", "decode"]
            frame = preprocess(points, bench.spec)
            assert found.counts == frame.counts
            seen = detector.inspect(points)
            np.testing.assert_array_equal(seen.inference.detections.boxes, found.detections.boxes)
            np.testing.assert_array_equal(seen.pillars.coords, frame.coords)
            assert seen.pillars.coords.dtype == frame.coords.dtype
            if not count:
                assert (len(found.detections), dict(seen.outputs), len(seen.pillars.features)) == (0, {}, 0)
                continue
            features = bench.weights.apply(frame.features)
            np.testing.assert_allclose(seen.pillars.features[:, 0], features, rtol=1e-5, atol=1e-5)
            check_outputs(seen.outputs, bench.expected(points)[1])
            boxes = decode(seen.outputs, bench.spec)
            assert len(boxes) == len(found.detections) > 0
            np.testing.assert_array_equal(found.detections.labels, boxes.labels)
            np.testing.assert_allclose(found.detections.boxes, boxes.boxes, rtol=1e-6, atol=1e-6)


def test_what_lies_between_points_and_boxes(bench: Bench) -> None:
    points = clumped_cloud(bench.spec, 700, 8)
    frame = preprocess(points, bench.spec)
    canvas, outputs = bench.expected(points)
    with bench.open() as detector:
        before = detector(points).detections
        pillars = detector.encode(points)
        assert pillars.counts == frame.counts
        np.testing.assert_allclose(pillars.features[:, 0], bench.weights.apply(frame.features), rtol=1e-5, atol=1e-5)
        check_outputs(detector.outputs_of(canvas), outputs)
        # A canvas that was lent is handed back clear: nothing of it is in the next cloud's frame.
        check_outputs(detector.outputs_of(np.ones_like(canvas)), run_plan(bench.plan, np.ones_like(canvas)[0]))
        np.testing.assert_array_equal(detector(points).detections.boxes, before.boxes)
        check_outputs(detector.inspect(points).outputs, outputs)
        with pytest.raises(DataError, match=r"'spatial_features' .* must be \(1, 32, 32, 32\) float32"):
            detector.outputs_of(canvas[:, :16])


def test_another_decoder_makes_its_boxes_of_the_same_graphs_outputs(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    points = clumped_cloud(bench.spec, 700, 3)
    seen: list[Any] = []

    def keep(outputs: Any, spec: ModelSpec) -> Decoded:
        seen.append({name: value.copy() for name, value in outputs.items()})
        return Decoded(Boxes3D.empty(), BoxCounts(without_size=3))

    with bench.open(decoder=Decoder("autoware", keep)) as detector:
        found = detector(points)
        assert list(found.stages_ms) == ["h2d", "voxel_encoder", "backbone_neck_head", "d2h", "decode"]
        assert len(found.detections) == 0
        assert found.dropped == BoxCounts(without_size=3)
        assert found.outputs is not None
        check_outputs(seen[0], bench.expected(points)[1])
        assert detector(points[:0]).outputs == {}
        detector(points)
    assert caplog.text.count("3 candidate boxes of a frame have a length, width or height of 0 or less") == 1


def test_verification_judges_the_graph_that_ships(bench: Bench) -> None:
    result = bench.verify()
    assert result.passed, result.reasons
    assert result.boxes is not None
    assert result.boxes.matched > 20
    # Each frame was one launch of the graph; its outputs were read afterwards.
    assert bench.device.kinds().count("launch_graph") == 2


@pytest.mark.parametrize(
    "broken",
    [
        # Twice the radius: the kernel compares squares.
        lambda model: {"min_radius": 4 * model.min_radius},
        lambda model: {"range_z0": np.float32(-9), "range_z1": np.float32(9)},
        lambda model: {"max_boxes": 10},
        lambda model: {"stride": np.float32(1.01) * model.stride},
    ],
    ids=["suppression", "range filter", "most boxes", "cell to metres"],
)
def test_a_broken_end_of_the_device_fails_verification(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, broken: Callable[[DecodeModel], dict[str, Any]]
) -> None:
    """The raw outputs agree, and half of the boxes may differ by the tolerance: still it fails, and says where."""
    right = DecodeModel.from_spec

    def wrong(spec: ModelSpec, sizes: DecodeSizes, index: int = 0) -> DecodeModel:
        model = right(spec, sizes, index)
        return dataclasses.replace(model, **broken(model))

    monkeypatch.setattr(DecodeModel, "from_spec", wrong)
    result = bench.verify()
    assert all(item.passed for item in result.outputs)
    assert not result.passed
    assert re.match(
        r"frame 'frame-0': \d+ boxes, the host decodes \d+ of the same outputs; .* at \(", result.reasons[0]
    )
    assert any(f"{name} at (" in result.reasons[0] for name in bench.spec.class_names)


def test_the_gpu_machines_command_finds_twice_the_radius(bench: Bench) -> None:
    """What `python -m benchmarks.deployed_detector` does on a GPU."""
    from benchmarks.deployed_detector import judge

    precision = "int8" if bench.map_type == "int8" else "fp16"
    with Pipeline(bench.spec, PlanBackend(bench)) as reference:
        found = judge(
            reference,
            lambda spec: bench.open(spec=spec),
            bench.frames(),
            num_frames=2,
            precision=precision,
            box_tolerance=LOOSE,
            show_progress=False,
        )
    assert found.is_right
    assert (found.shipped_passed, found.broken_passed) == (True, False)
    assert found.reasons[0] == ()
    assert found.reasons[1][0].startswith("frame 'frame-0': ")
    assert "missing: " in found.reasons[1][0]


def test_the_gpu_machines_command_sees_a_frame_that_skipping_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `python -m benchmarks.skipping_boxes` does on a GPU."""
    from benchmarks.skipping_boxes import SkippingBoxes, compare

    precision = "int8" if bench.map_type == "int8" else "fp16"

    def found() -> SkippingBoxes:
        return compare(lambda skips: bench.open(skips_empty=skips), bench.frames(), num_frames=2, precision=precision)

    right = found()
    assert right.equal
    assert right.frames == 2
    assert right.boxes > 0
    # Tiles of the layers know of no pillar: nothing but background is left.
    monkeypatch.setattr(TileActivity, "enqueue_marks", lambda *_: None)
    wrong = found()
    assert not wrong.equal
    assert wrong.differing == (0, 1)


def test_one_graph_a_frame(bench: Bench) -> None:
    with bench.open() as detector:
        bench.device.calls.clear()
        detector(clumped_cloud(bench.spec, 500, 1))
        kinds = bench.device.kinds()
    layers = len(bench.plan.convs)
    assert kinds.count("launch_graph") == 1
    assert kinds.count("conv") == layers
    # The graph takes the cloud from the host by itself.
    assert [kind for kind in kinds if kind in ("upload", "download", "allocate", "synchronize")] == ["download"] * 2
    assert kinds[0] == "launch_graph"


def test_what_it_cannot_run_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="runs on a GPU: its device is 'cpu'"):
        bench.open(device="cpu")
    with pytest.raises(ConfigError, match="Backend 'cuda' needs onnx_dir="):
        bench.open(onnx_dir=None)
    with pytest.raises(ConfigError, match=r"Unknown backend 'cuda'\. Choose one of: pytorch, onnx, openvino, tensorrt"):
        open_backend("cuda", spec=bench.spec, device="cuda:0", onnx_dir=bench.folder)
    monkeypatch.setattr(EngineDevice, "compute_capability", (8, 6))
    with pytest.raises(BackendUnavailable, match=r"compute capability 9\.0.*Emulated GPU with 8\.6\. Use the tensorrt"):
        bench.open()
    assert bench.device.closed
    (bench.folder / f"{VOXEL_ENCODER}.onnx").unlink()
    with pytest.raises(ConfigError, match=r"component 'pts_voxel_encoder' is missing: .*--mode=onnx"):
        bench.open()


def test_clouds_that_do_not_fit(bench: Bench) -> None:
    with bench.open() as detector:
        with pytest.raises(DataError, match=r"has 3001 points, but at most 3000 are taken"):
            detector(np.zeros((CAPACITY + 1, 5), np.float32))
        with pytest.raises(DataError, match=r"float32 of shape \(5, 4\); model 'check32' needs float32 \(N, 5\)"):
            detector(np.zeros((5, 4), np.float32))
    assert bench.device.closed
    with pytest.raises(RuntimeError, match="Detector 'cuda' was closed; open a new one"):
        detector(np.zeros((5, 5), np.float32))
