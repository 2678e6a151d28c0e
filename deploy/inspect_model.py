"""What a model config or a checkpoint is, and what the product can do with it."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.errors import CheckpointError
from base.files import sha256_file
from base.messages import printable
from base.tables import text_table
from deploy.abilities import STEPS, Ability, find_abilities

__all__ = ["CHECKPOINTS", "CONFIGS", "CheckpointFacts", "ModelReport", "inspect_model", "model_text"]

CONFIGS = (".py", ".yaml", ".yml")
CHECKPOINTS = (".pth", ".pt", ".ckpt")

_WIDTH = 118
_ALONE = "a checkpoint says neither range nor cells nor how boxes are decoded; give its config with --model-config"
_WHAT = {
    "load": "the config is understood",
    "build": "mmdet3d builds it",
    "weights": "the checkpoint fits",
    "onnx": "ONNX files, FP32",
    "fp16": "ONNX files, FP16",
    "int8": "ONNX files, INT8",
    "tensorrt": "TensorRT engines",
    "cuda": "backend 'cuda'",
    "bundle": "bundle for Autoware's node",
}


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint holds.

    Attributes:
        file, sha256: The file.
        tensors, parameters: Of its weights.
        quantized: Whether it holds scales of INT8.
        class_names: That it was trained for, where it says so.
    """

    file: str
    sha256: str
    tensors: int
    parameters: int
    quantized: bool
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class ModelReport:
    """A model.

    Attributes:
        model_config: File name of its config, where there is one.
        spec: Its specification as `ModelSpec.to_dict` gives it, where the config is understood.
        decoration: What a point enters the encoder as, in words.
        checkpoint: Its weights, where there are some.
        abilities: What can be done with it.
    """

    model_config: str | None
    spec: Mapping[str, Any] | None
    decoration: str
    checkpoint: CheckpointFacts | None
    abilities: tuple[Ability, ...]

    @property
    def is_able(self) -> bool:
        """Whether everything can be done."""
        return all(ability.status in ("yes", "none") for ability in self.abilities)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": "model", **asdict(self)}


def inspect_model(model_config: Path | None, checkpoint: Path | None) -> ModelReport:
    """Tries everything that can be made of a model; files go to a temporary folder.

    Args:
        model_config: Its config.
        checkpoint: Its weights; None: seeded ones.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    facts = None if checkpoint is None else _facts(checkpoint)
    if model_config is None:
        return ModelReport(None, None, "", facts, tuple(Ability(step, "unknown", _ALONE) for step in STEPS))
    with tempfile.TemporaryDirectory(prefix="centerpoint-inspect-") as folder:
        attempt = find_abilities(model_config, checkpoint, Path(folder))
    spec = attempt.spec
    return ModelReport(
        model_config.name,
        None if spec is None else spec.to_dict(),
        "" if spec is None else spec.decoration,
        facts,
        tuple(attempt.abilities),
    )


def _facts(path: Path) -> CheckpointFacts:
    import torch

    from base.untrusted import load_weights_file
    from models.build import is_quantized

    content = load_weights_file(path)
    state = content.get("state_dict", content)
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)] if hasattr(state, "values") else []
    if not tensors:
        raise CheckpointError(f"Checkpoint '{path}' holds no tensors in 'state_dict', nor beside it.")
    meta = content.get("meta")
    dataset = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    names = (dataset.get("classes") or dataset.get("CLASSES") or ()) if isinstance(dataset, Mapping) else ()
    classes = (
        tuple(printable(name) for name in names if isinstance(name, str)) if isinstance(names, list | tuple) else ()
    )
    parameters = sum(tensor.numel() for tensor in tensors)
    return CheckpointFacts(path.name, sha256_file(path), len(tensors), parameters, is_quantized(content), classes)


def model_text(report: ModelReport) -> str:
    """Tables of one model."""
    parts = []
    if report.spec is not None:
        rows: list[tuple[str, ...]] = [(key, _value(value)) for key, value in report.spec.items() if key != "heads"]
        rows.append(("a decorated point", report.decoration))
        parts += [f"model '{report.spec['name']}' of {report.model_config}", text_table(("key", "value"), rows)]
    if report.checkpoint is not None:
        facts = report.checkpoint
        classes = f", trained for {', '.join(facts.class_names)}" if facts.class_names else ""
        kind = "INT8 checkpoint" if facts.quantized else "checkpoint"
        parts.append(
            f"{kind} {facts.file}: {facts.tensors} tensors, {facts.parameters:,} numbers{classes}, "
            f"sha256 {facts.sha256[:16]}"
        )
    lines: list[str] = []
    for ability in report.abilities:
        head = f"{_WHAT[ability.step]:<28}{ability.status:<9}"
        lines += textwrap.wrap(f"{head}{ability.reason}", _WIDTH, subsequent_indent=" " * 37, drop_whitespace=True)
    return "\n\n".join([*parts, "\n".join(lines)])


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_value(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
