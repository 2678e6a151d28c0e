"""The `cuda` backend whole, on the CPU: both ends by the emulator, convolutions by the model of their kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.cuda_engine.from_onnx
from base.errors import BackendUnavailable, ConfigError, DataError
from models.spec import BACKBONE_NECK_HEAD, INPUT_FEATURES, PILLAR_FEATURES, SPATIAL_FEATURES, VOXEL_ENCODER, ModelSpec
from runtime.backends import open_backend
from runtime.backends.base import Backend
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.checks.cases import clumped_cloud, engine_spec, random_weights
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.checks.reference import run_plan
from runtime.cuda_engine.pillar_weights import PillarWeights
from runtime.cuda_engine.plan import NetworkPlan
from runtime.decode import decode
from runtime.pipeline import Pipeline
from runtime.preprocess import preprocess
from runtime.scatter import scatter
from tests.runtime.kernel_model import run_kernel, tiling_of
from tests.runtime.recording_device import RecordingDevice

CAPACITY = 3000
CELLS = 24


class EngineDevice(RecordingDevice):
    """Runs the tensor cores' kernels by their model in numpy, all others by the emulator."""

    compute_capability = (9, 0)

    def bytes_from(self, address: int) -> NDArray[np.uint8]:
        for block in self._memory:
            start = address - block.ctypes.data
            if 0 <= start < len(block):
                return block[start:-64]
        raise AssertionError(f"{address:#x} is no device memory")

    def compile_image(self, source: str, title: str, **_: Any) -> bytes:
        return source.encode()

    def load(self, image: bytes, functions: Any) -> dict[str, Any]:
        return {function: (function, tiling_of(image.decode())) for function in functions}

    def compile(self, source: str, function: str, **_: Any) -> Any:
        return self.compile_all(source, [function])[function]

    def upload_new(self, source: NDArray[Any]) -> int:
        address = self.allocate(source.nbytes)
        self.bytes_from(address)[: source.nbytes] = np.frombuffer(source.tobytes(), np.uint8)
        return address

    def allow_shared(self, kernel: Any, num_bytes: int) -> None:
        assert num_bytes <= 227 * 1024

    def launch(self, kernel: Any, grid: Any, threads: int, arguments: Any, stream: int, **options: Any) -> None:
        name, work = kernel
        if name not in ("conv", "heads"):
            super().launch(kernel, grid, threads, arguments, stream, **options)
            return
        (values,) = arguments
        self.put(("launch", name, stream), lambda: run_kernel(self, work, grid, values))


class Bench:
    """A model, its engine's files, and the device that the backend will open."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, map_type: Literal["int8", "float16"]) -> None:
        self.spec: ModelSpec = engine_spec(CELLS, max_voxels=300, max_points_per_voxel=8)
        network = Architecture(
            (CELLS, CELLS), channels=(32, 32), depths=(0, 0), strides=(1, 2), neck_channels=32, upsamples=(1, 2),
            shared_channels=32,
        )  # fmt: skip
        self.plan: NetworkPlan = random_plan(network, map_type)
        self.weights = random_weights(self.spec, 16)
        self.device = EngineDevice(folder)
        self.folder = folder
        monkeypatch.setattr(CudaDevice, "open", lambda index=0: self.device)
        monkeypatch.setattr(runtime.cuda_engine.from_onnx, "plan_from_onnx", lambda path, spec: self.plan)
        monkeypatch.setattr(PillarWeights, "from_onnx", lambda path: self.weights)
        for component in self.spec.components:
            (folder / f"{component.name}.onnx").touch()

    def open(self, **options: Any) -> Backend:
        return open_backend(
            "cuda", **({"spec": self.spec, "onnx_dir": self.folder, "device": "cuda:0", "capacity": CAPACITY} | options)
        )

    def expected(self, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """The canvas, and the outputs of the plan's exact arithmetic on it."""
        frame = preprocess(points, self.spec)
        canvas = scatter(self.weights.apply(frame.features), frame.coords, self.spec)
        return canvas, run_plan(self.plan, canvas[0])


