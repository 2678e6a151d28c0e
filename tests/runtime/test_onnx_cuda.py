"""ONNX Runtime's CUDA path: the chain on recorded sessions here, and a real device where there is one."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import BackendUnavailable
from models.spec import ComponentSpec, ModelSpec
from runtime import open_backend
from runtime.backends.onnx import _CudaSession
from runtime.cuda.chain import DeviceChain
from runtime.preprocess import preprocess
from runtime.scatter import scatter
from tests.runtime.fake_engine import FakeDevice
from tests.runtime.small_model import cloud


class RecordedSession:
    """Runs a function between the device addresses that were bound."""

    def __init__(self, component: ComponentSpec, function: Any, device: FakeDevice) -> None:
        self.component, self.function, self.device = component, function, device

    def get_inputs(self) -> Any:
        return self.component.inputs

    def get_outputs(self) -> Any:
        return self.component.outputs

    def io_binding(self) -> Any:
        bound: dict[str, tuple[Any, ...]] = {}

        def bind(name: str, device: str, index: int, dtype: Any, shape: tuple[int, ...], address: int) -> None:
            assert (device, index, dtype) == ("cuda", 0, np.float32)
            bound[name] = (address, shape)

        return types.SimpleNamespace(bind_input=bind, bind_output=bind, bound=bound)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        assert options.entries == {"disable_synchronize_execution_providers": "1"}
        self.device.calls.append(("execute", self.component.name))
        address, shape = binding.bound[self.component.inputs[0].name]
        results = self.function(self.device.view(address, shape))
        for tensor, value in zip(self.component.outputs, results, strict=True):
            address, shape = binding.bound[tensor.name]
            self.device.view(address, shape)[...] = value


class RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


def test_sessions_run_on_device_memory_in_order(spec: ModelSpec) -> None:
    device = FakeDevice(spec)
    encoder, head = spec.components
    step, channels = spec.out_size_factor, spec.encoder_channels

    def encode(features: Any) -> tuple[Any, ...]:
        return (features.max(axis=1, keepdims=True)[:, :, :channels],)

    def detect(canvas: Any) -> tuple[Any, ...]:
        return tuple(canvas[:, : h.channels, ::step, ::step] + i for i, h in enumerate(spec.heads))

    ort = types.SimpleNamespace(RunOptions=RunOptions)
    sessions = [RecordedSession(encoder, encode, device), RecordedSession(head, detect, device)]
    chain = DeviceChain(device, 17, spec, *(_CudaSession(ort, session, 0) for session in sessions))  # type: ignore[arg-type]
    for seed, count in ((0, 3000), (1, 90)):
        frame = preprocess(cloud(seed, count), spec)
        device.calls.clear()
        outputs, _ = chain.infer(frame.features, frame.coords)
        expected = detect(scatter(encode(frame.features)[0], frame.coords, spec))
        for name, value in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(outputs[name], value)
        kinds = [call[0] for call in device.calls]
        between = kinds[kinds.index("execute") : len(kinds) - kinds[::-1].index("execute")]
        assert between == ["execute", "record", "zero", "launch", "record", "execute"]


@pytest.mark.gpu
def test_onnx_on_cuda_gives_the_cpus_outputs(onnx_dir: Path, spec: ModelSpec) -> None:
    frame = preprocess(cloud(0, 5000), spec)
    try:
        cuda = open_backend("onnx", spec=spec, onnx_dir=onnx_dir, device="cuda:0")
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    with cuda, open_backend("onnx", spec=spec, onnx_dir=onnx_dir) as cpu:
        expected, found = (backend.infer(frame.features, frame.coords) for backend in (cpu, cuda))
        for name, value in expected.outputs.items():
            np.testing.assert_allclose(found.outputs[name], value, atol=1e-4)
