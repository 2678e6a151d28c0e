"""Building the stock mmdet3d model and filling it with trained or seeded weights."""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from base.checks import settle
from base.determinism import set_determinism
from base.errors import CheckpointError, ConfigError
from base.lazy import require
from base.messages import printable
from base.untrusted import load_weights_file
from models.checkpoint_forms import Weights, find_weights
from models.consistency import compare_checkpoint
from models.training_parts import drop_training_parts
from models.unsupported import DEFORMABLE, uses_layer
from models.weights import check_architecture, check_finite, check_kinds

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_model", "import_mmdet3d", "is_quantized", "load_checkpoint"]

_logger = logging.getLogger(__name__)

_STRUCTURE_KEY = "quantization"
_SCALE_SUFFIX = "_quantizer.scale"
# Of models.autoware_ml_head, which mmdet3d's registry knows once it is imported.
_OWN_BRANCHES = "WideSeparateHead"


def import_mmdet3d() -> Any:
    """Imports mmdet3d's models with mmcv's extension in place, and returns its `registry` module.

    Raises:
        MissingDependencyError: mmdet3d or one of its parts is not installed.
    """
    from third_party import mmcv_ext

    mmcv_ext.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        require("mmdet3d.models", "to build the PyTorch model")
    registry = require("mmdet3d.registry", "to build the PyTorch model")
    # Modules resolve their types in the default scope of the current mmengine session.
    require("mmengine.registry", "to build the PyTorch model").init_default_scope("mmdet3d")
    return registry


def build_model(cfg: Any, seed: int = 0) -> nn.Module:
    """Builds `cfg.model` with seeded random weights, on the CPU, in evaluation mode.

    Args:
        cfg: Model config (`models.config.load_model_config`).
        seed: Seed of the initial weights; equal seeds give equal weights.

    Raises:
        ConfigError: mmdet3d does not know a type, or refuses an argument, of the config.
    """
    registry = import_mmdet3d()
    if uses_layer(cfg.model, DEFORMABLE):
        from models import deform_conv

        deform_conv.install()
    head = cfg.model.get("pts_bbox_head") if isinstance(cfg.model, Mapping) else None
    branches = head.get("separate_head") if isinstance(head, Mapping) else None
    if isinstance(branches, Mapping) and branches.get("type") == _OWN_BRANCHES:
        importlib.import_module("models.autoware_ml_head")
    set_determinism(seed)
    network = copy.deepcopy(cfg.model)
    gone = drop_training_parts(network, lambda kind: not isinstance(kind, str) or registry.MODELS.get(kind) is not None)
    if gone:
        _logger.info("%s: not needed here: %s", cfg.filename, ", ".join(gone))
    try:
        model: nn.Module = registry.MODELS.build(network)
    # Every module has its own way to refuse an argument. A lack of memory is no fault of the config's types.
    except (LookupError, TypeError, AssertionError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise
        cause = printable(str(error))
        raise ConfigError(f"mmdet3d cannot build the model of '{cfg.filename}': {cause}") from error
    with _quiet_mmengine():
        cast(Any, model).init_weights()
    _randomize_batch_norm(model)
    return model.eval()


def load_checkpoint(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Fills `model` with a checkpoint's weights; every key and shape must match.

    Args:
        model: A model from `build_model`; changed in place.
        path: `.pth` file with `{'state_dict': …}`, a bare state dict, or another form that has one set of weights
            (`models.checkpoint_forms`); float16, bfloat16 and float64 are converted.

    Returns:
        The checkpoint's `meta` (empty where it has none).

    Raises:
        CheckpointError: the file is missing, unsafe, quantized, of another architecture, or holds what is no finite
            weight; it contradicts the config (`models.consistency`). The message names the keys, and the model is
            unchanged.
    """
    checkpoint = load_weights_file(path)
    if is_quantized(checkpoint):
        raise CheckpointError(
            f"Checkpoint '{path}' is a quantized checkpoint, and a float one was expected. Load it with "
            "quant.load_ptq_model, or deploy it with configs/deploy/deploy_config_int8.py."
        )
    where, expected = f"Checkpoint '{path}'", model.state_dict()
    weights, names = _find_weights(checkpoint, expected, model, where)
    expected = {theirs: expected[name] for theirs, name in names.items()}
    state, place = weights.state, where if weights.is_plain else f"{where} ({weights})"
    check_architecture(state, expected, place)
    check_kinds(state, expected, place)
    check_finite(state, expected, place)
    settle(compare_checkpoint(checkpoint, model, where))
    model.load_state_dict({names[name]: value for name, value in state.items()}, strict=True)
    meta = checkpoint.get("meta", {})
    return dict(meta) if isinstance(meta, Mapping) else {}


def _find_weights(
    checkpoint: Mapping[str, Any], expected: Mapping[str, Any], model: nn.Module, where: str
) -> tuple[Weights, dict[str, str]]:
    """A model's weights in a checkpoint, by its trainer's names; and name there -> name here."""
    tasks = getattr(getattr(model, "pts_bbox_head", None), "task_heads", ())
    if any(type(task).__name__ == _OWN_BRANCHES for task in tasks):
        from models.autoware_ml_names import find_renamed

        renamed = find_renamed(checkpoint, expected, model, where)
        if renamed is not None:
            return renamed
    return find_weights(checkpoint, expected, where), {name: name for name in expected}


def is_quantized(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's content is a quantized model's: it says so, or its state dict holds quantizers' scales."""
    inside = (value for value in checkpoint.values() if isinstance(value, Mapping))
    return _STRUCTURE_KEY in checkpoint or any(
        str(key).endswith(_SCALE_SUFFIX) for state in (checkpoint, *inside) for key in state
    )


@contextmanager
def _quiet_mmengine() -> Iterator[None]:
    """`init_weights` logs a paragraph for every parameter at INFO."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _randomize_batch_norm(model: nn.Module) -> None:
    """Gives seeded running statistics to every BatchNorm, so that an untrained model exercises what a trained one does.

    With the initial statistics (mean 0, variance 1) a wrong folding or a swapped channel would go unnoticed.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.05)
            module.running_var.copy_(torch.rand(shape, generator=generator) * 0.5 + 0.75)
