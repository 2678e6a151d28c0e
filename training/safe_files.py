"""mmengine's Runner reads checkpoints and pickles through `base.untrusted`: work dirs and datasets come from anywhere.

By itself it reads checkpoints with `torch.load`, and to resume (optimizer, schedule, curves of losses) only with the
restrictions of torch 2.6 lifted; it runs the text of a config that it finds in a checkpoint; and its reader of `.pkl`
files, which mmdet3d's transforms use for databases of objects, is Python's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from base.errors import CheckpointError
from base.untrusted import info_from_bytes, load_weights_file

__all__ = ["safe_files"]

_PICKLES = ["pickle", "pkl"]


@contextmanager
def safe_files(resume: bool) -> Iterator[None]:
    """While it is open, mmengine's readers of local checkpoints and of pickles are ours.

    A resumed run goes on with weights, optimizer, schedule and counters; its curves of losses begin anew, since they
    are objects of a class and are not read. `load_from` and `init_cfg` of a config are read the same way.

    Args:
        resume: The checkpoint that is read is one to resume from; it must have what the Runner looks for.
    """
    from mmengine.fileio.handlers import PickleHandler, register_handler
    from mmengine.runner import CheckpointLoader
    from mmengine.runner.checkpoint import load_from_local

    class SafePickleHandler(PickleHandler):
        """Plain values, whatever the keyword arguments for Python's reader say."""

        def load_from_fileobj(self, file: BinaryIO, **_: Any) -> Any:
            return info_from_bytes(file.read(), str(getattr(file, "name", "read by mmengine")))

    def load_from_checked_file(filename: str, map_location: Any = None) -> dict[str, Any]:
        """On the CPU wherever `map_location` is: model and optimizer copy what they take."""
        checkpoint = load_weights_file(filename)
        meta = checkpoint.get("meta")
        if isinstance(meta, dict):
            meta.pop("config", None)  # mmengine would run it
        return _resumable(checkpoint, filename) if resume else checkpoint

    register_handler(_PICKLES)(SafePickleHandler)
    CheckpointLoader.register_scheme("", load_from_checked_file, force=True)
    try:
        yield
    finally:
        register_handler(_PICKLES)(PickleHandler)
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
