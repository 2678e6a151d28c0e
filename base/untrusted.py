"""Reading pickles and checkpoints that may come from anywhere, without running what is in them."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from base.errors import CheckpointError, DataError
from base.lazy import require

__all__ = ["load_info_pickle", "load_weights_file"]

# Everything an info file needs beyond plain containers, numbers and strings: numpy arrays and scalars, as numpy 1 and 2
# spell them.
_ALLOWED_GLOBALS = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
        ("collections", "OrderedDict"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "complex"),
        ("_codecs", "encode"),
    }
)


# What a training run of mmengine leaves in a checkpoint beside tensors: curves of losses, and numpy numbers. Weights
# need none of it, and stand-ins that do nothing take its place.
_TRAINING_RECORDS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Int64DType",
)


class _Ignored:
    """Takes the place of a training record; keeps nothing of it."""

    def __new__(cls, *_: Any) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Forgets the state."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED_GLOBALS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for '{module}.{name}', which no info file needs")


def load_info_pickle(path: str | Path) -> Any:
    """Loads an info file; only containers, numbers, strings and numpy arrays are allowed in it.

    Raises:
        DataError: the file is missing, truncated, no pickle, or names anything else; nothing of it was run.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read info file '{path}': {error.strerror}") from error
    try:
        return _RestrictedUnpickler(io.BytesIO(data)).load()
    # A broken pickle can fail in any opcode; these are the kinds that the unpickler documents or raises in practice.
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(
            f"Info file '{path}' ({len(data)} bytes) was refused: {error}. Only plain containers, numbers, strings and "
            "numpy arrays are accepted, and nothing in the file was run. Write the info file again from its dataset."
        ) from error


def load_weights_file(path: str | Path) -> dict[str, Any]:
    """Loads a PyTorch checkpoint on the CPU without running code in it (`weights_only=True`).

    Checkpoints as a training run saves them load too: their loss curves and numpy numbers come back as empty objects.

    Returns:
        The checkpoint's dictionary: `{'state_dict': …, 'meta': …}` or a bare state dict.

    Raises:
        CheckpointError: the file is missing, broken, unsafe, or holds no dictionary.
    """
    path = Path(path)
    torch = require("torch", "to read a checkpoint")
    if not path.is_file():
        raise CheckpointError(
            f"Checkpoint '{path}' does not exist. Give its path with --checkpoint or as checkpoint_path."
        )
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in _TRAINING_RECORDS]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
    ) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"Checkpoint '{path}' ({path.stat().st_size} bytes) was refused: {first_line} Nothing in it was run. A "
            "checkpoint may hold tensors, numbers, strings and containers only; save it again as {'state_dict': …}."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"Checkpoint '{path}' holds a {type(checkpoint).__name__}, not a dictionary with 'state_dict'."
        )
    return checkpoint
