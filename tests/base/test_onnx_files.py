"""ONNX files of anybody: what is read is whole, valid and bounded; everything else is an error with file and node."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from base.errors import DataError, ExportError, UserError
from base.onnx_files import attribute, label, read_onnx
from base.onnx_wire import MAX_FIELDS


def network() -> onnx.ModelProto:
    """Rows of four numbers, dynamic in number, through a product and a shape that is computed."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = [
        helper.make_node("MatMul", ["rows", "weight"], ["product"], name="product"),
        helper.make_node("Shape", ["product"], ["shape"], name="shape"),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], name="zeros"),
        helper.make_node("Concat", ["product", "zeros"], ["joined"], name="join", axis=1),
        helper.make_node("Relu", ["joined"], ["result"], name="relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(tmp_path: Path, content: onnx.ModelProto | bytes, name: str = "net.onnx") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def refused(path: Path) -> str:
    with pytest.raises(ExportError) as caught:
        read_onnx(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_valid_file_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_onnx(written(tmp_path, network())) == network()


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "does not exist. Export it first" in refused(tmp_path / "none.onnx")
    assert "is a folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "is a pipe" in refused(tmp_path / "pipe.onnx")
    assert "holds no node" in refused(written(tmp_path, b""))
    assert "is not a whole ONNX file" in refused(written(tmp_path, b"no model, but text"))
    assert "is not a whole ONNX file" in refused(written(tmp_path, network().SerializeToString()[:-20]))
    with pytest.raises(DataError, match=r"does not exist\. Make it\."):
        read_onnx(tmp_path / "none.onnx", error=DataError, missing="Make it.")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    assert f"has {1 << 40} bytes" in refused(path)


def _renamed(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    assert data.count(b"relu") == 1
    return data.replace(b"relu", b"re\xffu")


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def _with_branch(model: onnx.ModelProto) -> None:
    node = model.graph.node.add(op_type="If", name="branch", input=["rows"], output=["other"])
    node.attribute.append(helper.make_attribute("then_branch", helper.make_graph([], "inner", [], [])))


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "result"


def _long_axis(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**62


def _short_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def _long_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data += b"\0\0\0\0"


def _huge_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def _no_axis(model: onnx.ModelProto) -> None:
    del model.graph.node[3].attribute[:]


def _text_axis(model: onnx.ModelProto) -> None:
    model.graph.node[3].attribute[0].CopyFrom(helper.make_attribute("axis", "one"))


def _unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[4].op_type = "Relux"


def _function(model: onnx.ModelProto) -> None:
    model.functions.add(name="mine", domain="own")


def _tiled(model: onnx.ModelProto) -> None:
    """A tensor of 96 TB, by a constant of 8 bytes."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2**33], np.int64), "repeats"))
    model.graph.node.insert(4, helper.make_node("Tile", ["joined", "repeats"], ["tiled"], name="tile"))
    model.graph.node[5].input[0] = "tiled"
    model.graph.output[0].type.tensor_type.shape.dim[1].ClearField("dim_value")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renamed, "is no UTF-8 text"),
        (_external, "constant 'weight' lies in another file"),
        (_with_branch, "Node 'branch' (If) holds a graph of its own ('then_branch')"),
        (_function, "it defines functions of its own ('mine')"),
        (_cycle, "topologically sorted, however input 'result' of node"),
        (_long_axis, f"tensor 'rows' has an axis of {2**62}"),
        (_short_weight, "constant 'weight' does not have the bytes of its shape [4, 3]"),
        (_long_weight, "constant 'weight' does not have the bytes of its shape [4, 3]"),
        (_huge_weight, f"constant 'weight' does not have the bytes of its shape [{2**40}, 3]"),
        (_no_axis, "Required attribute 'axis' is missing"),
        (_text_axis, "axis"),
        (_unknown_operator, "No Op registered for Relux"),
        (_tiled, f"tensor 'tiled' of shape (1000, {6 * 2**33}) would take over 2 GB"),
    ],
    ids=lambda item: item.__name__.strip("_") if callable(item) else "",
)
def test_what_is_not_valid(tmp_path: Path, change: Callable[[onnx.ModelProto], Any], message: str) -> None:
    model = network()
    data = change(model)
    assert message in refused(written(tmp_path, data if isinstance(data, bytes) else model))


def test_a_bomb_of_empty_nodes_is_seen_before_it_is_parsed(tmp_path: Path) -> None:
    """Two bytes in the file are 200 in memory: 4 MB would take 0.7 GB."""
    nodes = b"\x0a\x00" * 2_000_000
    size = len(nodes)
    length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    path = written(tmp_path, b"\x08\x08\x3a" + length + nodes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"more than {MAX_FIELDS} fields" in refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_an_attribute_has_the_type_of_its_default() -> None:
    node = helper.make_node("Conv", [], ["y"], name="c", strides=[2, 3], auto_pad="VALID", group=4, alpha=0.5)
    assert attribute(node, "strides", (1, 1)) == (2, 3)
    assert attribute(node, "auto_pad", "NOTSET") == "VALID"
    assert attribute(node, "group", 1) == 4
    assert attribute(node, "alpha", 1.0) == 0.5
    assert attribute(node, "pads", (0, 0)) == (0, 0)
    with pytest.raises(ExportError, match=r"Node 'c' \(Conv\): attribute 'group' is of type INT; .* like \[1, 1\]"):
        attribute(node, "group", (1, 1))
    with pytest.raises(DataError, match="attribute 'strides' is of type INTS"):
        attribute(node, "strides", 1, error=DataError)
    assert label(helper.make_node("A\n", [], ["y"], name="b\0")) == r"Node 'b\x00' (A\n)"


def test_changed_bytes_end_in_an_error_or_in_a_model(tmp_path: Path) -> None:
    """Nothing but `UserError` comes out of 2,000 files with one to eight changed, missing or added bytes."""
    original = network().SerializeToString()
    chance = random.Random(5)
    read, refusals = 0, []
    for _ in range(2000):
        data = bytearray(original)
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    del data[at : at + chance.randrange(1, 5)]
                case 1:
                    data[at:at] = chance.randbytes(chance.randrange(1, 5))
                case _:
                    data[at] = chance.randrange(256)
        path = written(tmp_path, bytes(data))
        try:
            model = read_onnx(path)
        except UserError as error:
            refusals.append(str(error))
        else:
            onnx.checker.check_model(model)
            read += 1
    assert all(str(path) in message for message in refusals)
    assert min(read, len(refusals)) > 100
