"""Checkpoints of PyTorch, read without PyTorch's unpickler."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from base.errors import CheckpointError
from base.lazy import require
from base.messages import shown_file
from base.reading import open_regular
from base.untrusted.file_size import checked_size
from base.untrusted.limits import MAX_CHECKPOINT_BYTES
from base.untrusted.refusal import Refused
from base.untrusted.skipped import Skipped
from base.untrusted.stand_ins import StandIn
from base.untrusted.zip_checkpoint import read_zip

__all__ = ["is_skipped", "load_weights_file"]

_START = 512
_ZIP = b"PK\x03\x04"
_MISSING = "Give its path with --checkpoint or as checkpoint_path."


def load_weights_file(path: str | Path) -> dict[str, Any]:
    """Loads a PyTorch checkpoint on the CPU without running code in it.

    Checkpoints as a training run saves them load too: loss curves, callbacks and other objects in them are skipped, and
    an object without content takes their place.

    Returns:
        The checkpoint's dictionary: `{'state_dict': …, 'meta': …}` or a bare state dict. Tensors are on the CPU, and
        share memory where they did when they were saved.

    Raises:
        CheckpointError: the file is missing, broken, unsafe, or holds no dictionary; nothing of it was run.
    """
    torch = require("torch", "to read a checkpoint")
    where = f"Checkpoint {shown_file(path)}"
    with open_regular(path, "Checkpoint", error=CheckpointError, remedy=_MISSING) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            checkpoint = _value(file, checked_size(file, MAX_CHECKPOINT_BYTES), torch)
        except OSError as error:
            raise CheckpointError(f"{where} cannot be read: {error.strerror}.") from error
        except Refused as error:
            raise CheckpointError(
                f"{where} ({size} bytes) was refused: {error}. Nothing in it was run. A checkpoint may hold tensors, "
                "numbers, strings and containers only; save it again as {'state_dict': …}."
            ) from error
    if isinstance(checkpoint, Skipped):
        raise CheckpointError(
            f"{where} holds an object of class '{checkpoint.what}', such as a whole model. Save "
            "{'state_dict': model.state_dict()} where its code is."
        )
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{where} holds a {type(checkpoint).__name__}, not a dictionary with 'state_dict'.")
    return checkpoint


def is_skipped(value: object) -> bool:
    """Whether a value of a checkpoint takes the place of an object that was not read; its repr names the class."""
    return isinstance(value, StandIn)


def _value(file: BinaryIO, size: int, torch: Any) -> Any:
    start = file.read(_START)
    if start.startswith(_ZIP):
        return read_zip(file, size, torch)
    # What few files are is read by modules that few runs import.
    from base.untrusted.legacy_checkpoint import is_legacy, read_legacy

    if is_legacy(start):
        return read_legacy(start + file.read(size - len(start)), torch)
    if not start:
        raise Refused("it is empty")
    if start[:1] == b"\x80":
        raise Refused("it is a pickle, but not one of torch.save")
    from base.untrusted.other_formats import other_format

    raise Refused(other_format(start) or "it is no checkpoint of torch.save")
