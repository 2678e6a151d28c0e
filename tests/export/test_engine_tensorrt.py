"""The data-centre library's code path, on a recording stand-in for versions 10 and 11."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from base.errors import BackendUnavailable, EngineBuildError, MissingDependencyError
from export.engine.dialects import TENSORRT
from export.engine.network import build_engine, traits_of
from export.engine.policy import plan_precision
from export.engine.request import EngineRequest, ShapeProfile
from export.engine.selection import open_engine_builder


def _load_fake() -> ModuleType:
    name = "fake_tensorrt"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("fake_tensorrt.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAKE = _load_fake()
STRONGLY_TYPED = 1 << 1


@pytest.fixture
def request_for(tiny_onnx: Path, tmp_path: Path) -> Callable[..., EngineRequest]:
    def make(**more: Any) -> EngineRequest:
        onnx_path = tmp_path / "pts_voxel_encoder.onnx"
        onnx_path.write_bytes((tiny_onnx / "pts_voxel_encoder.onnx").read_bytes())
        profiles = {"input_features": ShapeProfile((1, 32, 11), (15, 32, 11), (48, 32, 11))}
        return EngineRequest(onnx_path, tmp_path / "out" / "e.engine", profiles=profiles, **more)

    return make


@pytest.mark.parametrize("version", ["10.3.0", "10.13.0.35", "11.0.0"])
@pytest.mark.parametrize(
    ("policy", "precision", "flags"),
    [
        ("auto", "fp32", []),
        ("auto", "int8", []),
        ("strongly_typed", "fp16", []),
        ("fp16", "fp16", []),
        ("fp16", "mixed", []),
        ("int8", "int8", []),
        ("fp32_tf32", "fp32", ["TF32"]),
    ],
)
def test_policies_that_agree_with_the_graph_are_strongly_typed(
    request_for: Callable[..., EngineRequest], version: str, policy: str, precision: str, flags: list[str]
) -> None:
    trt = FAKE.make_tensorrt(version)
    result = build_engine(trt, TENSORRT, request_for(precision_policy=policy, workspace_bytes=1 << 25), precision)
    assert ("network", STRONGLY_TYPED) in trt.calls
    assert [call[1] for call in trt.calls if call[0] == "flag"] == flags
    assert ("workspace", 1 << 25) in trt.calls
    assert ("profile", "input_features", (1, 32, 11), (15, 32, 11), (48, 32, 11)) in trt.calls
    assert result.engine_path.read_bytes() == b"engine"
    assert (result.builder, result.version, result.precision) == ("tensorrt", version, precision)


def test_tensorrt_10_alone_can_be_told_to_run_an_fp32_graph_in_fp16(request_for: Callable[..., EngineRequest]) -> None:
    trt = FAKE.make_tensorrt("10.8.0")
    build_engine(trt, TENSORRT, request_for(precision_policy="fp16"), "fp32")
    assert ("network", 0) in trt.calls
    assert ("flag", "FP16") in trt.calls
    with pytest.raises(EngineBuildError, match=r"'fp16' contradicts .*whose graph is fp32: TensorRT 11.0.0 builds"):
        build_engine(FAKE.make_tensorrt("11.0.0"), TENSORRT, request_for(precision_policy="fp16"), "fp32")


@pytest.mark.parametrize(
    ("policy", "precision", "advice"),
    [
        ("fp16", "int8", "Use precision_policy 'int8' or 'auto'"),
        ("fp32_tf32", "fp16", "Export the ONNX files in FP32, or use precision_policy 'fp16'"),
        ("fp32_tf32", "mixed", "precision_policy 'auto'"),
        ("int8", "fp32", "Quantize the model first"),
        ("int8", "fp16", "Quantize the model first"),
    ],
)
@pytest.mark.parametrize("version", ["10.8.0", "11.0.0"])
def test_policies_that_contradict_the_graph_are_errors(
    request_for: Callable[..., EngineRequest], version: str, policy: str, precision: str, advice: str
) -> None:
    request = request_for(precision_policy=policy)
    with pytest.raises(EngineBuildError, match=f"'{policy}' contradicts 'pts_voxel_encoder.onnx'.*{advice}"):
        build_engine(FAKE.make_tensorrt(version), TENSORRT, request, precision)
    assert not request.engine_path.exists()


def test_a_switch_that_the_library_lost_is_an_error() -> None:
    trt = FAKE.make_tensorrt("11.0.0")
    trt.BuilderFlag = type("BuilderFlag", (), {})
    with pytest.raises(EngineBuildError, match=r"TensorRT 11.0.0 has no TF32 switch"):
        plan_precision("fp32_tf32", "fp32", traits_of(trt, TENSORRT), "a.onnx")


def test_old_versions_are_refused() -> None:
    with pytest.raises(EngineBuildError, match=r"TensorRT 8.6.1 is installed; 10.0 or newer is needed"):
        traits_of(FAKE.make_tensorrt("8.6.1"), TENSORRT)


def test_the_timing_cache_is_read_and_extended(request_for: Callable[..., EngineRequest], tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "timing.cache"
    request = request_for(timing_cache=cache)
    for expected in (b"+measured", b"+measured+measured"):
        build_engine(FAKE.make_tensorrt("10.8.0"), TENSORRT, request, "fp32")
        assert cache.read_bytes() == expected
    cache.write_bytes(b"broken")
    with pytest.raises(
        EngineBuildError, match=r"Timing cache '.*timing.cache' is broken or of another TensorRT version"
    ):
        build_engine(FAKE.make_tensorrt("10.8.0"), TENSORRT, request, "fp32")


def test_parser_errors_show_node_names(request_for: Callable[..., EngineRequest]) -> None:
    errors = (
        FAKE.FakeParserError("No importer registered for op: Foo", "/pfn/Foo", "Foo"),
        FAKE.FakeParserError("Assertion failed", "", ""),
    )
    trt = FAKE.make_tensorrt("10.8.0", parse_errors=errors)
    message = r"cannot parse .*node '/pfn/Foo' \(Foo\): No importer registered for op: Foo; Assertion failed"
    with pytest.raises(EngineBuildError, match=message):
        build_engine(trt, TENSORRT, request_for(), "fp32")


def test_a_failed_build_shows_the_last_error_and_keeps_the_log(request_for: Callable[..., EngineRequest]) -> None:
    request = request_for()
    with pytest.raises(EngineBuildError, match=r"built no engine .*Could not find any implementation for node /conv"):
        build_engine(FAKE.make_tensorrt("10.8.0", fails="build"), TENSORRT, request, "fp32")
    assert "ERROR   Could not find any implementation" in request.log_file.read_text()
    assert not request.engine_path.exists()


def test_a_refused_profile(request_for: Callable[..., EngineRequest]) -> None:
    with pytest.raises(EngineBuildError, match="The builder refuses the profile"):
        build_engine(FAKE.make_tensorrt("10.8.0", fails="profile"), TENSORRT, request_for(), "fp32")


def test_durations_are_left_out_of_the_log(request_for: Callable[..., EngineRequest]) -> None:
    request = request_for()
    build_engine(FAKE.make_tensorrt("10.8.0"), TENSORRT, request, "fp32")
    assert "Engine generation completed in (time)." in request.log_file.read_text()


def test_without_a_gpu_the_builder_is_unavailable(request_for: Callable[..., EngineRequest]) -> None:
    with pytest.raises(
        BackendUnavailable, match=r"TensorRT 10.8.0 cannot start a builder: CUDA initialization.*needs a GPU"
    ):
        build_engine(FAKE.make_tensorrt("10.8.0", gpu=False), TENSORRT, request_for(), "fp32")


def test_compute_capabilities_are_not_tensorrt_s_to_choose(request_for: Callable[..., EngineRequest]) -> None:
    with pytest.raises(EngineBuildError, match=r"builds for the GPU of this machine alone.*\['8.6'\]"):
        build_engine(FAKE.make_tensorrt("10.8.0"), TENSORRT, request_for(compute_capabilities=("8.6",)), "fp32")


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        MissingDependencyError, match=r"'tensorrt' is needed to build engines with TensorRT.*Get it with"
    ):
        open_engine_builder("tensorrt")


def test_auto_takes_tensorrt_only_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from export.engine import selection

    monkeypatch.setitem(sys.modules, "tensorrt", FAKE.make_tensorrt("10.8.0"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(selection, "_has_gpu", lambda: True)
    assert open_engine_builder("auto").name == "tensorrt"
    monkeypatch.setattr(selection, "_has_gpu", lambda: False)
    assert open_engine_builder("auto").name == "tensorrt_rtx"


def test_an_fp16_graph_gives_the_same_plan_on_every_version() -> None:
    plans = {
        plan_precision("fp16", "fp16", traits_of(FAKE.make_tensorrt(version), TENSORRT), "a.onnx")
        for version in ("10.0.0", "10.13.0", "11.2.0")
    }
    assert len(plans) == 1
