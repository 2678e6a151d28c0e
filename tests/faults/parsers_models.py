"""Readers of models: checkpoints, calibration caches, configs by their values, sensitivity profiles."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.faults import samples
from tests.faults.commands import call
from tests.faults.mutate_checkpoints import checkpoint_mutation
from tests.faults.mutate_documents import json_mutation, literals_mutation, mutate_tree, to_json, yaml_mutation
from tests.faults.trial import Parser, Refusal

__all__ = ["PARSERS"]

Reader = Callable[[Path], object]


def _model() -> Any:
    import torch

    from models.build import build_model
    from models.config import load_model_config

    torch.set_num_threads(1)
    return build_model(load_model_config(samples.MODEL_CONFIG))


def _checkpoint() -> Reader:
    from models.build import load_checkpoint

    model = _model()
    return lambda folder: load_checkpoint(model, folder / "checkpoint.pth")


def _quantized() -> Reader:
    import copy

    from quant import load_ptq_model

    model = _model().eval()
    return lambda folder: load_ptq_model(copy.deepcopy(model), folder / "quantized" / "checkpoint.pth")


def _structure() -> Reader:
    from quant.structure import QuantizationStructure

    def read(folder: Path) -> object:
        return QuantizationStructure.from_json(
            (folder / "structure.json").read_text("utf-8", "replace"), "structure.json"
        )

    return read


def _structure_mutation(data: bytes, rng: Random) -> bytes:
    """The checkpoint's JSON text that says what is quantized how."""
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    content["quantization"] = to_json(mutate_tree(json.loads(content["quantization"]), rng))
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _cache() -> Reader:
    manager = samples.quantized_manager()
    return lambda folder: manager.load_calib_cache(folder / "calibration.json")


def _signed(tree: Any) -> Any:
    """The cache's own checksum over a changed content, so that the content is read at all."""
    if isinstance(tree, dict) and "sha256" in tree:
        try:
            content = {key: value for key, value in tree.items() if key != "sha256"}
            text = json.dumps(json.loads(to_json(content)), sort_keys=True, ensure_ascii=False)
            return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        except (ValueError, RecursionError):
            return tree
    return tree


def _model_config() -> Reader:
    from models.config import load_model_config
    from models.spec import ModelSpec

    return lambda folder: ModelSpec.from_config(load_model_config(folder / "model_config.py"))


def _model_values() -> Reader:
    """The config's values without the program that gives them, which takes ten times as long."""
    import runpy

    from mmengine.config import Config

    from models.spec import ModelSpec

    def read(folder: Path) -> object:
        file = str(folder / "model_config.py")
        values = {key: value for key, value in runpy.run_path(file).items() if not key.startswith("__")}
        if not isinstance(values.get("model"), dict):
            raise Refusal(f"{file} has no model")  # as `load_model_config` would
        return ModelSpec.from_config(Config(values, filename=file))

    return read


def _built_model() -> Reader:
    from models.build import build_model
    from models.config import load_model_config
    from models.spec import ModelSpec

    def read(folder: Path) -> object:
        cfg = load_model_config(folder / "model_config.py")
        return ModelSpec.from_config(cfg), build_model(cfg)

    return read


def _spec() -> Reader:
    from models.spec import ModelSpec

    return lambda folder: ModelSpec.from_json((folder / "spec.json").read_text("utf-8", "replace"), "spec.json")


def _profile() -> Reader:
    from quant.sensitivity.profile import SensitivityProfile

    return lambda folder: SensitivityProfile.read_json(folder / "profile.json")


def _times() -> Reader:
    from quant.roofline import read_layer_times

    return lambda folder: read_layer_times(folder / "times.json")


def _curve() -> Reader:
    from base.documents import read_json
    from quant.forms import CurveForm

    return lambda folder: read_json(folder / "curve.json", CurveForm)


def _resume() -> Reader:
    from mmengine.runner.checkpoint import _load_checkpoint

    from training.safe_files import safe_files

    def read(folder: Path) -> object:
        with safe_files(resume=True):
            return _load_checkpoint(str(folder / "epoch_1.pth"), map_location="cpu")

    return read


def _deploy_config(name: str) -> Callable[[], Reader]:
    def prepare() -> Reader:
        from deploy.config import load_deploy_config

        return lambda folder: load_deploy_config(folder / name)

    return prepare


def _search(*arguments: str) -> Callable[[], Reader]:
    def prepare() -> Reader:
        from quant.search import main

        def read(folder: Path) -> object:
            given = [argument.format(folder) for argument in arguments]
            return call(main, "--config", samples.DEMO_CONFIG, "--budget", "0.01", *given, passing=(0, 1))

        return read

    return prepare


_CHECKPOINT = "quantized/checkpoint.pth"
_SENSITIVITY = samples.sensitivity
PARSERS: tuple[Parser, ...] = (
    Parser("checkpoint, float", samples.checkpoints, "checkpoint.pth", checkpoint_mutation, _checkpoint),
    Parser("checkpoint, quantized", samples.checkpoints, _CHECKPOINT, checkpoint_mutation, _quantized, 0.1),
    Parser("checkpoint, to resume from", samples.resumable, "epoch_1.pth", checkpoint_mutation, _resume, 0.2),
    Parser("structure of a quantized model, alone", samples.structure, "structure.json", json_mutation(), _structure),
    Parser(
        "structure of a quantized model, in its checkpoint",
        samples.checkpoints,
        _CHECKPOINT,
        _structure_mutation,
        _quantized,
        0.05,
    ),
    Parser("calibration cache", samples.checkpoints, "calibration.json", json_mutation(_signed), _cache),
    Parser("model config, its values", samples.model_config, "model_config.py", literals_mutation, _model_values),
    Parser("model config, run", samples.model_config, "model_config.py", literals_mutation, _model_config, 0.1),
    Parser("model config, built", samples.model_config, "model_config.py", literals_mutation, _built_model, 0.02),
    *(
        Parser(
            f"deploy config, {name}{suffix}",
            samples.deploy_config,
            f"{name}{suffix}",
            mutation,
            _deploy_config(f"{name}{suffix}"),
            weight,
        )
        for name in ("deploy_config", "deploy_config_int8")
        for suffix, mutation, weight in (
            (".py", literals_mutation, 0.05),
            (".json", json_mutation(), 0.25),
            (".yaml", yaml_mutation, 0.25),
        )
    ),
    Parser("specification in an ONNX file", samples.model_spec, "spec.json", json_mutation(), _spec),
    Parser("curve of a fine-tuning", _SENSITIVITY, "curve.json", json_mutation(), _curve),
    Parser("sensitivity profile, alone", _SENSITIVITY, "profile.json", json_mutation(), _profile),
    Parser(
        "sensitivity profile, searched",
        _SENSITIVITY,
        "profile.json",
        json_mutation(),
        _search("--profile", "{}/profile.json"),
        0.1,
    ),
    Parser("times of layers, alone", _SENSITIVITY, "times.json", json_mutation(), _times),
    Parser(
        "times of layers, searched",
        _SENSITIVITY,
        "times.json",
        json_mutation(),
        _search("--profile", "{}/profile.json", "--layer-times", "{}/times.json"),
        0.05,
    ),
)
