"""One process of a distributed `qat`: the command itself, then what this process holds, for the test to compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mmengine.dist import get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from quant.centerpoint_quantization import main
from quant.hooks.runner_model import unwrapped_model
from quant.quantizer import named_quantizers


def digest(tensors: Any) -> str:
    """sha256 over the bytes of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def record(runner: Runner, folder: Path) -> None:
    """Writes `process_<rank>.json`."""
    model = unwrapped_model(runner)
    facts = {
        "processes": get_world_size(),
        "wrapped": is_model_wrapper(runner.model),
        "frames": sorted(int(index) for index in runner.train_dataloader.sampler),
        "steps": runner.iter,
        "parameters": digest(model.parameters()),
        "scales": digest(quantizer.scale for quantizer in named_quantizers(model).values()),
    }
    (folder / f"process_{get_rank()}.json").write_text(json.dumps(facts), encoding="utf-8")


def train_and_record(folder: Path, arguments: Sequence[str]) -> int:
    """The command, which records what it trained in `folder`."""
    train = Runner.train

    def training(self: Runner) -> Any:
        model = train(self)
        record(self, folder)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "train", training)
        return main(arguments)
