from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from base.errors import ExportError
from export.components import CenterPointComponentExtractor
from export.onnx_export import OnnxExportSettings, component_to_onnx, export_components
from export.onnx_graph import metadata
from models.spec import ModelSpec
from tests.base.forked_torchrun import run_forked

REPOSITORY = Path(__file__).parents[2]
FILES = ("pts_voxel_encoder.onnx", "pts_backbone_neck_head.onnx")


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]


def test_names_order_and_axes(tiny_onnx: Path) -> None:
    encoder, rest = (onnx.load(tiny_onnx / name) for name in FILES)
    assert [(v.name, _shape(v)) for v in encoder.graph.input] == [("input_features", ["num_voxels", 32, 11])]
    assert [(v.name, _shape(v)) for v in encoder.graph.output] == [("pillar_features", ["num_voxels", 1, 32])]
    assert [(v.name, _shape(v)) for v in rest.graph.input] == [("spatial_features", [1, 32, 32, 32])]
    assert [(v.name, _shape(v)) for v in rest.graph.output] == [
        ("heatmap", [1, 5, 16, 16]),
        ("reg", [1, 2, 16, 16]),
        ("height", [1, 1, 16, 16]),
        ("dim", [1, 3, 16, 16]),
        ("rot", [1, 2, 16, 16]),
        ("vel", [1, 2, 16, 16]),
    ]


