"""What a checkpoint's weights must be, before they go into a model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from base.errors import CheckpointError
from base.untrusted import is_skipped

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_architecture", "check_finite", "check_kinds"]

_log = logging.getLogger(__name__)
_LISTED_KEYS = 5


def check_architecture(state: Mapping[Any, Any], expected: Mapping[str, Tensor], where: str) -> None:
    """Checks that a state dict has a tensor of the right shape for each key of the model, and no other key.

    Args:
        state: The checkpoint's.
        expected: The model's.
        where: Such as "Checkpoint 'a.pth'".

    Raises:
        CheckpointError: it has not; the message names the keys.
    """
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(str(key) for key in set(state) - set(expected))
    wrong = [
        f"{key} {shape}, model has {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and (shape := tuple(getattr(state[key], "shape", value.shape))) != tuple(value.shape)
    ]
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{where} belongs to another architecture than the model config: "
            f"{_listed('missing', missing)}; {_listed('unexpected', unexpected)}; {_listed('of another shape', wrong)}"
            ". Use the model config that it was trained with."
        )


def check_kinds(state: Mapping[Any, Any], expected: Mapping[str, Tensor], where: str) -> None:
    """Checks that weights are tensors of numbers that may stand for the model's.

    Floating-point numbers may have another width than the model's: they are converted when they are loaded, and the log
    says so. Integers, truth values and complex numbers are not: int8 weights without their scales are no weights.

    Args:
        state: The checkpoint's; keys that `expected` lacks are left alone.
        expected: The model's.
        where: Such as "Checkpoint 'a.pth'".

    Raises:
        CheckpointError: a name is no text, or a value no tensor or of another kind; the message names the keys.
    """
    import torch

    nameless = [repr(key) for key in state if type(key) is not str]
    if nameless:
        raise CheckpointError(f"{where} has weights whose names are no texts: {_listed('keys', nameless)}.")
    convertible = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    other: list[str] = []
    converted: Counter[tuple[str, str]] = Counter()
    for key, value in expected.items():
        found = state.get(key, value)
        if isinstance(found, torch.Tensor) and found.dtype == value.dtype:
            continue
        if isinstance(found, torch.Tensor) and {found.dtype, value.dtype} <= convertible:
            converted[_kind(found), _kind(value)] += 1
        else:
            other.append(f"{key} is {_kind(found)}, the model has {_kind(value)}")
    if other:
        raise CheckpointError(
            f"{where} holds {_listed('values of another kind', other)}. float16, bfloat16 and float64 are converted to "
            "float32, nothing else: save the float model's state_dict()."
        )
    for (found_kind, kind), count in converted.items():
        _log.info("%s: %d tensors of %s are converted to %s", where, count, found_kind, kind)


def check_finite(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Checks that weights are finite when they have the model's dtypes: 1e300 is no longer so in float32.

    Raises:
        CheckpointError: some are not; the message names the keys.
    """
    broken = [key for key, value in expected.items() if not bool(state[key].to(value.dtype).isfinite().all())]
    if broken:
        raise CheckpointError(f"{where} holds NaN or infinite values in {_listed('tensors', broken)}.")


def _kind(value: Any) -> str:
    """`float16` of a tensor, a type's name of anything else."""
    import torch

    if isinstance(value, torch.Tensor):
        return str(value.dtype).removeprefix("torch.")
    return repr(value) if is_skipped(value) else f"a {type(value).__name__}"


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:_LISTED_KEYS]) + (", …" if len(names) > _LISTED_KEYS else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
