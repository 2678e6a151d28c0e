"""Both engines against numpy, torch, ONNX Runtime and the packages' own arithmetic."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from base.errors import ConfigError, DataError
from quant.quantizer import ENGINES, named_quantizers, new_quantizer
from quant.quantizer.base import Quantizer, QuantizerSpec, fake_quantize, round_scale, scale_from_amax

ROOT = Path(__file__).resolve().parents[2]


def calibrated(engine: str, scale: Any, axis: int | None = None) -> Quantizer:
    values = torch.as_tensor(scale)
    quantizer = new_quantizer(QuantizerSpec(axis=axis), engine, None if axis is None else len(values))
    quantizer.set_scale(values)
    return quantizer


def forget_scale(quantizer: Quantizer) -> None:
    """As a checkpoint without scales leaves it."""
    quantizer.load_state_dict(
        {name: torch.full_like(value, torch.nan) for name, value in quantizer.state_dict().items()}
    )


def amax_of(quantizer: Quantizer) -> torch.Tensor:
    """The range that the engine's own quantizer holds."""
    engines: Any = quantizer.tensor_quantizer
    amax: torch.Tensor = engines.amax
    return amax


def formula(x: NDArray[np.float32], scale: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """s * clamp(round_half_even(x * (1 / s)), -128, 127) in float32, as the operators define it."""
    shape = [1] * x.ndim
    if axis is not None:
        shape[axis] = -1
    step = scale.astype(np.float32).reshape(shape) if axis is not None else np.float32(scale)
    codes = np.clip(np.round(x * (np.float32(1) / step)), -128, 127).astype(np.float32)
    return codes * step


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_numbers_are_the_formula(engine: str, axis: int | None) -> None:
    x = tensor(5, 3, 8, 8)
    scale = torch.tensor(0.0117) if axis is None else torch.linspace(0.004, 0.03, x.shape[axis])
    quantizer = calibrated(engine, scale, axis)
    found = quantizer(x)
    assert np.array_equal(found.numpy(), formula(x.numpy(), quantizer.scale.numpy(), axis))
    assert float((found == 0).float().mean()) < 0.5, "the input spans many steps, or this test proves little"
    clipped = x.abs() > 127 * quantizer.scale.max()
    assert bool(clipped.any()), "some values are clipped"


def test_engines_are_equal_to_the_last_bit_and_to_torch() -> None:
    x = tensor(4, 6, 16, 16, seed=1)
    scale = torch.linspace(0.001, 0.05, 6)
    first, second = (calibrated(engine, scale, 1) for engine in ENGINES)
    assert torch.equal(first.scale, second.scale)
    assert torch.equal(first(x), second(x))
    zero_points = torch.zeros(6, dtype=torch.int32)
    assert torch.equal(first(x), torch.fake_quantize_per_channel_affine(x, first.scale, zero_points, 1, -128, 127))


@pytest.mark.parametrize("axis", [None, 1])
def test_the_packages_own_arithmetic_agrees(axis: int | None) -> None:
    """Their default path divides the code by 1 / s where QuantizeLinear multiplies it by s: the last bit differs."""
    import modelopt.torch.quantization as mtq
    from pytorch_quantization.nn import TensorQuantizer
    from pytorch_quantization.tensor_quant import QuantDescriptor

    x = tensor(4, 6, 16, 16, seed=2)
    scale = round_scale(torch.tensor(0.013) if axis is None else torch.linspace(0.002, 0.04, 6))
    amax = (scale * 127).reshape(() if axis is None else (1, 6, 1, 1))
    ours = fake_quantize(x, scale, axis)
    theirs = TensorQuantizer(QuantDescriptor(num_bits=8, axis=axis, amax=amax.numpy()))(x)
    config = mtq.config.QuantizerAttributeConfig(num_bits=8, axis=axis)
    successor = mtq.nn.TensorQuantizer(config, amax=amax)(x)
    for other in (theirs, successor):
        assert torch.allclose(other, ours, rtol=2**-22, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_knows_the_range_and_nothing_of_it_is_saved(engine: str) -> None:
    quantizer = calibrated(engine, torch.tensor([0.5, 0.25]), 0)
    assert amax_of(quantizer).tolist() == [63.5, 31.75]
    quantizer.set_scale(torch.tensor([1.0, 2.0]))
    assert amax_of(quantizer).tolist() == [127.0, 254.0]
    assert list(quantizer.state_dict()) == ["scale"]
    assert not list(quantizer.parameters())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axis", [None, 1])
def test_gradient_passes_inside_the_range_only(engine: str, axis: int | None) -> None:
    x = torch.tensor([[-2.0, -0.3], [0.0, 1.26], [1.4, 0.7]], requires_grad=True)
    quantizer = calibrated(engine, torch.tensor(0.01) if axis is None else torch.tensor([0.01, 0.01]), axis)
    quantizer(x).sum().backward()
    assert x.grad is not None
    # round_scale keeps eight bits of 0.01; codes end at 127.
    inside = (x.detach().abs() <= 127 * quantizer.scale.max()).float()
    assert inside.tolist() == [[0, 1], [1, 1], [0, 1]]
    assert torch.equal(x.grad, inside)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(engine: str, dtype: torch.dtype) -> None:
    """127 / amax is 65,024 * 8 here: beyond FP16, so that arithmetic in FP16 would give infinities."""
    quantizer = calibrated(engine, torch.tensor(2.0**-19))
    x = (tensor(1000) * 1e-4).to(dtype)
    found = quantizer(x)
    assert found.dtype == dtype
    assert torch.equal(found, torch.fake_quantize_per_tensor_affine(x.float(), 2.0**-19, 0, -128, 127).to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(quantizer(x), found)


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-16, 60000, width=32))
def test_rounded_scales_are_near_and_exact_in_fp16_and_bf16(value: float) -> None:
    scale = round_scale(torch.tensor(value))
    assert float(scale) == float(scale.half()) == float(scale.bfloat16())
    # Half a step of eight significant bits.
    assert abs(float(scale) - value) <= value * 2**-8
    up = round_scale(torch.tensor(value), up=True)
    assert value <= float(up) <= value * (1 + 2**-7)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1, 1))