@pytest.mark.parametrize("num_voxels", [1, 7, 48])
def test_encoder_equals_torch_for_any_number_of_pillars(
    tiny: tuple[Any, ModelSpec], tiny_onnx: Path, run_onnx: Callable[..., list[Any]], num_voxels: int
) -> None:
    encoder, _ = CenterPointComponentExtractor(*tiny).extract()
    features = torch.randn((num_voxels, 32, 11), generator=torch.Generator().manual_seed(num_voxels))
    with torch.no_grad():
        expected = encoder.module(features).numpy()
    (found,) = run_onnx(tiny_onnx / FILES[0], {"input_features": features.numpy()})
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_padded_rows_are_part_of_the_function(tiny: tuple[Any, ModelSpec]) -> None:
    """Why axis 1 is static: fewer padded rows give another result."""
    encoder, _ = CenterPointComponentExtractor(*tiny).extract()
    features = torch.zeros((4, 32, 11))
    features[:, :3] = torch.randn((4, 3, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(encoder.module(features), encoder.module(features[:, :3]))


def test_backbone_equals_torch(
    tiny: tuple[Any, ModelSpec], tiny_onnx: Path, run_onnx: Callable[..., list[Any]]
) -> None:
    _, rest = CenterPointComponentExtractor(*tiny).extract()
    canvas = torch.randn((1, 32, 32, 32), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = rest.module(canvas)
    for name, found, value in zip(
        rest.output_names, run_onnx(tiny_onnx / FILES[1], {"spatial_features": canvas.numpy()}), expected, strict=True
    ):
        np.testing.assert_allclose(found, value.numpy(), rtol=0, atol=2e-5, err_msg=name)


def test_a_file_says_what_it_is(tiny: tuple[Any, ModelSpec], tiny_onnx: Path) -> None:
    _, spec = tiny
    for name in FILES:
        values = metadata(onnx.load(tiny_onnx / name))
        assert ModelSpec.from_dict(json.loads(values["spec"])) == spec
        assert values["spec_sha256"] == spec.fingerprint()
        assert values["component"] == Path(name).stem
        assert (values["model"], values["precision"]) == ("tiny_centerpoint", "fp32")
        assert values["rot_convention"] == "x_axis_counterclockwise"


def test_nothing_in_a_file_tells_where_or_by_whom_it_was_made(tiny_onnx: Path) -> None:
    for name in FILES:
        model = onnx.load(tiny_onnx / name)
        assert (model.producer_name, model.producer_version, model.doc_string) == ("centerpoint-deploy", "", "")
        assert all(not node.doc_string for node in model.graph.node)
        data = (tiny_onnx / name).read_bytes()
        for word in (b"site-packages", str(REPOSITORY).encode(), b".py"):
            assert word not in data.replace(b"tiny_centerpoint", b"")


def test_weights_are_named_after_their_node_and_not_shared(tiny_onnx: Path) -> None:
    model = onnx.load(tiny_onnx / FILES[1])
    assert not any(node.op_type == "Identity" for node in model.graph.node)
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    for tensor in model.graph.initializer:
        (reader,) = readers[tensor.name]
        assert tensor.name.startswith(f"{reader}.")
    names = {tensor.name for tensor in model.graph.initializer}
    assert "/pts_backbone/blocks.0/blocks.0.0/Conv.weight" in names


def test_static_and_rotated_export(
    tiny: tuple[Any, ModelSpec], tmp_path: Path, run_onnx: Callable[..., list[Any]], tiny_onnx: Path
) -> None:
    settings = OnnxExportSettings(static_voxels=48, rot_y_axis_reference=True)
    export_components(*tiny, tmp_path, settings)
    encoder, rest = (onnx.load(tmp_path / name) for name in FILES)
    assert _shape(encoder.graph.input[0]) == [48, 32, 11]
    assert metadata(rest)["rot_convention"] == "y_axis_clockwise"
    assert json.loads(metadata(rest)["spec"])["rot_y_axis_reference"] is True
    canvas = {"spatial_features": np.random.default_rng(0).standard_normal((1, 32, 32, 32)).astype(np.float32)}
    plain, rotated = run_onnx(tiny_onnx / FILES[1], canvas), run_onnx(rest, canvas)
    np.testing.assert_allclose(rotated[3], plain[3][:, [1, 0, 2]], atol=1e-6)
    np.testing.assert_allclose(rotated[4], -plain[4][:, [1, 0]], atol=1e-6)


def test_fp16_export_keeps_fp32_inputs_and_outputs(tiny: tuple[Any, ModelSpec], tmp_path: Path) -> None:
    export_components(*tiny, tmp_path, OnnxExportSettings(precision="fp16"))
    for name in FILES:
        model = onnx.load(tmp_path / name)
        values = (*model.graph.input, *model.graph.output)
        assert {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.FLOAT}
        assert metadata(model)["precision"] == "fp16"


@pytest.mark.parametrize("opset", [16, 17, 19])
def test_opset_follows_the_settings(tiny: tuple[Any, ModelSpec], opset: int) -> None:
    encoder, _ = CenterPointComponentExtractor(*tiny).extract()
    model = component_to_onnx(encoder, tiny[1], OnnxExportSettings(opset_version=opset))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]


def test_initializers_as_inputs(tiny: tuple[Any, ModelSpec], run_onnx: Callable[..., list[Any]]) -> None:
    encoder, _ = CenterPointComponentExtractor(*tiny).extract()
    model = component_to_onnx(encoder, tiny[1], OnnxExportSettings(keep_initializers_as_inputs=True))
    assert {t.name for t in model.graph.initializer} < {v.name for v in model.graph.input}
    features = encoder.sample_inputs[0]
    with torch.no_grad():
        expected = encoder.module(features).numpy()
    np.testing.assert_allclose(run_onnx(model, {"input_features": features.numpy()})[0], expected, atol=2e-5)


@pytest.mark.parametrize("opset", [9, 99])
def test_bad_opset(opset: int) -> None:
    with pytest.raises(ExportError, match=f"opset_version is {opset}; this exporter writes 13 to 20"):
        OnnxExportSettings(opset_version=opset)


def test_bad_precision() -> None:
    with pytest.raises(ExportError, match="precision is 'bf16'; an export is one of fp32, fp16"):
        OnnxExportSettings(precision="bf16")


def test_simplified_export_computes_the_same(
    tiny: tuple[Any, ModelSpec], tmp_path: Path, tiny_onnx: Path, run_onnx: Callable[..., list[Any]]
) -> None:
    export_components(*tiny, tmp_path, OnnxExportSettings(simplify=True))
    features = np.random.default_rng(0).standard_normal((9, 32, 11)).astype(np.float32)
    plain, simple = (run_onnx(d / FILES[0], {"input_features": features})[0] for d in (tiny_onnx, tmp_path))
    np.testing.assert_allclose(simple, plain, rtol=0, atol=2e-5)
    assert _shape(onnx.load(tmp_path / FILES[0]).graph.input[0]) == ["num_voxels", 32, 11]


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (RuntimeError("no rule for Foo"), "onnxsim failed on 'pts_voxel_encoder': no rule for Foo"),
        (False, "onnxsim changed what 'pts_voxel_encoder' computes"),
    ],
)
def test_a_failing_simplifier_is_an_error_and_leaves_no_file(
    tiny: tuple[Any, ModelSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Exception | bool,
    message: str,
) -> None:
    import onnxsim

    def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Any]:
        if isinstance(outcome, Exception):
            raise outcome
        return model, outcome

    monkeypatch.setattr(onnxsim, "simplify", simplify)
    with pytest.raises(ExportError, match=message):
        export_components(*tiny, tmp_path, OnnxExportSettings(simplify=True))
    assert list(tmp_path.iterdir()) == []


