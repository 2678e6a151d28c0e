"""Readers of what is deployed and measured: ONNX files, engines, bundles, manifests, detections, results, scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import samples, samples_datasets
from tests.faults.commands import call
from tests.faults.mutate_bytes import Mutation, mutate_bytes
from tests.faults.mutate_documents import json_mutation, yaml_mutation
from tests.faults.mutate_onnx import onnx_mutation
from tests.faults.mutate_tables import gzip_mutation, lines_mutation
from tests.faults.trial import Parser

__all__ = ["PARSERS"]

Reader = Callable[[Path], object]
_ENCODER, _HEAD = "pts_voxel_encoder", "pts_backbone_neck_head"
_ONNX, _ENGINE = f"work/onnx/{_HEAD}.onnx", f"work/tensorrt/{_HEAD}.engine"


def _spec() -> Any:
    import dataclasses

    from models.config import load_model_config
    from models.spec import ModelSpec

    return dataclasses.replace(
        ModelSpec.from_config(load_model_config(samples.MODEL_CONFIG)), rot_y_axis_reference=True
    )


def _onnx_folder() -> Reader:
    from export.existing import check_onnx_dir

    spec = _spec()
    return lambda folder: check_onnx_dir(folder / "work" / "onnx", spec, folder / "checkpoint.pth", "onnx_path")


def _engine_folder() -> Reader:
    from export.existing import check_engine_dir

    spec = _spec()
    return lambda folder: check_engine_dir(folder / "work" / "tensorrt", spec, folder / "work" / "onnx", "tensorrt")


def _inspect(path: str) -> Callable[[], Reader]:
    def prepare() -> Reader:
        from deploy.inspect import main

        return lambda folder: call(main, folder / path)

    return prepare


def _onnxruntime() -> Reader:
    from runtime.backends import open_backend
    from runtime.pipeline import Pipeline

    spec = _spec()

    def read(folder: Path) -> object:
        with open_backend("onnx", spec=spec, onnx_dir=folder / "work" / "onnx", device="cpu", threads=1) as backend:
            return Pipeline(spec, backend)(samples_datasets.cloud(1))

    return read


def _cuda_plan() -> Reader:
    from runtime.cuda_engine.from_onnx import plan_from_onnx
    from tests.runtime.qdq_graphs import graph_spec

    spec = graph_spec()
    return lambda folder: plan_from_onnx(folder / "graph.onnx", spec)


def _cuda_pillars() -> Reader:
    from runtime.pillar_weights import PillarWeights

    return lambda folder: PillarWeights.from_onnx(folder / "work" / "onnx" / f"{_ENCODER}.onnx")


def _every_tensor() -> Reader:
    from eval.divergence.onnx_graph import OnnxGraph

    return lambda folder: OnnxGraph(folder / _ONNX)


def _detected() -> Reader:
    from autoware.thresholds import measure_thresholds, require_same_model

    spec = _spec()

    def read(folder: Path) -> object:
        require_same_model(folder / "detected", {"weights": "", "precision": "fp32"})
        return measure_thresholds(folder / "detected", spec)

    return read


def _bundle() -> Reader:
    from deploy.autoware_bundle import main

    return lambda folder: call(main, "--check", folder / "bundle", refusing=(1, 2))


def _decode_of_bundle() -> Reader:
    from autoware.reading import decode_params_of_bundle

    spec = _spec()
    return lambda folder: decode_params_of_bundle(folder / "bundle", spec)


def _compare() -> Reader:
    from eval.compare import main

    def read(folder: Path) -> object:
        results = folder / "work" / "results.json"
        return call(main, results, results, "--resamples", "0", passing=(0, 1))

    return read


def _thresholds() -> Reader:
    from autoware.thresholds import detections_of_results, measure_thresholds

    spec = _spec()

    def read(folder: Path) -> object:
        return measure_thresholds(detections_of_results(folder / "work" / "results.json", "onnx fp32 (cpu)"), spec)

    return read


def _frames(*arguments: str) -> Callable[[], Reader]:
    """What `eval.score` reads, without the scores."""

    def prepare() -> Reader:
        from eval.score_frames import FrameFile

        def read(folder: Path) -> object:
            files = FrameFile(*(Path(argument.format(folder)) for argument in arguments[1::2]))
            return files.configs(), sum(1 for _ in files.chunks(100))

        return read

    return prepare


def _score(*arguments: str) -> Callable[[], Reader]:
    def prepare() -> Reader:
        from eval.score import main

        def read(folder: Path) -> object:
            return call(main, "--out", folder / "scores.json", *(argument.format(folder) for argument in arguments))

        return read

    return prepare


def _profiles() -> Reader:
    from export.tools.build_engines import main

    def read(folder: Path) -> object:
        from tests.faults.trial import Refusal

        try:
            return call(
                main, "--onnx-dir", folder / "none", "--out", folder / "out", "--profiles", folder / "profiles.json"
            )
        except Refusal as refusal:
            if "none" in str(refusal) and "profiles.json" not in str(refusal):
                return "the profiles were read"
            raise

    return read


_BUNDLED = "bundle/ml_package.param.yaml"
_SCORED: tuple[tuple[str, str, Mutation, tuple[str, ...]], ...] = (
    # Name, file, mutation, options of the command.
    ("JSON", "frames.json", json_mutation(), ("--frames", "{}/frames.json")),
    ("configurations", "configured.json", json_mutation(), ("--frames", "{}/configured.json")),
    ("JSON Lines", "frames.jsonl", lines_mutation, ("--frames", "{}/frames.jsonl")),
    ("gzip", "frames.jsonl.gz", gzip_mutation(lines_mutation), ("--frames", "{}/frames.jsonl.gz")),
    (
        "detections apart",
        "detections.jsonl",
        lines_mutation,
        ("--frames", "{}/frames.jsonl", "--detections", "{}/detections.jsonl"),
    ),
)
PARSERS: tuple[Parser, ...] = (
    Parser("ONNX file, inspected", samples.deployment, _ONNX, onnx_mutation, _inspect(_ONNX), 0.2),
    Parser("ONNX file, checked", samples.deployment, _ONNX, onnx_mutation, _onnx_folder, 0.2),
    Parser("ONNX file, run", samples.deployment, f"work/onnx/{_ENCODER}.onnx", onnx_mutation, _onnxruntime, 0.1),
    Parser(
        "ONNX file, planned for the GPU engine", samples.quantized_graph, "graph.onnx", onnx_mutation, _cuda_plan, 0.2
    ),
    Parser(
        "ONNX file, its pillars for the GPU engine",
        samples.deployment,
        f"work/onnx/{_ENCODER}.onnx",
        onnx_mutation,
        _cuda_pillars,
        0.1,
    ),
    Parser("ONNX file, searched for divergence", samples.deployment, _ONNX, onnx_mutation, _every_tensor, 0.1),
    Parser("ONNX file, of a bundle", samples.bundle, f"bundle/{_HEAD}.onnx", onnx_mutation, _bundle, 0.1),
    Parser("bundle, parameters", samples.bundle, _BUNDLED, yaml_mutation, _bundle, 0.4),
    Parser(
        "bundle, remapping", samples.bundle, "bundle/detection_class_remapper.param.yaml", yaml_mutation, _bundle, 0.2
    ),
    Parser("bundle, decode", samples.bundle, _BUNDLED, yaml_mutation, _decode_of_bundle, 0.4),
    Parser("engine, of a folder", samples.deployment, _ENGINE, mutate_bytes, _engine_folder, 0.5),
    Parser("engine, inspected", samples.deployment, _ENGINE, mutate_bytes, _inspect(_ENGINE), 0.5),
    Parser("manifest, of an engine", samples.deployment, f"{_ENGINE}.json", json_mutation(), _engine_folder, 0.4),
    Parser("manifest, inspected", samples.deployment, f"{_ENGINE}.json", json_mutation(), _inspect(_ENGINE), 0.2),
    Parser("manifest, of detections", samples.detected, "detected/manifest.json", json_mutation(), _detected, 0.4),
    Parser("results, compared", samples.measured, "work/results.json", json_mutation(), _compare, 0.8),
    Parser("results, their detections", samples.measured, "work/results.json", json_mutation(), _thresholds, 0.2),
    Parser("detections", samples.measured, "work/detections/onnx.jsonl", lines_mutation, _thresholds),
    *(
        Parser(f"frames to score, {name}", samples.score_frames, file, mutation, _frames(*options), 0.35)
        for name, file, mutation, options in _SCORED
    ),
    *(
        Parser(f"frames to score, {name}, as a command", samples.score_frames, file, mutation, _score(*options), 0.05)
        for name, file, mutation, options in _SCORED
    ),
    Parser("shape profiles", samples.profiles, "profiles.json", json_mutation(), _profiles),
)
