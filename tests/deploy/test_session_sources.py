"""What a run opens the tensorrt backend with: whole clouds only where boxes alone are asked for."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, cast

import pytest

import deploy.session
import runtime.backends
from base.boxes import Boxes3D
from deploy.plan import RunPlan
from deploy.session import Session
from runtime.decoders import TRAINING_DECODER, Decoder


class OpenedBackend:
    """A backend that only can be closed."""

    detects_points = True
    spec = "exported"

    def __enter__(self) -> OpenedBackend:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def options_of(session: Session, *, as_exported: bool, decoder: Decoder = TRAINING_DECODER) -> dict[str, Any]:
    opened: list[dict[str, Any]] = []

    def open_backend(name: str, **options: Any) -> OpenedBackend:
        opened.append({"name": name, **options})
        return OpenedBackend()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime.backends, "open_backend", open_backend)
        patch.setattr(deploy.session, "check_engine_dir", lambda *_: "fp16")
        with session.pipeline("tensorrt", "cuda:0", as_exported=as_exported, decoder=decoder) as (_, precision):
            assert precision == "fp16"
    (options,) = opened
    return options


def test_the_encoders_onnx_file_goes_along_where_boxes_alone_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    plan = types.SimpleNamespace(
        export_spec="exported", spec="trained", onnx_dir=folder, engine_dir=tmp_path, builds_engines=True
    )
    session = Session(cast(RunPlan, plan))
    assert options_of(session, as_exported=False)["encoder_onnx"] is None
    folder.mkdir()
    assert options_of(session, as_exported=False)["encoder_onnx"] is None
    encoder = folder / "pts_voxel_encoder.onnx"
    encoder.write_bytes(b"any")
    options = options_of(session, as_exported=False)
    assert (options["engine_dir"], options["encoder_onnx"]) == (tmp_path, encoder)
    # Verification compares both engines, and another decoder needs the outputs: both start from pillars.
    assert options_of(session, as_exported=True)["encoder_onnx"] is None
    other = Decoder("other", lambda *_: Boxes3D.empty())
    assert options_of(session, as_exported=False, decoder=other)["encoder_onnx"] is None
