"""Checkpoints, deployments, bundles, configs and scores in which everything is right; made once a process."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults import samples_datasets
from tests.faults.mutate_documents import python_text

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_CONFIG = REPOSITORY / "tests" / "data" / "deploy" / "tiny_deployment.py"
DEMO_CONFIG = REPOSITORY / "configs" / "model" / "centerpoint_t4_demo.py"


def copied(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """A sample that takes seconds to make: made once, copied wherever it is asked for."""

    @cache
    def original() -> Path:
        folder = Path(tempfile.mkdtemp(prefix="sample-"))
        make(folder)
        return folder

    def sample(folder: Path) -> None:
        shutil.copytree(original(), folder, dirs_exist_ok=True)

    return sample


@copied
def checkpoints(folder: Path) -> None:
    """A dataset `data`, a float checkpoint, and `quantized` made of both: a checkpoint and its calibration cache."""
    import torch

    from export.tools.calibrate import main
    from models.build import build_model
    from models.config import load_model_config

    torch.set_num_threads(1)
    samples_datasets.t4_dataset(folder / "data")
    model = build_model(load_model_config(MODEL_CONFIG), seed=5)
    torch.save({"state_dict": model.state_dict(), "meta": {"seed": 5, "epoch": 1}}, folder / "checkpoint.pth")
    where = ["--model-config", MODEL_CONFIG, "--checkpoint", folder / "checkpoint.pth", "--out", folder / "quantized"]
    arguments = [
        *map(str, where),
        "--data-root",
        str(folder / "data"),
        "--split",
        "val",
        "--num-batches",
        "1",
        "--method",
        "calibrate",
    ]
    assert main([*arguments, "--log-level", "ERROR"]) == 0
    manager = quantized_manager()
    manager.calibrate(
        [torch.rand(1, 32, 32, 32, generator=torch.Generator().manual_seed(0))], workers=1, progress=False
    )
    manager.save_calib_cache(folder / "calibration.json")


def structure(folder: Path) -> None:
    """What is quantized how, as the quantized checkpoint of `checkpoints` says it."""
    import torch

    checkpoints(folder)
    content = torch.load(folder / "quantized" / "checkpoint.pth", weights_only=True)
    (folder / "structure.json").write_text(content["quantization"])


def quantized_manager() -> Any:
    """The `CalibrationManager` of the tiny model with quantizers, without scales."""
    from models.build import build_model
    from models.config import load_model_config
    from models.spec import ModelSpec
    from quant import CalibrationManager, fuse_model_bn, quant_model

    cfg = load_model_config(MODEL_CONFIG)
    model = build_model(cfg, seed=5)
    fuse_model_bn(model)
    quant_model(model)
    return CalibrationManager(model, ModelSpec.from_config(cfg))


@copied
def deployment(folder: Path) -> None:
    """A deployment as `deploy.export --mode=both` leaves it in `work`, from `checkpoint.pth` and the dataset `data`."""
    from deploy.export import main

    checkpoints(folder)
    shutil.rmtree(folder / "quantized")
    config = folder / "deploy_config.py"
    config.write_text("evaluation = dict(backends=dict(tensorrt=dict(enabled=False)))\n")
    where = {"--deploy-config": config, "--model-config": MODEL_CONFIG, "--checkpoint": folder / "checkpoint.pth"}
    where |= {"--data-root": folder / "data", "--work-dir": folder / "work"}
    options = [
        "--mode=both",
        "--num-samples=2",
        "--num-verify-samples=1",
        "--rot-y-axis-reference",
        "--log-level=ERROR",
    ]
    assert main([*options, *(f"{option}={path}" for option, path in where.items())]) == 0


@copied
def measured(folder: Path) -> None:
    """The deployment with a short record: of long lists of numbers, such as curves, the first few."""
    deployment(folder)
    results = folder / "work" / "results.json"
    results.write_text(json.dumps(_short(json.loads(results.read_text()))))


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        numbers = all(isinstance(item, int | float) for item in value)
        return [_short(item) for item in (value[:3] if numbers else value)]
    return value


@copied
def detected(folder: Path) -> None:
    """Detections of `deploy.detect`, with the manifest beside them."""
    from deploy.detect import main

    deployment(folder)
    where = ["--onnx-dir", folder / "work" / "onnx", "--model-config", MODEL_CONFIG, "--data-root", folder / "data"]
    assert main([*map(str, where), "--out", str(folder / "detected"), "--log-level", "ERROR"]) == 0
    manifest = folder / "detected" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["settings"]["weights"] = ""
    manifest.write_text(json.dumps(content))


@copied
def bundle(folder: Path) -> None:
    """A bundle for Autoware's node, of the tiny model."""
    from deploy.autoware_bundle import main as make_bundle

    checkpoints(folder)
    arguments = ["--model-config", MODEL_CONFIG, "--checkpoint", folder / "checkpoint.pth", "--out", folder / "bundle"]
    assert make_bundle([*map(str, arguments), "--log-level", "ERROR"]) == 0


