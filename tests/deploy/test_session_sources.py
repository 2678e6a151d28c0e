"""What a run opens its detectors with."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, cast

import pytest

import deploy.detectors
import runtime.opening
from base.errors import BackendUnavailable, ConfigError, MissingDependencyError
from deploy.config.names import ONNX_BACKENDS
from deploy.detectors import DetectorFiles, Network, cannot_run_here, open_checked_detector
from deploy.plan import RunPlan
from deploy.session import Session


class OpenedDetector:
    """A detector that only can be closed."""

    closed = False

    def __enter__(self) -> OpenedDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Opener:
    """Stands in for `runtime.open_detector`: keeps what it is given, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.opened = OpenedDetector()
        self.failure = failure
        monkeypatch.setattr(runtime.opening, "open_detector", self)
        monkeypatch.setattr(deploy.detectors, "check_engine_dir", lambda *_: "fp16")
        monkeypatch.setattr(deploy.detectors, "check_onnx_dir", lambda *_: "int8")

    def __call__(self, name: str, **options: Any) -> OpenedDetector:
        self.calls.append({"name": name, **options})
        if self.failure is not None:
            raise self.failure
        return self.opened


def session_on(folder: Path) -> Session:
    plan = types.SimpleNamespace(
        mode="both", export_spec="exported", spec="trained", onnx_dir=folder, engine_dir=folder, builds_engines=True,
        exports_onnx=True, checkpoint=None,
        config=types.SimpleNamespace(runtime_io=types.SimpleNamespace(max_points=1234)),
    )  # fmt: skip
    return Session(cast(RunPlan, plan))


@pytest.mark.parametrize("as_exported", [False, True])
def test_tensorrt_is_verified_and_scored_from_pillars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_exported: bool
) -> None:
    """With the encoder's ONNX file kernels of ours would compute the features, and one engine would not be scored."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    (folder / "pts_voxel_encoder.onnx").write_bytes(b"any")
    opener = Opener(monkeypatch)
    with session_on(folder).detector("tensorrt", "cuda:0", as_exported=as_exported) as (detector, precision):
        opened: object = opener.opened
        assert detector is opened
        assert precision == "fp16"
    (options,) = opener.calls
    assert options["engine_dir"] == folder
    assert options["spec"] == "exported"
    assert "encoder_onnx" not in options
    assert opener.opened.closed


def test_what_is_verified_is_what_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda` opens alike in both steps: as the graph that ships."""
    opener = Opener(monkeypatch)
    for as_exported in (False, True):
        with session_on(tmp_path).detector("cuda", "cuda:0", as_exported=as_exported) as (_, precision):
            assert precision == "int8"
    first, second = opener.calls
    assert first == second
    assert first["onnx_dir"] == tmp_path
    assert first["capacity"] == 1234


def test_files_that_were_not_made_make_a_step_unavailable(tmp_path: Path) -> None:
    session = session_on(tmp_path)
    session.plan.exports_onnx = False  # type: ignore[misc]
    session.plan.onnx_dir = tmp_path / "none"  # type: ignore[misc]
    opened = session.detector("onnx", "cpu", as_exported=True)
    with pytest.raises(BackendUnavailable, match=r"makes no ONNX files, and no current ones are in .*none"), opened:
        pass


@pytest.mark.parametrize("backend", ["pytorch", "onnx", "openvino", "tensorrt", "cuda"])
def test_a_missing_package_of_the_gpu_is_a_machine_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """One reason, whoever asks: a run reports it as SKIPPED, a command for one backend ends with it."""
    import models.components

    monkeypatch.setattr(models.components, "extract_components", lambda model, spec: {})
    Opener(monkeypatch, MissingDependencyError("'cuda-bindings' is needed to run on a GPU"))
    files = DetectorFiles(Network(cast(Any, None)), tmp_path, tmp_path)
    with pytest.raises(BackendUnavailable, match="'cuda-bindings' is needed") as caught:
        open_checked_detector(backend, files, spec=cast(Any, "spec"), device="cuda:0")
    ended = cannot_run_here(backend, caught.value)
    assert str(ended) == f"--backend={backend} cannot run here: 'cuda-bindings' is needed to run on a GPU"
    # What the CPU needs is not a matter of this machine, but of this installation.
    with pytest.raises(MissingDependencyError):
        open_checked_detector(backend, files, spec=cast(Any, "spec"), device="cpu")


def test_a_backend_without_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Opener(monkeypatch)
    wanted = {"pytorch": "a model", "tensorrt": "--engine-dir"} | dict.fromkeys(ONNX_BACKENDS, "--onnx-dir")
    for backend, what in wanted.items():
        with pytest.raises(ConfigError, match=f"Backend '{backend}' needs {what}, which was not given"):
            open_checked_detector(backend, DetectorFiles(), spec=cast(Any, "spec"), device="cuda:0")
    with pytest.raises(ConfigError, match="'tensorrt' needs --onnx-dir"):
        open_checked_detector(
            "tensorrt", DetectorFiles(engine_dir=tmp_path, from_points=True), spec=cast(Any, "spec"), device="cuda:0"
        )


def test_tensorrt_from_points_takes_the_encoders_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener(monkeypatch)
    files = DetectorFiles(onnx_dir=tmp_path / "onnx", engine_dir=tmp_path, from_points=True)
    open_checked_detector("tensorrt", files, spec=cast(Any, "spec"), device="cuda:0", threads=3)
    (options,) = opener.calls
    assert options["encoder_onnx"] == tmp_path / "onnx" / "pts_voxel_encoder.onnx"
    assert "threads" not in options
    open_checked_detector("onnx", files, spec=cast(Any, "spec"), device="cpu", threads=3)
    assert opener.calls[1]["threads"] == 3
