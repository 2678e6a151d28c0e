"""Inspection against numbers worked out by hand from small graphs, and against what was put into the files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from base.errors import ConfigError, DataError, ExportError
from base.files import sha256_file
from deploy.inspect import diff_files, inspect_files, main
from deploy.inspect_engine import EngineFacts, engine_layers
from deploy.inspect_graph import GraphFacts, inspect_graph

# H100 SXM and Jetson AGX Orin 64 GB, data sheets, dense.
H100_INT8, H100_FP16, H100_BYTES = 1978.9e12, 989.4e12, 3.35e12
ORIN_BYTES = 204.8e9


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    initializers: Mapping[str, NDArray[Any]],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, path)
    return path


def _value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def float_file(path: Path, weight: NDArray[np.float32], size: int | str = 16, channels: int = 4) -> Path:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], "/net/conv/Conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    values = {"w": weight, "b": np.zeros(len(weight), np.float32)}
    return _save(
        path, nodes, values, [_value("x", [1, channels, size, size])], [_value("y", [1, len(weight), size, size])]
    )


def int8_file(path: Path, codes: NDArray[np.int8], scale: NDArray[np.float32]) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "zero"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "zero"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "zeros"], ["wd"], "wdq", axis=0),
        helper.make_node("Conv", ["xd", "wd", "b"], ["y"], "/net/conv/Conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    values: dict[str, NDArray[Any]] = {
        "xs": np.array(0.1, np.float32),
        "zero": np.array(0, np.int8),
        "w": codes,
        "ws": scale,
        "zeros": np.zeros(len(codes), np.int8),
        "b": np.zeros(len(codes), np.float32),
    }
    return _save(path, nodes, values, [_value("x", [1, 4, 16, 16])], [_value("y", [1, len(codes), 16, 16])])


@pytest.fixture
def weight() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)


def test_a_float_convolution(tmp_path: Path, weight: NDArray[np.float32]) -> None:
    path = float_file(tmp_path / "net.onnx", weight)
    facts = inspect_graph(path, "h100")
    assert (facts.precision, facts.opset, facts.size_bytes) == ("fp32", 19, path.stat().st_size)
    assert facts.parameters == 8 * 4 * 9 + 8
    assert [(t.name, t.dtype, t.shape) for t in (*facts.inputs, *facts.outputs)] == [
        ("x", "float", (1, 4, 16, 16)),
        ("y", "float", (1, 8, 16, 16)),
    ]
    (layer,) = facts.layers
    assert layer.path == "net.conv"
    flop = 2 * 16 * 16 * 8 * 4 * 9
    moved = 4 * (4 * 256 + 8 * 256 + 8 * 4 * 9)
    assert (layer.flop, layer.moved_bytes, layer.parameters) == (flop, moved, 288)
    assert layer.roofline_s == pytest.approx(max(flop / (H100_FP16 / 2), moved / H100_BYTES))
    assert layer.bound == "memory"
    assert inspect_graph(path, "orin").roofline_s == pytest.approx(moved / ORIN_BYTES)


def test_an_int8_convolution(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (8, 4, 3, 3)).astype(np.int8)
    path = int8_file(tmp_path / "net.onnx", codes, np.full(8, 0.01, np.float32))
    facts = inspect_graph(path, "h100")
    (layer,) = facts.layers
    assert (facts.precision, layer.precision, layer.output_precision) == ("int8", "int8", "fp32")
    # Codes in, codes as weights, FP32 out; scales and zero points are no parameters.
    assert layer.moved_bytes == 4 * 256 + 288 + 4 * 8 * 256
    assert facts.parameters == 288 + 8
    assert layer.roofline_s == pytest.approx(max(layer.flop / H100_INT8, layer.moved_bytes / H100_BYTES))


def test_arithmetic_on_shapes_is_followed(tmp_path: Path) -> None:
    """A tile whose repeats are computed from the input's shape, as the voxel encoder has."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "one"], ["points"], "gather"),
        helper.make_node("Concat", ["unit", "points", "unit"], ["repeats"], "concat", axis=0),
        helper.make_node("ReduceMax", ["x", "one"], ["top"], "max", keepdims=1),
        helper.make_node("Tile", ["top", "repeats"], ["spread"], "tile"),
        helper.make_node("MatMul", ["spread", "w"], ["y"], "/pfn/linear/MatMul"),
    ]
    values = {"one": np.array([1]), "unit": np.array([1]), "w": np.ones((5, 7), np.float32)}
    path = _save(tmp_path / "e.onnx", nodes, values, [_value("x", ["n", 6, 5])], [_value("y", ["n", "p", 7])])
    (layer,) = inspect_graph(path, "h200", pillars=11).layers
    assert layer.flop == 2 * 11 * 6 * 5 * 7
    assert layer.moved_bytes == 4 * (11 * 6 * 5 + 5 * 7 + 11 * 6 * 7)


