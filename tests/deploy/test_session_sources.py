"""What a run opens the tensorrt backend with: its engines alone."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, cast

import pytest

import deploy.session
import runtime.backends
from deploy.plan import RunPlan
from deploy.session import Session


class OpenedBackend:
    """A backend that only can be closed."""

    detects_points = True
    spec = "exported"

    def __enter__(self) -> OpenedBackend:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def options_of(session: Session, *, as_exported: bool) -> dict[str, Any]:
    opened: list[dict[str, Any]] = []

    def open_backend(name: str, **options: Any) -> OpenedBackend:
        opened.append({"name": name, **options})
        return OpenedBackend()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime.backends, "open_backend", open_backend)
        patch.setattr(deploy.session, "check_engine_dir", lambda *_: "fp16")
        with session.pipeline("tensorrt", "cuda:0", as_exported=as_exported) as (_, precision):
            assert precision == "fp16"
    (options,) = opened
    return options


def test_tensorrt_is_scored_from_pillars(tmp_path: Path) -> None:
    """With the encoder's ONNX file kernels of ours would compute the features, and one engine would not be scored."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    (folder / "pts_voxel_encoder.onnx").write_bytes(b"any")
    plan = types.SimpleNamespace(
        export_spec="exported", spec="trained", onnx_dir=folder, engine_dir=tmp_path, builds_engines=True
    )
    session = Session(cast(RunPlan, plan))
    for as_exported in (False, True):
        options = options_of(session, as_exported=as_exported)
        assert options["engine_dir"] == tmp_path
        assert "encoder_onnx" not in options
