"""Whether the frames that a Runner trains on are what mmdet3d's models take, asked before any work.

A pipeline of mmdet3d's ends with a step that packs (`Pack3DDetInputs`): points under `inputs`, boxes and labels as
`gt_instances_3d` of `data_samples`. A config of one's own may lack it, or let it pack too little; the collation of a
batch, or the model, would then stop with what tells nothing of the config.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from base.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ["PackedFramesHook", "check_packed"]

_GROUND_TRUTH = ("bboxes_3d", "labels_3d")


def check_packed(runner: Runner) -> None:
    """Reads one frame of the Runner's training data; chance goes on afterwards as if none had been read.

    Raises:
        ConfigError: its pipeline packs no points, or no boxes and labels.
    """
    dataset: Any = runner.train_dataloader.dataset
    while not hasattr(dataset, "pipeline"):  # of a wrapper: repeated, balanced or joined
        dataset = dataset.dataset if hasattr(dataset, "dataset") else dataset.datasets[0]
    probe = copy.copy(dataset)
    probe.pipeline = copy.deepcopy(dataset.pipeline)  # a step may keep count of its frames
    with _same_chance():
        lacking = _lacking(probe[0])
    if lacking:
        raise ConfigError(
            f"'{runner.cfg.filename or 'the config'}': the frames that are trained on have no {lacking}. The last step "
            "of train_dataloader.dataset.pipeline has to pack what a model of mmdet3d takes: "
            "dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])."
        )


@contextmanager
def _same_chance() -> Iterator[None]:
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - mmdet3d draws there
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _lacking(frame: Any) -> str | None:
    if not isinstance(frame, Mapping) or "inputs" not in frame:
        found = ", ".join(sorted(map(str, frame))) if isinstance(frame, Mapping) else type(frame).__name__
        return f"'inputs' (they hold {found})"
    if "points" not in frame["inputs"]:
        return "'points' in their 'inputs'"
    truth = getattr(frame.get("data_samples"), "gt_instances_3d", ())
    missing = [name for name in _GROUND_TRUTH if name not in truth]
    return f"'gt_{missing[0]}' in their 'data_samples'" if missing else None


@HOOKS.register_module()
class PackedFramesHook(Hook):
    """`check_packed` before a Runner trains."""

    priority = "VERY_HIGH"

    def before_run(self, runner: Runner) -> None:
        """Looks at one frame.

        Raises:
            ConfigError: see `check_packed`.
        """
        check_packed(runner)
