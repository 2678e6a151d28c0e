"""mmengine's Runner reads checkpoints through `base.untrusted`: a work dir may come from somebody else.

By itself it reads them with `torch.load`, and to resume (optimizer, schedule, curves of losses) only with the
restrictions of torch 2.6 lifted; it also runs the text of a config that it finds in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from base.errors import CheckpointError
from base.untrusted import load_weights_file

__all__ = ["safe_checkpoints"]


@contextmanager
def safe_checkpoints(resume: bool) -> Iterator[None]:
    """While it is open, mmengine's readers of local checkpoints are ours.

    A resumed run goes on with weights, optimizer, schedule and counters; its curves of losses begin anew, since they
    are objects of a class and are not read. `load_from` and `init_cfg` of a config are read the same way.

    Args:
        resume: The checkpoint that is read is one to resume from; it must have what the Runner looks for.
    """
    from mmengine.runner import CheckpointLoader
    from mmengine.runner.checkpoint import load_from_local

    def load_from_checked_file(filename: str, map_location: Any = None) -> dict[str, Any]:
        """On the CPU wherever `map_location` is: model and optimizer copy what they take."""
        checkpoint = load_weights_file(filename)
        meta = checkpoint.get("meta")
        if isinstance(meta, dict):
            meta.pop("config", None)  # mmengine would run it
        return _resumable(checkpoint, filename) if resume else checkpoint

    CheckpointLoader.register_scheme("", load_from_checked_file, force=True)
    try:
        yield
    finally:
        CheckpointLoader.register_scheme("", load_from_local, force=True)


def _resumable(checkpoint: dict[str, Any], filename: str) -> dict[str, Any]:
    match checkpoint:
        case {
            "meta": {"epoch": int(), "iter": int()},
            "state_dict": dict(),
            "optimizer": dict(),
            "message_hub": {"runtime_info": dict(information), "resumed_keys": dict(keys)} as hub,
        }:
            hub["log_scalars"] = {}
            hub["resumed_keys"] = {key: value for key, value in keys.items() if key in information}
            return checkpoint
    raise CheckpointError(
        f"Checkpoint '{filename}' is none that a training can go on from: meta, state_dict, optimizer or message_hub "
        "of mmengine's Runner is missing. Start again without --resume."
    )
