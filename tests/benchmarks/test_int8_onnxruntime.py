"""The INT8 benchmark: by turns, with a ratio; a copy with unsigned codes that computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.int8_onnxruntime import main, measure, unsigned_codes

REPOSITORY = Path(__file__).parents[2]


def _model(scale: float) -> onnx.ModelProto:
    """Conv, ReLU, Q, DQ, Conv with INT8 weights."""
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.integers(-127, 128, (4, 4, 1, 1)).astype(np.int8), "w0"),
        numpy_helper.from_array(rng.integers(-127, 128, (2, 4, 1, 1)).astype(np.int8), "w1"),
        *(numpy_helper.from_array(np.array(2.0**-7, np.float32), name) for name in ("w0_scale", "w1_scale", "x_scale")),
        numpy_helper.from_array(np.array(scale, np.float32), "y_scale"),
        *(numpy_helper.from_array(np.array(0, np.int8), f"zero_{index}") for index in range(6)),
    ]

    def pair(tensor: str, name: str, zeros: tuple[str, str]) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [tensor, f"{name}_scale", zeros[0]], [f"{name}_q"], f"{name}/Q"),
            helper.make_node(
                "DequantizeLinear", [f"{name}_q", f"{name}_scale", zeros[1]], [f"{name}_dq"], f"{name}/DQ"
            ),
        ]

    nodes = [
        *pair("x", "x", ("zero_0", "zero_1")),
        helper.make_node("DequantizeLinear", ["w0", "w0_scale", "zero_2"], ["w0_dq"], "w0/DQ"),
        helper.make_node("Conv", ["x_dq", "w0_dq"], ["c0"], "conv0"),
        helper.make_node("Relu", ["c0"], ["r0"], "relu"),
        *pair("r0", "y", ("zero_3", "zero_4")),
        helper.make_node("DequantizeLinear", ["w1", "w1_scale", "zero_5"], ["w1_dq"], "w1/DQ"),
        helper.make_node("Conv", ["y_dq", "w1_dq"], ["out"], "conv1"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2, 8, 8])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _run(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    return np.asarray(found, np.float32)


def test_unsigned_codes_compute_the_same_where_nothing_is_cut() -> None:
    x = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
    model = _model(scale=0.125)
    copy = unsigned_codes(model)
    types = {tensor.name: tensor.data_type for tensor in copy.graph.initializer if tensor.name.startswith("zero")}
    # The pair behind the ReLU; weights and the input, which may be negative, keep theirs.
    unsigned = {name for name, kind in types.items() if kind == TensorProto.UINT8}
    assert unsigned == {"zero_3", "zero_4"}
    np.testing.assert_allclose(_run(copy, x), _run(model, x), atol=1e-5)


def test_measured_by_turns_against_the_first() -> None:
    x = [np.zeros((1, 4, 8, 8), np.float32)]
    data = _model(0.125).SerializeToString()
    timings = measure({"first": data, "second": data}, x, repeats=3, threads=1)
    assert [item.name for item in timings] == ["first", "second"]
    assert timings[0].ratio == 1.0
    assert timings[1].ratio == pytest.approx(timings[1].median_ms / timings[0].median_ms)
    assert {item.num_bytes for item in timings} == {len(data)}
    assert all(0 < item.median_ms <= item.p90_ms for item in timings)


def test_a_float_checkpoint_without_calibration_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from models.build import build_model
    from models.config import load_model_config

    config = str(REPOSITORY / "tests" / "data" / "deploy" / "tiny_centerpoint.py")
    torch.save({"state_dict": build_model(load_model_config(config)).state_dict()}, tmp_path / "float.pth")
    given = ["--model-config", config, "--checkpoint", str(tmp_path / "float.pth"), "--data-root", str(tmp_path)]
    assert main(given) == 2
    assert "give --calibration-root" in capsys.readouterr().err
