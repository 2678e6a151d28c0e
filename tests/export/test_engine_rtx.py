"""TensorRT-RTX itself, which builds without a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from base.errors import EngineBuildError
from export.engine.pipeline import CenterPointTensorRTExportPipeline, EngineSettings
from export.engine.profiles import check_profiles, default_profiles
from export.engine.request import EngineBuilder, EngineRequest, EngineResult, ShapeProfile
from export.engine.selection import open_engine_builder
from export.precision import convert_precision
from models.spec import ModelSpec

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

REPOSITORY = Path(__file__).parents[2]
NAMES = ("pts_voxel_encoder", "pts_backbone_neck_head")
BACKBONE = "pts_backbone_neck_head.onnx"


@pytest.fixture(scope="module")
def builder() -> EngineBuilder:
    return open_engine_builder("tensorrt_rtx")


@pytest.fixture(scope="module")
def engines(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineResult, ...]:
    folder = tmp_path_factory.mktemp("engines")
    settings = EngineSettings(builder="tensorrt_rtx", workspace_bytes=1 << 28)
    return CenterPointTensorRTExportPipeline(settings).run(tiny_onnx, folder)


def _request(onnx_path: Path, folder: Path, **more: Any) -> EngineRequest:
    return EngineRequest(Path(onnx_path), Path(folder) / "e.engine", **more)


def test_both_engines_are_built_with_manifest_and_log(engines: tuple[EngineResult, ...], tiny_onnx: Path) -> None:
    import tensorrt_rtx_bindings as trt

    for name, result in zip(NAMES, engines, strict=True):
        data = result.engine_path.read_bytes()
        assert (result.engine_path.name, result.num_bytes) == (f"{name}.engine", len(data))
        assert result.sha256 == hashlib.sha256(data).hexdigest()
        assert (result.builder, result.version, result.precision) == ("tensorrt_rtx", trt.__version__, "fp32")
        assert result.num_layers > 10
        assert "Engine generation completed in (time)" in result.log_path.read_text()
        manifest = json.loads(result.engine_path.with_name(f"{name}.engine.json").read_text())
        source = hashlib.sha256((tiny_onnx / f"{name}.onnx").read_bytes()).hexdigest()
        assert manifest["inputs"]["onnx"]["sha256"] == source
        assert manifest["outputs"]["engine"]["sha256"] == result.sha256
        assert manifest["settings"]["graph_precision"] == "fp32"
    profile = json.loads(engines[0].engine_path.with_name("pts_voxel_encoder.engine.json").read_text())
    # max_voxels of the tiny model is 48 at inference; 5/16 of it is typical.
    expected = {"min": [1, 32, 11], "opt": [15, 32, 11], "max": [48, 32, 11]}
    assert profile["settings"]["profiles"] == {"input_features": expected}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_equal_bytes_from_another_process_folder_and_environment(
    tiny_onnx: Path, tmp_path: Path, precision: str
) -> None:
    digests = []
    for folder, seed in (("a", "1"), ("a_much_longer_folder_name", "2")):
        source = tmp_path / folder / "onnx"
        source.mkdir(parents=True)
        for name in NAMES:
            onnx.save(convert_precision(onnx.load(tiny_onnx / f"{name}.onnx"), precision), source / f"{name}.onnx")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": seed, "PADDING": seed * 3000}
        arguments = ["--onnx-dir", str(source), "--out", "out", "--builder", "tensorrt_rtx", "--log-level", "ERROR"]
        command = [sys.executable, "-m", "export.tools.build_engines", *arguments]
        subprocess.run(command, cwd=tmp_path / folder, env=environment, check=True)
        out = tmp_path / folder / "out"
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir())})
    assert len(digests[0]) == 7
    assert digests[0] == digests[1]


def test_a_second_build_of_one_process_equals_the_first(
    builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path
) -> None:
    """TensorRT alone would not do this: see `export.engine.worker`."""
    first, second = (builder.build(_request(tiny_onnx / BACKBONE, tmp_path / name)).sha256 for name in "ab")
    assert first == second


def test_fp16_graph_under_fp16_policy(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    onnx.save(convert_precision(onnx.load(tiny_onnx / BACKBONE), "fp16"), tmp_path / "half.onnx")
    result = builder.build(_request(tmp_path / "half.onnx", tmp_path, precision_policy="fp16"))
    assert result.precision == "fp16"
    full = builder.build(_request(tiny_onnx / BACKBONE, tmp_path / "full", precision_policy="fp32_tf32"))
    # Half as many bytes for the weights.
    assert result.num_bytes < full.num_bytes


def test_fp16_policy_on_an_fp32_graph_explains(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match=r"'fp16' contradicts .*graph is fp32: TensorRT-RTX .*--precision fp16"):
        builder.build(_request(tiny_onnx / BACKBONE, tmp_path, precision_policy="fp16"))


def test_a_profile_for_another_grid_names_both(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    profiles = {"spatial_features": ShapeProfile.fixed((1, 32, 760, 760))}
    message = (
        r"'spatial_features' has min shape \[1, 32, 760, 760\], but 'pts_backbone_neck_head.onnx' has "
        r"\[1, 32, 32, 32\]: axis 2 is 760 there and 32 here"
    )
    with pytest.raises(EngineBuildError, match=message):
        builder.build(_request(tiny_onnx / BACKBONE, tmp_path, profiles=profiles))


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ({}, r"has shape \[any, 32, 11\] with a dynamic axis and needs a profile"),
        ({"input_features": ShapeProfile.fixed((9, 32, 10))}, "axis 2 is 10 there and 11 here"),
        ({"input_features": ShapeProfile.fixed((9, 20, 11))}, "axis 1 is 20 there and 32 here"),
        ({"input_features": ShapeProfile.fixed((9, 32))}, r"of rank 2, but 'a.onnx' has \[any, 32, 11\] of rank 3"),
        ({"voxels": ShapeProfile.fixed((9,))}, r"\['voxels'\], but the inputs of 'a.onnx' are \['input_features'\]"),
    ],
)
def test_profiles_are_held_against_the_graph(profiles: dict[str, ShapeProfile], message: str) -> None:
    with pytest.raises(EngineBuildError, match=message):
        check_profiles({"input_features": (None, 32, 11)}, profiles, "a.onnx")


def test_profiles_must_be_ordered() -> None:
    with pytest.raises(EngineBuildError, match="every axis must have 1 <= min <= opt <= max"):
        ShapeProfile((10,), (5,), (20,))
    with pytest.raises(EngineBuildError, match="every axis must have"):
        ShapeProfile((0,), (5,), (20,))
    with pytest.raises(EngineBuildError, match="differ in rank"):
        ShapeProfile((1,), (5, 5), (20,))


def test_default_profiles_cover_every_input_up_to_max_voxels(tiny: tuple[Any, ModelSpec]) -> None:
    spec = dataclasses.replace(tiny[1], max_voxels=64000)
    profiles = default_profiles(spec)
    assert profiles["input_features"] == ShapeProfile((1, 32, 11), (20000, 32, 11), (64000, 32, 11))
    assert profiles["spatial_features"] == ShapeProfile.fixed((1, 32, 32, 32))
    assert default_profiles(spec, 500)["input_features"] == ShapeProfile.fixed((500, 32, 11))


def test_a_truncated_file_is_an_error(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes((tiny_onnx / BACKBONE).read_bytes()[:-200])
    with pytest.raises(EngineBuildError, match=r"cut.onnx' is not a whole ONNX file"):
        builder.build(_request(tmp_path / "cut.onnx", tmp_path))
    assert not (tmp_path / "e.engine").exists()


def test_a_corrupted_graph_names_the_node(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_onnx / BACKBONE)
    model.graph.node[4].op_type = "Convolute"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(EngineBuildError, match=r"graph of 'bad.onnx' is invalid: (.|\n)*Convolute"):
        builder.build(_request(tmp_path / "bad.onnx", tmp_path))


def test_an_operator_that_the_parser_refuses_is_shown_with_its_node(builder: EngineBuilder, tmp_path: Path) -> None:
    """Valid ONNX that no TensorRT can build: a matrix determinant."""
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"], "/head/Det")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(1, np.float32), "unused")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "det.onnx"
    )
    with pytest.raises(EngineBuildError, match=r"cannot parse '.*det.onnx': .*node '/head/Det' \(Det\)"):
        builder.build(_request(tmp_path / "det.onnx", tmp_path))


def test_compute_capabilities(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    result = builder.build(_request(tiny_onnx / BACKBONE, tmp_path, compute_capabilities=("8.6", "8.9")))
    assert result.num_bytes > 0
    with pytest.raises(EngineBuildError, match=r"does not build for compute capability 9.0; it knows 7.5, 8.0, 8.6"):
        builder.build(_request(tiny_onnx / BACKBONE, tmp_path, compute_capabilities=("9.0",)))


def test_a_timing_cache_is_noted_as_unused(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    result = builder.build(_request(tiny_onnx / BACKBONE, tmp_path, timing_cache=tmp_path / "t.cache"))
    assert "has no timing cache" in result.log_path.read_text()
    assert not (tmp_path / "t.cache").exists()


def test_unknown_names() -> None:
    with pytest.raises(
        EngineBuildError, match="no engine builder 'tensorflow'; known are auto, tensorrt_rtx, tensorrt"
    ):
        open_engine_builder("tensorflow")
    with pytest.raises(EngineBuildError, match="precision_policy is 'fp8'; it is one of auto, fp16"):
        EngineRequest(Path("a"), Path("b"), precision_policy="fp8")
    with pytest.raises(EngineBuildError, match="max_workspace_size is 12 bytes"):
        EngineRequest(Path("a"), Path("b"), workspace_bytes=12)
    with pytest.raises(EngineBuildError, match="optimization_level is 7; it is 0 to 5"):
        EngineRequest(Path("a"), Path("b"), optimization_level=7)


def test_the_request_survives_json() -> None:
    request = EngineRequest(
        Path("a.onnx"),
        Path("b.engine"),
        {"x": ShapeProfile.fixed((1, 2))},
        timing_cache=Path("t"),
        compute_capabilities=("8.9",),
        optimization_level=2,
    )
    assert EngineRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_a_missing_file_or_folder_is_found_before_any_build(tiny_onnx: Path, tmp_path: Path) -> None:
    class Never:
        name = "never"
        version = "0"

        def build(self, request: EngineRequest) -> EngineResult:
            raise AssertionError("built before everything was checked")

    pipeline = CenterPointTensorRTExportPipeline(builder=Never())
    with pytest.raises(EngineBuildError, match=r"ONNX folder .*nowhere' does not exist"):
        pipeline.run(tmp_path / "nowhere", tmp_path)
    (tmp_path / "pts_voxel_encoder.onnx").write_bytes((tiny_onnx / "pts_voxel_encoder.onnx").read_bytes())
    with pytest.raises(EngineBuildError, match=r"pts_backbone_neck_head.onnx' does not exist. Export it first"):
        pipeline.run(tmp_path, tmp_path / "out")
    typo = EngineSettings(profiles={"input_feature": ShapeProfile.fixed((1, 32, 11))})
    with pytest.raises(EngineBuildError, match=r"Profiles name \['input_feature'\], but the inputs of the ONNX files"):
        CenterPointTensorRTExportPipeline(typo, Never()).run(tiny_onnx, tmp_path / "out")


def test_an_engine_that_cannot_be_written(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    request = _request(tiny_onnx / BACKBONE, tmp_path / "file", log_path=tmp_path / "log")
    with pytest.raises(EngineBuildError, match=r"Cannot write '.*e.engine' \(\d+\.\d MB\)"):
        builder.build(request)


def test_a_build_killed_in_the_middle_leaves_no_engine(builder: EngineBuilder, tiny_onnx: Path, tmp_path: Path) -> None:
    """The builder's process is killed; the message says so, and nothing is left that looks like an engine."""
    failures: list[Exception] = []

    def build() -> None:
        try:
            builder.build(_request(tiny_onnx / BACKBONE, tmp_path))
        except EngineBuildError as error:
            failures.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    deadline = time.monotonic() + 30
    children: list[int] = []
    while not children and time.monotonic() < deadline:
        children = _workers()
    for child in children:
        os.kill(child, signal.SIGKILL)
    thread.join()
    assert "died of SIGKILL while it built" in str(failures[0])
    assert not (tmp_path / "e.engine").exists()