def test_an_operator_the_exporter_does_not_know(tiny: tuple[Any, ModelSpec]) -> None:
    class Strange(torch.nn.Module):
        def forward(self, input_features: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = torch.linalg.eigvals(input_features[:, :3, :3])
            return values.real

    encoder, _ = CenterPointComponentExtractor(*tiny).extract()
    broken = type(encoder)(encoder.spec, Strange(), encoder.sample_inputs)
    with pytest.raises(ExportError, match="'pts_voxel_encoder' cannot be traced to ONNX opset 17"):
        component_to_onnx(broken, tiny[1], OnnxExportSettings())


def test_a_graph_of_another_shape_is_refused(tiny: tuple[Any, ModelSpec]) -> None:
    class Narrow(torch.nn.Module):
        def forward(self, input_features: torch.Tensor) -> torch.Tensor:
            return input_features.max(1, keepdim=True)[0]

    encoder, _ = CenterPointComponentExtractor(*tiny).extract()
    broken = type(encoder)(encoder.spec, Narrow(), encoder.sample_inputs)
    with pytest.raises(
        ExportError, match=r"output 'pillar_features' has shape \[None, 1, 11\], expected \[None, 1, 32\]"
    ):
        component_to_onnx(broken, tiny[1], OnnxExportSettings())


def test_a_folder_that_cannot_be_made(tiny: tuple[Any, ModelSpec], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"Cannot write .*pts_voxel_encoder.onnx"):
        export_components(*tiny, tmp_path / "file" / "onnx")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
def test_a_full_disk_leaves_the_former_file(
    tiny: tuple[Any, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_components(*tiny, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = Path.write_bytes

    def write_bytes(self: Path, data: bytes) -> int:
        # Half of the file arrives, then the kernel says ENOSPC.
        real(self, data[: len(data) // 2])
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(data)
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(ExportError, match=r"Cannot write .*pts_voxel_encoder.onnx.* No space left on device"):
        export_components(*tiny, tmp_path, OnnxExportSettings(precision="fp16"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


_EXPORT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[3]))
from export.onnx_export import OnnxExportSettings, export_components
from models.build import build_model
from models.config import load_model_config
from models.spec import ModelSpec
cfg = load_model_config(sys.argv[1])
settings = OnnxExportSettings(precision="fp16")
export_components(build_model(cfg, seed=3), ModelSpec.from_config(cfg), sys.argv[2], settings)
"""


def test_equal_bytes_from_another_process_folder_and_thread_count(
    tiny: tuple[torch.nn.Module, ModelSpec], tiny_config_path: Path, tmp_path: Path
) -> None:
    here, elsewhere = tmp_path / "a", tmp_path / "another_folder"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "2"}
    arguments = [sys.executable, "-c", _EXPORT, str(tiny_config_path), str(elsewhere / "out"), "2"]
    with subprocess.Popen(arguments, cwd=elsewhere, env=environment) as process:
        export_components(*tiny, here, OnnxExportSettings(precision="fp16"))
    assert process.returncode == 0
    for name in FILES:
        assert (here / name).read_bytes() == (elsewhere / "out" / name).read_bytes()


def test_killed_in_the_middle_of_a_write_leaves_no_file(
    tiny: tuple[torch.nn.Module, ModelSpec], tmp_path: Path
) -> None:
    """The process kills itself with SIGKILL when half of the first file is on disk."""
    real, out = Path.write_bytes, tmp_path / "out"

    def write_bytes(self: Path, data: bytes) -> int:
        real(self, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def export() -> int:
        Path.write_bytes = write_bytes  # type: ignore[assignment,method-assign]
        export_components(*tiny, out, OnnxExportSettings(precision="fp16"))
        return 0

    assert run_forked(export, tmp_path).returncode == -signal.SIGKILL
    assert list(out.glob("*.onnx")) == []
    assert all(path.name.startswith(".") for path in out.iterdir())
    assert list(out.iterdir())