@pytest.fixture(params=["int8", "float16"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    if EngineDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return Bench(tmp_path, monkeypatch, request.param)


def check_outputs(found: dict[str, NDArray[np.float32]], wanted: dict[str, NDArray[np.float32]]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        # float16 rounds a layer's result to 11 bits; codes differ where a sum lies on the border of two.
        np.testing.assert_allclose(found[name], values, rtol=2e-2, atol=2e-2, err_msg=name)
        assert np.abs(found[name] - values).mean() < 2e-3


def test_points_to_boxes_and_outputs_are_those_of_the_plan(bench: Bench) -> None:
    with bench.open() as backend:
        for seed, count in enumerate((900, 0, 1, CAPACITY)):
            points = clumped_cloud(bench.spec, count, seed) if count else np.zeros((0, 5), np.float32)
            fast = Pipeline(bench.spec, backend, keep_outputs=False)(points)
            slow = Pipeline(bench.spec, backend)(points)
            assert fast.outputs == {}
            assert fast.counts == slow.counts
            np.testing.assert_array_equal(fast.detections.labels, slow.detections.labels if count else [])
            if not slow.outputs:
                continue
            np.testing.assert_allclose(fast.detections.boxes, slow.detections.boxes, rtol=1e-6, atol=1e-6)
            check_outputs(slow.outputs, bench.expected(points)[1])
            assert len(decode(slow.outputs, bench.spec).boxes) == len(fast.detections.boxes) > 0


def test_components_for_verification(bench: Bench) -> None:
    points = clumped_cloud(bench.spec, 700, 8)
    frame = preprocess(points, bench.spec)
    canvas, outputs = bench.expected(points)
    with bench.open() as backend:
        before = backend.detect(points).boxes
        pillars = backend.run(VOXEL_ENCODER, {INPUT_FEATURES: frame.features})[PILLAR_FEATURES]
        np.testing.assert_allclose(pillars[:, 0], bench.weights.apply(frame.features), rtol=1e-5, atol=1e-5)
        check_outputs(backend.run(BACKBONE_NECK_HEAD, {SPATIAL_FEATURES: canvas}), outputs)
        # A dense canvas leaves nothing behind for the next cloud.
        check_outputs(backend.run(BACKBONE_NECK_HEAD, {SPATIAL_FEATURES: np.ones_like(canvas)}), run_plan(
            bench.plan, np.ones_like(canvas)[0]
        ))  # fmt: skip
        np.testing.assert_array_equal(backend.detect(points).boxes.boxes, before.boxes)
        with pytest.raises(DataError, match=r"found [0-9]+ pillars in the points of"):
            backend.run(VOXEL_ENCODER, {INPUT_FEATURES: np.repeat(frame.features, 2, axis=0)[:50]})


def test_one_graph_a_frame(bench: Bench) -> None:
    with bench.open() as backend:
        bench.device.calls.clear()
        backend.detect(clumped_cloud(bench.spec, 500, 1))
        kinds = bench.device.kinds()
    layers = len(bench.plan.convs)
    assert kinds.count("launch_graph") == 1
    assert kinds.count("conv") == layers
    assert [kind for kind in kinds if kind in ("upload", "download", "allocate", "synchronize")] == [
        "upload", "upload", "download", "download",
    ]  # fmt: skip


def test_what_it_cannot_run_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="runs on a GPU: its device is 'cpu'"):
        bench.open(device="cpu")
    monkeypatch.setattr(EngineDevice, "compute_capability", (8, 6))
    with pytest.raises(BackendUnavailable, match=r"compute capability 9\.0.*Emulated GPU with 8\.6\. Use the tensorrt"):
        bench.open()
    assert bench.device.closed
    (bench.folder / f"{VOXEL_ENCODER}.onnx").unlink()
    with pytest.raises(ConfigError, match=r"component 'pts_voxel_encoder' is missing: .*--mode=onnx"):
        bench.open()


def test_clouds_that_do_not_fit(bench: Bench) -> None:
    with bench.open() as backend:
        with pytest.raises(DataError, match=r"has 3001 points; .* was opened for 3000"):
            backend.detect(np.zeros((CAPACITY + 1, 5), np.float32))
        with pytest.raises(DataError, match=r"float32 of shape \(5, 4\); model 'check24' needs float32 \(N, 5\)"):
            backend.detect(np.zeros((5, 4), np.float32))
