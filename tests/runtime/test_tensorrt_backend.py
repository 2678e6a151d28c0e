"""The TensorRT backend on a recorded device and engines: numbers, order, sizes, and no copy through the host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import BackendUnavailable, ConfigError
from models.spec import ModelSpec
from runtime import open_backend
from runtime.backends.engines import EngineLoader
from runtime.cuda.device import CudaDevice
from runtime.preprocess import preprocess
from runtime.scatter import scatter
from tests.runtime.fake_engine import FakeDevice, FakeEngine, make_tensorrt
from tests.runtime.small_model import cloud

STAGES = ["h2d", "voxel_encoder", "scatter", "backbone_neck_head", "d2h"]


class Bench:
    """A folder of engine files, the fake device and engines behind them."""

    def __init__(self, spec: ModelSpec, folder: Path, monkeypatch: pytest.MonkeyPatch, device: Any = None) -> None:
        self.spec, self.folder = spec, folder
        self.device: Any = device or FakeDevice(spec)
        rng = np.random.default_rng(0)
        self.weights = rng.normal(size=(spec.encoder_in_features, spec.encoder_channels)).astype(np.float32)
        encoder, head = spec.components
        self.engines = {
            encoder.name: FakeEngine(encoder, self.encode, device=self.device),
            head.name: FakeEngine(head, self.detect, device=self.device),
        }
        for name in self.engines:
            (folder / f"{name}.engine").write_bytes(name.encode())
        self.trt = make_tensorrt({name.encode(): engine for name, engine in self.engines.items()})
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        monkeypatch.setattr(CudaDevice, "open", classmethod(lambda cls, index: self.device))

    def encode(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        return ((features @ self.weights).max(axis=1, keepdims=True),)

    def detect(self, canvas: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        step = self.spec.out_size_factor
        return tuple(canvas[:, : head.channels, ::step, ::step] * (i + 1) + i for i, head in enumerate(self.spec.heads))

    def open(self, library: str = "tensorrt", **options: Any) -> Any:
        return open_backend(
            "tensorrt", spec=self.spec, device="cuda:0", engine_dir=self.folder, library=library, **options
        )


@pytest.fixture
def bench(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(spec, tmp_path, monkeypatch)


def test_frames_run_on_the_device_in_order_without_host_copies(bench: Bench) -> None:
    with bench.open() as backend:
        allocated = [call for call in bench.device.calls if call[0].startswith("allocate")]
        for seed, count in ((0, 4000), (1, 150), (2, 3000)):
            frame = preprocess(cloud(seed, count), bench.spec)
            bench.device.calls.clear()
            result = backend.infer(frame.features, frame.coords)
            canvas = scatter(bench.encode(frame.features)[0], frame.coords, bench.spec)
            for head, expected in zip(bench.spec.heads, bench.detect(canvas), strict=True):
                np.testing.assert_array_equal(result.outputs[head.name], expected)
            assert list(result.stages_ms) == STAGES
            kinds = [call[0] for call in bench.device.calls]
            first, last = kinds.index("execute"), len(kinds) - 1 - kinds[::-1].index("execute")
            assert kinds[first : last + 1] == ["execute", "record", "zero", "launch", "record", "execute"]
            assert kinds[:first] == ["record", "upload", "upload", "record"]
            assert kinds[last + 1 :] == ["record", *["download"] * 6, "record", "wait"]
            assert {call[-1] for call in bench.device.calls if call[0] != "wait"} == {17}
            assert bench.device.calls[1][2] == frame.features.nbytes
            assert not [kind for kind in kinds if kind.startswith("allocate")]
    assert bench.device.closed
    # Features, pillar features, canvas, six outputs, coordinates; staging for features, coordinates, six outputs.
    assert len(allocated) == 10 + 8
    assert ("allocate", 2000 * 8 * 11 * 4) in allocated


def test_components_run_alone_for_verification(bench: Bench) -> None:
    with bench.open() as backend:
        features = preprocess(cloud(0, 900), bench.spec).features
        (pillars,) = backend.run("pts_voxel_encoder", {"input_features": features}).values()
        np.testing.assert_array_equal(pillars, bench.encode(features)[0])
        canvas = np.random.default_rng(0).normal(size=bench.spec.canvas_shape).astype(np.float32)
        outputs = backend.run("pts_backbone_neck_head", {"spatial_features": canvas})
        assert list(outputs) == [head.name for head in bench.spec.heads]
        np.testing.assert_array_equal(outputs["vel"], bench.detect(canvas)[5])


@pytest.mark.parametrize("is_static", [False, True])
def test_fewer_pillars_than_the_engine_takes_are_filled_up(bench: Bench, is_static: bool) -> None:
    engine = bench.engines["pts_voxel_encoder"]
    if is_static:  # as Autoware's node builds it, with room for more than the model's pillars
        engine.profile = None
        engine.shapes = {"input_features": (2400, 8, 11), "pillar_features": (2400, 1, 8)}
    else:
        engine.profile = (1000, 1500, 2000)
    with bench.open() as backend:
        for seed, count in ((0, 4000), (1, 40)):
            frame = preprocess(cloud(seed, count), bench.spec)
            result = backend.infer(frame.features, frame.coords)
            canvas = scatter(bench.encode(frame.features)[0], frame.coords, bench.spec)
            np.testing.assert_array_equal(result.outputs["heatmap"], bench.detect(canvas)[0])
        shapes = [call[2][0] for call in bench.device.calls if call[:2] == ("execute", "pts_voxel_encoder")]
        assert shapes[-1] == (2400 if is_static else 1000) > len(frame)


def test_engines_of_another_model_are_refused(bench: Bench) -> None:
    encoder, head = bench.engines.values()
    encoder.profile = (1, 10, 1000)
    with pytest.raises(ConfigError, match=r"profile of 'input_features' ends at 1000 pillars.* max_voxels = 2000"):
        bench.open()
    assert bench.device.closed
    encoder.profile = (1, 10, 2000)
    encoder.shapes = {"input_features": (-1, 8, 10)}
    with pytest.raises(ConfigError, match=r"'input_features' is an input float32 \(-1, 8, 10\); the model needs an"):
        bench.open()
    encoder.shapes = {}
    head.dtypes = {"rot": "float16"}
    with pytest.raises(ConfigError, match=r"'rot' is an output float16 .* needs an output float32"):
        bench.open()
    head.dtypes = {}
    head.tensors = head.tensors[:-1]
    with pytest.raises(ConfigError, match=r"engine's tensors are \['rot', .*\]; the model has .*'vel'\]"):
        bench.open()


def test_refused_engines_make_the_backend_unavailable_with_every_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = make_tensorrt({}, "built by version 10.3.0, this is 10.9.0")
    monkeypatch.setitem(sys.modules, "tensorrt", refusing)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(BackendUnavailable) as caught:
        bench.open("auto")
    text = str(caught.value)
    assert "Fake GPU (compute capability 8.9)" in text
    assert "tensorrt_rtx_bindings is not installed" in text
    assert "tensorrt 10.9.0 does not accept engine" in text
    assert "built by version 10.3.0, this is 10.9.0" in text
    assert "a warning" not in text


def test_the_library_that_accepts_the_engines_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", make_tensorrt({}, "other magic"))
    with bench.open("auto") as backend:
        assert backend.device == "cuda:0"


def test_wrong_arguments_are_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runs on a GPU: its device is 'cpu', use 'cuda:0'"):
        open_backend("tensorrt", spec=bench.spec, engine_dir=tmp_path)
    with pytest.raises(
        ConfigError, match=r"Unknown TensorRT library 'trt'. Choose one of: auto, tensorrt_rtx, tensorrt"
    ):
        bench.open("trt")
    (tmp_path / "pts_backbone_neck_head.engine").unlink()
    with pytest.raises(ConfigError, match=r"Engine of component 'pts_backbone_neck_head' is missing: .*--mode=trt"):
        bench.open()


def test_without_a_device_the_reason_is_given(spec: ModelSpec, tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    try:
        CudaDevice.open(0).close()
    except BackendUnavailable:
        pass
    else:
        pytest.skip("this machine has a CUDA device")
    for component in spec.components:
        (tmp_path / f"{component.name}.engine").write_bytes(b"any")
    with pytest.raises(BackendUnavailable, match=r"No usable CUDA device: cudaGetDeviceCount says|No CUDA driver"):
        open_backend("tensorrt", spec=spec, device="cuda", engine_dir=tmp_path)


def test_the_real_library_says_why_it_refuses_a_file(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    broken = tmp_path / "broken.engine"
    broken.write_bytes(b"no engine at all " * 20)
    with pytest.raises(
        BackendUnavailable, match=r"tensorrt_rtx.* does not accept engine .*broken.engine: .*[Ss]erializ"
    ):
        EngineLoader(trt).load(broken)


def test_a_real_engine_is_refused_without_a_gpu_and_when_truncated(
    onnx_dir: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse((onnx_dir / "pts_backbone_neck_head.onnx").read_bytes())
    content = bytes(builder.build_serialized_network(network, builder.create_builder_config()))
    whole, half = tmp_path / "whole.engine", tmp_path / "half.engine"
    whole.write_bytes(content)
    half.write_bytes(content[: len(content) // 2])
    with pytest.raises(BackendUnavailable, match=r"half.engine: .*plan.header.size == blobSize"):
        EngineLoader(trt).load(half)
    try:
        gpu = CudaDevice.open(0)
    except BackendUnavailable:
        with pytest.raises(BackendUnavailable, match=r"whole.engine: .*CUDA driver version is insufficient"):
            EngineLoader(trt).load(whole)
        return
    gpu.close()


@pytest.mark.gpu
def test_selfcheck_passes_on_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    from runtime.cuda.selfcheck import main

    code = main([])
    text = capsys.readouterr().out
    if code == 2:
        pytest.skip(text.strip())
    assert code == 0, text
