"""Configs of AWML (TIER IV's training framework): its own types named by the stock ones of the same weights and maths.

AWML registers modules of its own with mmdet3d and names them in its configs, and names the Python packages that hold
them in `custom_imports`. For inference they are stock mmdet3d: the same layers, the same state-dict keys. What they add
is for training (initial biases, losses by class, frozen parts) or for AWML's own exporter.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Iterator
from typing import Any

from base.errors import ConfigError
from base.lazy import require
from base.messages import printable, shown
from models.build import import_mmdet3d
from models.training_parts import is_training_part

__all__ = ["adapt_awml_"]

AWML_PACKAGES = ("autoware_ml", "projects", "tools")
# This project's own, named in its configs for mmengine's tools and for training; no other command needs them.
OWN_PACKAGES = ("datasets", "eval", "quant", "training")

# AWML's name -> the stock module with the same parameters and the same inference.
_MODELS = {
    "CenterPointONNX": "CenterPoint",
    "CenterHeadONNX": "CenterHead",
    "CustomSeparateHead": "SeparateHead",
    "SeparateHeadONNX": "SeparateHead",
    "PillarFeatureNetONNX": "PillarFeatureNet",
    "BackwardPillarFeatureNetONNX": "BackwardPillarFeatureNet",
    "AmpGaussianFocalLoss": "mmdet.GaussianFocalLoss",
}
# Arguments that AWML's subclasses of stock types take and the stock types do not: they freeze parts in training.
_TRAINING_ARGUMENTS = {
    "SECOND": ("frozen_stages",),
    "SECONDFPN": ("frozen_stages",),
    "PillarFeatureNet": ("frozen_stages",),
    "BackwardPillarFeatureNet": ("frozen_stages",),
    "CenterHead": ("freeze_shared_conv", "freeze_task_heads"),
}
# What AWML passes to its dataset, and ours knows by itself.
_DATASET_ARGUMENTS = ("class_names", "modality", "box_type_3d")
_METRICS = ("T4Metric", "T4MetricV2")
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")

_logger = logging.getLogger(__name__)


def adapt_awml_(cfg: Any) -> None:
    """Rewrites an AWML config in place into one that mmdet3d and this project's dataset build.

    `custom_imports` are resolved: packages that are installed are imported, except AWML's own, which would replace
    stock modules by theirs; the others, and those that cannot be imported, are dropped, once every type of the network
    and of the test pipeline is known without them. This project's own modules stay named and are not imported: whoever
    trains does that. AWML's evaluators are left out, because this project computes those metrics itself
    (`eval.metrics`). Types that only training meets stay as they are.

    Args:
        cfg: An `mmengine.Config`, read without its custom imports. One without AWML's names stays as it is.

    Raises:
        ConfigError: the model or the test pipeline uses a type that nothing here provides; the message names it, where
            it stands, and the import that should have brought it.
    """
    named = _pop_imports(cfg)
    own = [name for name in named if name.split(".")[0] in OWN_PACKAGES]
    if own:
        cfg.custom_imports = {"imports": own, "allow_failed_imports": False}
    imports = [name for name in named if name not in own]
    absent = [name for name in imports if name.split(".")[0] in AWML_PACKAGES or not _is_installed(name)]
    failures: dict[str, str] = {}
    for name in imports:
        if name not in absent:
            try:
                _import(name)
            except ConfigError as failure:
                failures[name] = str(failure)
    for where, node in _typed(cfg.get("model"), "model"):
        _map_model_type(node, where, str(cfg.filename))
    for loader in _LOADERS:
        for _, node in _typed(cfg.get(loader), loader):
            if _plain(node) == "T4Dataset":
                for argument in _DATASET_ARGUMENTS:
                    node.pop(argument, None)
    for key in ("val_evaluator", "test_evaluator"):
        if key in cfg and _plain(cfg[key]) in _METRICS:
            cfg.pop(key)
    if absent or failures:
        _check_types(cfg, absent, failures)
        _logger.info("%s: %s not needed here", cfg.filename, ", ".join((*absent, *failures)))


def _pop_imports(cfg: Any) -> list[str]:
    wanted = cfg.pop("custom_imports", None)
    if wanted is None:
        return []
    names = wanted.get("imports", []) if hasattr(wanted, "get") else None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and _MODULE.match(name) for name in names):
        raise ConfigError(
            f"{cfg.filename}: custom_imports is {shown(wanted)}; it must be dict(imports=[module names])."
        )
    return list(dict.fromkeys(names))


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # a module is a program and can raise everything
        raise ConfigError(f"importing '{name}' failed: {type(error).__name__}: {printable(str(error))}") from error


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # no parent package, or one that fails; '__main__' has no specification
        return False


def _map_model_type(node: Any, where: str, file: str) -> None:
    name = _plain(node)
    if name in _MODELS:
        node["type"] = _MODELS[name]
        if name == "AmpGaussianFocalLoss" and node.get("reduction") == "none":
            # AWML's head sums it and divides by the number of objects; with "mean" the stock head does the same.
            node["reduction"] = "mean"
    name = _plain(node)
    for argument in _TRAINING_ARGUMENTS.get(name, ()):
        if node.pop(argument, None):
            _logger.warning("%s.%s has no effect here: nothing is frozen", where, argument)
    if name == "CenterPointBBoxCoder" and node.pop("y_axis_reference", False):
        raise ConfigError(
            f"{file}: {where}.y_axis_reference is True: such a model was trained for yaw clockwise from the y axis. "
            "Only models with yaw from the x axis are supported; --rot-y-axis-reference converts those in the export."
        )
    if name == "BackwardPillarFeatureNet":
        import_mmdet3d()
        importlib.import_module("models.awml_encoder")


def _check_types(cfg: Any, absent: list[str], failures: dict[str, str]) -> None:
    """Every type that deployment builds must be known without the absent and the failed imports."""
    registry = import_mmdet3d()
    require("mmdet3d.datasets", "to read the test pipeline")
    unknown = [
        f"model type '{node['type']}' ({where})"
        for where, node in _typed(cfg.get("model"), "model")
        if not is_training_part(where)
        and not any(known.get(node["type"]) for known in (registry.MODELS, registry.TASK_UTILS))
    ]
    for loader in _LOADERS[1:]:
        for where, node in _typed(cfg.get(loader), loader):
            if ".pipeline[" in where and not registry.TRANSFORMS.get(node["type"]):
                unknown.append(f"transform '{node['type']}' ({where})")
    if not unknown:
        return
    if failures:
        raise ConfigError(
            f"{cfg.filename}: unknown {'; '.join(unknown)}. Of custom_imports, {'; '.join(failures.values())}. Mend "
            "what fails, or use a stock type in its place."
        )
    raise ConfigError(
        f"{cfg.filename}: unknown {'; '.join(unknown)}. The config expects {', '.join(absent)} to provide "
        "it, which is not available here. Use a stock type in its place, or install a package that registers it "
        "with mmdet3d and name that in custom_imports."
    )


def _typed(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(path, dictionary) of everything below `node` with a `type` that is a name."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield where, node
        for key, value in node.items():
            yield from _typed(value, f"{where}.{key}")
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _typed(value, f"{where}[{index}]")


def _plain(node: Any) -> str:
    """The type's name without its scope."""
    return str(node.get("type", "")).rsplit(".", 1)[-1] if isinstance(node, dict) else ""