def _workers() -> list[int]:
    """Children of this process that run the engine worker."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    children = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
    return [pid for pid in children if b"export.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_int8_engines_keep_codes(tiny_int8_onnx: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    """Weights as codes: what the builder stores for the quantized network is a quarter of FP32, and the scales."""

    def weights(folder: Path, policy: str, out: str) -> tuple[EngineResult, EngineResult, int]:
        settings = EngineSettings(builder="tensorrt_rtx", precision_policy=policy, workspace_bytes=1 << 28)
        encoder, backbone = CenterPointTensorRTExportPipeline(settings).run(folder, tmp_path / out)
        (line,) = [line for line in backbone.log_path.read_text().splitlines() if "Total Weights Memory" in line]
        return encoder, backbone, int(line.split(":")[1].split()[0])

    encoder, backbone, int8 = weights(tiny_int8_onnx, "int8", "int8")
    # The voxel encoder is no quantized graph; under this policy it is built as it is.
    assert (encoder.precision, backbone.precision) == ("fp16", "int8")
    # Every layer but the heads' six last ones has codes for weights, as TensorRT's parser sees them.
    (parsed,) = [line for line in backbone.log_path.read_text().splitlines() if "parsed network:" in line]
    assert re.search(r"\b6 CAST FLOAT\b", parsed)
    constants = re.search(r"(\d+) CONSTANT INT8", parsed)
    assert constants is not None
    codes = int(constants[1])
    assert codes == sum(map(int, re.findall(r"(\d+) (?:CONVOLUTION|DECONVOLUTION) ", parsed))) - 6
    assert int8 < 0.4 * weights(tiny_onnx, "auto", "fp32")[2]
    again = CenterPointTensorRTExportPipeline(
        EngineSettings(builder="tensorrt_rtx", precision_policy="int8", workspace_bytes=1 << 28)
    ).run(tiny_int8_onnx, tmp_path / "again")
    assert [item.sha256 for item in again] == [encoder.sha256, backbone.sha256]
    manifest = json.loads((tmp_path / "int8" / "pts_backbone_neck_head.engine.json").read_text())
    assert (manifest["settings"]["graph_precision"], manifest["settings"]["precision_policy"]) == ("int8", "int8")


def test_the_int8_policy_wants_a_quantized_graph(tiny_onnx: Path, tmp_path: Path) -> None:
    settings = EngineSettings(builder="tensorrt_rtx", precision_policy="int8")
    with pytest.raises(EngineBuildError, match="none of which is quantized"):
        CenterPointTensorRTExportPipeline(settings).run(tiny_onnx, tmp_path)