def score_frames(folder: Path) -> None:
    """Frames for `eval.score` in its three forms, detections apart, and a configuration in the file."""

    car = {"label": "car", "x": 10.0, "y": 1.0, "z": 0.0, "l": 4.0, "w": 2.0, "h": 1.5, "yaw": 0.1, "vx": 1.0, "vy": 0}
    found = [{**car, "score": 0.9}, {**car, "label": "bus", "score": 0.2}]
    rows = [{"token": f"t{index}", "gt": [{**car, "num_points": 5}], "est": found} for index in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    golden = json.loads((REPOSITORY / "tests" / "data" / "golden" / "h_range_points.json").read_text())
    (folder / "frames.json").write_text(json.dumps({"frames": rows}))
    (folder / "configured.json").write_text(json.dumps({"configs": golden["configs"], "frames": golden["frames"][:1]}))
    (folder / "frames.jsonl").write_text(lines)
    (folder / "frames.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    apart = "".join(json.dumps({"token": row["token"], "est": row["est"]}) + "\n" for row in rows)
    (folder / "detections.jsonl").write_text(apart)


def sensitivity(folder: Path) -> None:
    """A profile of the demo model's layers, its table, and measured times of the layers."""
    from models.config import load_model_config
    from models.spec import ModelSpec
    from quant.roofline import conv_layers
    from quant.sensitivity.profile import AnalysisCost, Effect, LayerSensitivity, SensitivityProfile

    cfg = load_model_config(DEMO_CONFIG)
    spec, names = ModelSpec.from_config(cfg), [layer.path for layer in conv_layers(cfg)]
    effect = Effect({"heatmap": 30.0}, 0.7, -0.01, -0.02, 0.0, "worse")
    layers = tuple(LayerSensitivity(name, (name,), 10, effect, effect) for name in names)
    cost = AnalysisCost(10 * len(names), 100, 3)
    profile = SensitivityProfile(
        spec.name, spec.fingerprint(), "layer", ("heatmap",), 0.7, effect, layers, 8, 8, 0.95, 1000, "1", cost
    )
    profile.write_json(folder / "profile.json")
    profile.write_csv(folder / "profile.csv")
    curve = {
        "map": [{"epoch": 1, "iter": 4, "map": 0.5, "per_class": {"car": 0.5, "bus": None}}],
        "loss": [{"iter": 2, "loss": 2.0, "lr": 0.1}],
    }
    (folder / "curve.json").write_text(json.dumps(curve))
    (folder / "times.json").write_text(json.dumps({name: {"int8": 1.0, "fp16": 2.0} for name in names}))


def resumable(folder: Path) -> None:
    """A checkpoint with what a training of mmengine goes on from."""
    import torch

    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).backward()
    optimizer.step()
    content = {
        "meta": {"epoch": 1, "iter": 4, "seed": 5, "config": "model = {}"},
        "state_dict": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [{"last_step": 4, "_global_step": 5}],
        "message_hub": {"log_scalars": {}, "runtime_info": {"epoch": 1}, "resumed_keys": {"epoch": True}},
    }
    torch.save(content, folder / "epoch_1.pth")


def model_spec(folder: Path) -> None:
    """The tiny model's specification, as ONNX files carry it."""
    from models.config import load_model_config
    from models.spec import ModelSpec

    spec = ModelSpec.from_config(load_model_config(MODEL_CONFIG))
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))


def profiles(folder: Path) -> None:
    """Shape profiles for `export.tools.build_engines`."""
    shapes = {key: [400, 32, 11] for key in ("min", "opt", "max")}
    (folder / "profiles.json").write_text(json.dumps({"input_features": shapes}))


def model_config(folder: Path) -> None:
    """The tiny model's config with its bases put in, one literal for each name."""
    from models.config import load_model_config

    _write_literals(load_model_config(MODEL_CONFIG).to_dict(), folder / "model_config.py")


def deploy_config(folder: Path) -> None:
    """The shipped deploy config the same way, and as JSON and YAML."""
    import yaml
    from mmengine.config import Config

    for name in ("deploy_config", "deploy_config_int8"):
        values = Config.fromfile(REPOSITORY / "configs" / "deploy" / f"{name}.py").to_dict()
        plain = json.loads(json.dumps({key: value for key, value in values.items() if not key.startswith("_")}))
        _write_literals(plain, folder / f"{name}.py")
        (folder / f"{name}.json").write_text(json.dumps(plain))
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(plain))


def _write_literals(values: dict[str, Any], path: Path) -> None:
    path.write_text("".join(f"{key} = {python_text(value)}\n" for key, value in values.items()))


def quantized_graph(folder: Path) -> None:
    """An INT8 graph that the GPU engine runs."""
    import onnx

    from tests.runtime.qdq_graphs import graph_spec, small_graph

    onnx.save(small_graph(graph_spec()), folder / "graph.onnx")