def test_error_is_at_most_half_a_step(amax: float, share: float) -> None:
    scale = scale_from_amax(torch.tensor(amax), up=True)
    x = torch.tensor(amax * share)
    assert abs(float(fake_quantize(x, scale, None) - x)) <= float(scale) * 0.5 * (1 + 1e-5)


def test_scales_at_the_limits() -> None:
    assert float(round_scale(torch.tensor(0.0))) == 2.0**-24
    assert float(scale_from_amax(torch.tensor(0.0))) == 2.0**-24, "a channel of zeros"
    assert float(scale_from_amax(torch.tensor(127.0))) == 1.0
    for bad in (float("nan"), float("inf"), -1.0, 1e6):
        with pytest.raises(DataError, match=r"scales lie between 0 and 65504.*NaN or infinite activations"):
            round_scale(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("engine", ENGINES)
def test_states(engine: str) -> None:
    quantizer = new_quantizer(QuantizerSpec(), engine)
    x = tensor(10)
    assert not quantizer.is_calibrated
    assert "no scale" in repr(quantizer)
    with pytest.raises(ConfigError, match="enabled without a scale: calibrate the model"):
        quantizer(x)
    seen: list[torch.Tensor] = []
    quantizer.observer = seen.append
    assert quantizer(x) is x
    assert seen == [x]
    quantizer.set_scale(torch.tensor(0.1))
    assert not torch.equal(quantizer(x), x)
    assert seen[-1] is x, "the observer sees what comes in, not what goes out"
    quantizer.enabled = False
    assert quantizer(x) is x
    assert len(seen) == 3
    forget_scale(quantizer)
    assert not quantizer.is_calibrated
    with pytest.raises(ConfigError, match=r"shape \(2,\) does not fit one of \(\)"):
        quantizer.set_scale(torch.ones(2))


@pytest.mark.parametrize("engine", ENGINES)
def test_state_dict_brings_and_takes_the_scale(engine: str) -> None:
    full, empty = calibrated(engine, torch.tensor(0.25)), new_quantizer(QuantizerSpec(), engine)
    target = new_quantizer(QuantizerSpec(), engine)
    target.load_state_dict(full.state_dict())
    assert target.is_calibrated
    assert float(target(torch.tensor(0.3))) == 0.25
    target.load_state_dict(empty.state_dict())
    assert not target.is_calibrated


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_stand_alone(engine: str) -> None:
    first = calibrated(engine, torch.tensor(0.25))
    second = copy.deepcopy(first)
    second.set_scale(torch.tensor(1.0))
    assert float(first(torch.tensor(0.3))) == 0.25
    assert float(second(torch.tensor(0.9))) == 1.0
    assert float(amax_of(second)) == 127.0


def test_a_calibrated_quantizer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value from a GPU waits for it; training calls every quantizer in every step."""
    quantizer = calibrated("pytorch_quantization", torch.tensor(0.25))
    reads: list[str] = []
    for name in ("__bool__", "item", "__float__", "tolist", "cpu"):
        original = getattr(torch.Tensor, name)

        def read(self: torch.Tensor, *given: Any, original: Any = original, name: str = name) -> Any:
            reads.append(name)
            return original(self, *given)

        monkeypatch.setattr(torch.Tensor, name, read)
    quantizer(torch.ones(3))
    assert reads == []
    forget_scale(quantizer)
    assert not quantizer.is_calibrated
    assert reads == ["__bool__"], "the check sees what it is meant to see"


def test_bad_requests() -> None:
    with pytest.raises(
        ConfigError, match="Unknown quantization engine 'tensorrt'; engines: pytorch_quantization, modelo"
    ):
        new_quantizer(QuantizerSpec(), "tensorrt")
    with pytest.raises(ConfigError, match="num_bits is 4"):
        QuantizerSpec(num_bits=4)
    with pytest.raises(ConfigError, match="along axis 0 needs a number of channels; got None"):
        new_quantizer(QuantizerSpec(axis=0))


def test_named_quantizers_gives_each_once() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Module(), "b": torch.nn.Module()})
    shared = new_quantizer(QuantizerSpec())
    model["a"].input_quantizer = shared
    model["b"].input_quantizer = shared
    model["b"].weight_quantizer = new_quantizer(QuantizerSpec(axis=0), channels=3)
    assert list(named_quantizers(model)) == ["a.input_quantizer", "b.weight_quantizer"]


class Both(torch.nn.Module):
    """An activation by tensor, a weight by channel."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        self.of_input = calibrated(engine, torch.tensor(0.02))
        self.of_weight = calibrated(engine, torch.tensor([0.001, 0.002, 0.003, 0.004]), 0)
        self.weight = torch.nn.Parameter(tensor(4, 3, 3, 3, seed=5) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.conv2d(self.of_input(x), self.of_weight(self.weight))


def exported(engine: str) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Both(engine).eval(),
            (tensor(1, 3, 8, 8),),
            buffer,  # type: ignore[arg-type]  # torch writes into file objects; its annotation leaves them out
            opset_version=17,
            dynamo=False,
        )
    return buffer.getvalue()


def test_both_engines_trace_to_the_same_graph() -> None:
    import onnx
    import onnxruntime

    first, second = (onnx.load_from_string(exported(engine)) for engine in ENGINES)
    operators = [node.op_type for node in first.graph.node]
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 2
    assert operators.count("Conv") == 1
    # Names hold the engine's class; everything else is equal.
    assert operators == [node.op_type for node in second.graph.node]
    arrays = [
        sorted(onnx.numpy_helper.to_array(i).tobytes() for i in model.graph.initializer) for model in (first, second)
    ]
    assert arrays[0] == arrays[1]
    x = tensor(1, 3, 8, 8, seed=9)
    expected = Both(ENGINES[0])(x).detach().numpy()
    for model in (first, second):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_modelopt_is_imported_only_when_asked_for() -> None:
    code = (
        "import sys, quant, quant.quantizer as q; assert 'torch' not in sys.modules, 'torch'\n"
        "from quant.quantizer.base import QuantizerSpec\n"
        "q.new_quantizer(QuantizerSpec()); assert 'modelopt' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
