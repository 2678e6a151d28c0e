"""What the product can do with a model, found out by doing it: each 'no' is the message of what refuses.

Nothing here knows a reason of its own. A step is tried on the model with its weights (or seeded ones), on a made-up
canvas where one is needed, without a GPU; a step that builds on another is not tried when that one failed.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import BackendUnavailable, UserError
from base.files import sha256_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from export.quantized_model import QuantizedModel
    from models.spec import ModelSpec

__all__ = ["STEPS", "Ability", "Attempt", "find_abilities"]

STEPS = ("load", "build", "weights", "onnx", "fp16", "int8", "tensorrt", "cuda", "bundle")
"""In order: the config is understood; mmdet3d builds it; the checkpoint fits; what is exported and built of it."""

# What each step needs of the others.
_NEEDS = {
    "build": ("load",),
    "weights": ("build",),
    "onnx": ("weights",),
    "fp16": ("onnx",),
    "int8": ("weights",),
    "tensorrt": ("onnx",),
    "cuda": ("onnx",),
    "bundle": ("load",),
}
_SEEDED = "no checkpoint was given: what follows is of seeded weights"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ability:
    """One step.

    Attributes:
        step: Of `STEPS`.
        status: "yes"; "no"; "none" where there is nothing to try; "unknown" where what keeps it from being tried is not
            the model's.
        reason: Why not.
    """

    step: str
    status: str
    reason: str = ""


@dataclass(eq=False)
class Attempt:
    """What the steps made on their way.

    Attributes:
        model_config, checkpoint: What they start from; without a checkpoint, seeded weights.
        folder: For the files that they make.
        spec, model: From "load", and from "build" and "weights".
        quantized: From "int8".
        abilities: The steps, so far.
    """

    model_config: Path
    checkpoint: Path | None
    folder: Path
    spec: ModelSpec | None = None
    model: nn.Module | None = None
    quantized: QuantizedModel | None = None
    config: Any = None
    abilities: list[Ability] = field(default_factory=list)

    def can(self, step: str) -> bool:
        """Whether a step was tried and did what it should."""
        return any(ability.step == step and ability.status in ("yes", "none") for ability in self.abilities)

    @property
    def known(self) -> ModelSpec:
        """The specification, in a step behind "load"."""
        if self.spec is None:
            raise RuntimeError("'load' comes first")
        return self.spec

    @property
    def network(self) -> nn.Module:
        """The model, in a step behind "weights"."""
        if self.model is None:
            raise RuntimeError("'build' comes first")
        return self.model

    @property
    def onnx_dir(self) -> Path:
        """What engines are made of: the INT8 files where there are such."""
        return self.folder / ("int8" if self.can("int8") else "onnx")


def find_abilities(
    model_config: Path,
    checkpoint: Path | None,
    folder: Path,
    *,
    prepare: Callable[[nn.Module, ModelSpec], None] | None = None,
    canvas: Callable[[Attempt], Tensor] | None = None,
) -> Attempt:
    """Tries every step.

    Args:
        model_config: The model config.
        checkpoint: Its weights; None: seeded ones.
        folder: An empty folder for what is made.
        prepare: Changes the model's seeded weights before anything is made of them.
        canvas: What INT8 is calibrated on, of a model that is built; made up by default.
    """
    attempt = Attempt(model_config, checkpoint, folder)

    def build() -> None:
        _build(attempt)
        if prepare is not None and checkpoint is None:
            prepare(attempt.network, attempt.known)

    steps: dict[str, Callable[[], None]] = {
        "load": lambda: _load(attempt),
        "build": build,
        "weights": lambda: _fill(attempt),
        "onnx": lambda: _export(attempt),
        "fp16": lambda: _round(attempt),
        "int8": lambda: _quantize(attempt, canvas),
        "tensorrt": lambda: _build_engines(attempt),
        "cuda": lambda: _check_kernels(attempt),
        "bundle": lambda: _check_vehicle(attempt),
    }
    for step in STEPS:
        lacking = [need for need in _NEEDS.get(step, ()) if not attempt.can(need)]
        if lacking:
            attempt.abilities.append(Ability(step, "no", f"needs '{lacking[0]}'"))
            continue
        with _noting(attempt, step):
            steps[step]()
    return attempt


@contextmanager
def _noting(attempt: Attempt, step: str) -> Iterator[None]:
    _logger.info("trying: %s", step)
    try:
        yield
    except BackendUnavailable as reason:
        attempt.abilities.append(Ability(step, "unknown", _told(reason, attempt)))
    except UserError as reason:
        attempt.abilities.append(Ability(step, "no", _told(reason, attempt)))
    else:
        is_without = step == "weights" and attempt.checkpoint is None
        attempt.abilities.append(Ability(step, "none", _SEEDED) if is_without else Ability(step, "yes"))


def _told(reason: Exception, attempt: Attempt) -> str:
    """The message; files that were made for the attempt go by their names in its folder."""
    return str(reason).replace(f"{attempt.folder}/", "")


def _load(attempt: Attempt) -> None:
    from models.config import load_model_config
    from models.spec import ModelSpec

    attempt.config = load_model_config(attempt.model_config)
    attempt.spec = ModelSpec.from_config(attempt.config)


def _build(attempt: Attempt) -> None:
    from models.build import build_model

    attempt.model = build_model(attempt.config)


def _fill(attempt: Attempt) -> None:
    from models.build import is_quantized, load_checkpoint

    if attempt.checkpoint is None:
        return
    from base.untrusted import load_weights_file

    if is_quantized(load_weights_file(attempt.checkpoint)):
        from export.quantized_model import float_twin, read_quantized_model

        attempt.quantized = read_quantized_model(attempt.network, attempt.checkpoint)
        attempt.model = float_twin(attempt.quantized.model)
    else:
        load_checkpoint(attempt.network, attempt.checkpoint)


def _export(attempt: Attempt) -> None:
    from export.onnx_export import OnnxExportSettings, export_components

    settings = OnnxExportSettings(provenance=_provenance(attempt))
    export_components(attempt.network, attempt.known, attempt.folder / "onnx", settings)


def _round(attempt: Attempt) -> None:
    from base.onnx_files import read_onnx
    from export.precision import convert_precision

    for path in sorted((attempt.folder / "onnx").glob("*.onnx")):
        convert_precision(read_onnx(path), "fp16")


def _quantize(attempt: Attempt, canvas: Callable[[Attempt], Tensor] | None) -> None:
    from export.onnx_export import OnnxExportSettings, export_components
    from export.opsets import INT8_OPSET
    from export.quantized_model import planned_layers, quantize_float_model
    from quant.settings import PtqSettings

    if attempt.quantized is None:
        settings = PtqSettings(num_batches=1, amax_method="max", weight_method="max")
        batches = [_made_up(attempt.known) if canvas is None else canvas(attempt)]
        attempt.quantized = quantize_float_model(copy.deepcopy(attempt.network), attempt.known, batches, settings)
    export = OnnxExportSettings(
        opset_version=INT8_OPSET,
        precision="int8",
        quantized_layers=planned_layers(attempt.quantized.structure),
        provenance=_provenance(attempt),
    )
    export_components(attempt.quantized.model, attempt.known, attempt.folder / "int8", export)


def _made_up(spec: ModelSpec) -> Tensor:
    """A canvas of which one cell in eight holds a pillar."""
    import torch

    generator = torch.Generator().manual_seed(0)
    _, _, height, width = spec.canvas_shape
    filled = torch.rand((1, 1, height, width), generator=generator) < 1 / 8
    return torch.rand(spec.canvas_shape, generator=generator) * filled


def _build_engines(attempt: Attempt) -> None:
    from export.engine.pipeline import CenterPointTensorRTExportPipeline

    CenterPointTensorRTExportPipeline().run(attempt.onnx_dir, attempt.folder / "tensorrt", attempt.known)


def _check_kernels(attempt: Attempt) -> None:
    from runtime.cuda_engine.acceptance import check_taken

    check_taken(attempt.known, attempt.onnx_dir)


def _check_vehicle(attempt: Attempt) -> None:
    from autoware.bundle import require_runnable

    require_runnable(dataclasses.replace(attempt.known, rot_y_axis_reference=True), attempt.model_config)


def _provenance(attempt: Attempt) -> dict[str, str]:
    weights = "seeded" if attempt.checkpoint is None else f"sha256 {sha256_file(attempt.checkpoint)}"
    return {"weights": weights}