def test_dynamic_axes_need_a_shape(
    tmp_path: Path, weight: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    path = float_file(tmp_path / "net.onnx", weight, size="side")
    with pytest.raises(ConfigError, match=r"dynamic axes \[2, 3\].* --shape x=1x4xsidexside"):
        inspect_graph(path, "h100")
    assert inspect_graph(path, "h100", shapes={"x": (1, 4, 32, 32)}).flop == 2 * 32 * 32 * 8 * 4 * 9
    with pytest.raises(ConfigError, match=r"has shape \[1, 4, 'side', 'side'\], not \[1, 3, 32, 32\]"):
        inspect_graph(path, "h100", shapes={"x": (1, 3, 32, 32)})
    with pytest.raises(ConfigError, match=r"no input \['z'\]; its inputs are \['x'\]"):
        inspect_graph(path, "h100", shapes={"z": (1,)})
    assert main([str(path), "--shape", "x=1x4x8x8"]) == 0
    assert "0.000" in capsys.readouterr().out
    assert main([str(path), "--shape", "x=1xAx8x8"]) == 2
    assert "--shape 'x=1xAx8x8' is no shape" in capsys.readouterr().err


def test_weights_are_compared_as_numbers(tmp_path: Path) -> None:
    codes = np.random.default_rng(1).integers(-127, 128, (8, 4, 3, 3)).astype(np.int8)
    scale = np.linspace(0.01, 0.02, 8, dtype=np.float32)
    quantized = int8_file(tmp_path / "int8.onnx", codes, scale)
    exact = float_file(tmp_path / "same.onnx", codes * scale.reshape(-1, 1, 1, 1))
    moved = codes * scale.reshape(-1, 1, 1, 1)
    moved[0, 0, 0, 0] += 0.5
    other = float_file(tmp_path / "diff.onnx", moved)

    def differences(a: Path, b: Path) -> dict[tuple[str, str], tuple[str, str]]:
        (items,) = diff_files(inspect_files(a), inspect_files(b)).values()
        return {(item.where, item.what): (item.first, item.second) for item in items}

    assert differences(quantized, quantized) == {}
    found = differences(quantized, exact)
    assert found["net.conv", "precision"] == ("int8", "fp32")
    assert found["file", "QuantizeLinear nodes"] == ("1", "0")
    # Products in float32 against products in float64.
    assert float(found["net.conv", "weights"][1].split("|Δ| ")[1].split(",")[0]) < 1e-6
    assert set(differences(exact, other)) == {("net.conv", "weights")}
    assert "max |Δ| 0.5" in differences(exact, other)["net.conv", "weights"][1]


def test_folders_and_exit_codes(
    tmp_path: Path, weight: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    float_file(one / "net.onnx", weight)
    float_file(two / "net.onnx", weight)
    assert main([str(one), "--diff", str(two)]) == 0
    assert "net.onnx: no difference" in capsys.readouterr().out
    float_file(two / "extra.onnx", weight)
    assert main([str(one), "--diff", str(two), "--json", str(tmp_path / "d.json")]) == 1
    found = json.loads((tmp_path / "d.json").read_text())["differences"]
    assert found["net.onnx"] == []
    assert found["extra.onnx"] == [{"where": "file", "what": "present", "first": "-", "second": "yes"}]
    assert main([str(one), "--json", str(tmp_path / "f.json")]) == 0
    (entry,) = json.loads((tmp_path / "f.json").read_text())["files"].values()
    assert entry["layers"][0]["flop"] == 2 * 16 * 16 * 8 * 4 * 9
    text = capsys.readouterr().out
    assert "100.0% in fp32" in text
    assert "H100 SXM" in text


def test_bad_input(tmp_path: Path, weight: NDArray[np.float32], capsys: pytest.CaptureFixture[str]) -> None:
    path = float_file(tmp_path / "net.onnx", weight)
    assert main([str(tmp_path / "absent")]) == 2
    assert "absent' does not exist" in capsys.readouterr().err
    assert main([str(path), "--gpu", "abacus"]) == 2
    assert "no GPU 'abacus'" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("x")
    assert main([str(tmp_path / "notes.txt")]) == 2
    assert "neither .onnx nor .engine" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "holds no .onnx" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ExportError, match=r"net\.onnx' is not a whole ONNX file"):
        inspect_files(path)
    assert main([str(path), "--pillars", "0"]) == 2


def _engine(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "net.engine"
    path.write_bytes(content)
    manifest = {
        "schema_version": 1,
        "kind": "engine",
        "outputs": {"engine": {"file": "net.engine", "bytes": len(content), "sha256": sha256_file(path)}},
        "inputs": {"onnx": {"file": "net.onnx", "bytes": 9, "sha256": "ab" * 32}},
        "versions": {},
        "settings": {"builder": "tensorrt_rtx", "graph_precision": "int8", "profiles": {"x": {"max": [9, 2]}}},
    }
    (folder / "net.engine.json").write_text(json.dumps(manifest))
    return path


def test_an_engine_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are no engine of any library: the manifest is shown, the rest is skipped with the library's reason."""
    path = _engine(tmp_path / "a", b"\0" * 4096)
    facts = inspect_files(path)[path]
    assert isinstance(facts, EngineFacts)
    assert facts.status == "SKIPPED"
    assert "does not accept engine net.engine" in facts.reason or "is not installed" in facts.reason
    assert facts.settings["graph_precision"] == "int8"
    assert main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "SKIPPED" in text
    assert "x max 9x2" in text
    assert main([str(path), "--strict"]) == 1
    other = _engine(tmp_path / "b", b"\1" * 4096)
    capsys.readouterr()
    assert main([str(path), "--diff", str(other)]) == 1
    assert "were not compared (SKIPPED)" in capsys.readouterr().out


def test_an_engine_and_its_manifest_disagree(tmp_path: Path) -> None:
    path = _engine(tmp_path / "a", b"\0" * 4096)
    path.write_bytes(b"\2" * 4096)
    with pytest.raises(DataError, match=r"is not the engine that 'net.engine.json' describes"):
        inspect_files(path)
    path.with_name("net.engine.json").unlink()
    assert isinstance(inspect_files(path)[path], EngineFacts)
    path.write_bytes(b"tiny")
    with pytest.raises(ExportError, match="has 4 bytes; it is no engine"):
        inspect_files(path)


def test_an_engine_inspectors_answer() -> None:
    text = json.dumps(
        {"Layers": [{"Name": "conv+relu", "LayerType": "CaskConv", "Outputs": [{"Format/Datatype": "Int8"}]}, "plain"]}
    )
    assert [(layer.name, layer.kind, layer.outputs) for layer in engine_layers(text)] == [
        ("conv+relu", "CaskConv", "Int8"),
        ("plain", "", ""),
    ]


def test_kinds_are_not_mixed(tmp_path: Path, weight: NDArray[np.float32]) -> None:
    graph, engine = float_file(tmp_path / "net.onnx", weight), _engine(tmp_path / "a", b"\0" * 4096)
    with pytest.raises(ConfigError, match="of different kinds"):
        diff_files(inspect_files(graph), inspect_files(engine))
    assert isinstance(inspect_files(graph)[graph], GraphFacts)
