"""The pickle inside a checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from base.untrusted.limits import Memory
from base.untrusted.names import python_3_module
from base.untrusted.numpy_names import numpy_names
from base.untrusted.pickle_reader import PickleReader
from base.untrusted.plain_names import plain_names
from base.untrusted.refusal import Refused
from base.untrusted.skipped import SkippedName, skipped_names
from base.untrusted.stand_ins import StandIn, stand_in_types
from base.untrusted.structure import PLAIN_VALUES, check_structure
from base.untrusted.torch_names import Storages, TensorBook, storage_of, torch_names

__all__ = ["CheckpointPickle"]


# Of a name that is skipped and its texts, of a module's version.
_NAME_BYTES, _VERSION_BYTES = 512, 320


class _CheckpointVocabulary:
    """Plain values, numpy arrays and tensors; the rest is skipped or refused (`skipped`)."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.names: Mapping[tuple[str, str], object] = {}
        self._skipped: dict[tuple[str, str], SkippedName] = {}

    def stand_in(self, module: str, name: str) -> object:
        module = python_3_module(module)
        found = self.names.get((module, name)) or self._skipped.get((module, name))
        if found is None:
            self._memory.take(_NAME_BYTES)
            found = self._skipped[module, name] = SkippedName(module, name)
        return found

    def persistent(self, identifier: object) -> object:
        return storage_of(identifier)

    def attributes(self, state: dict[object, object]) -> dict[str, object]:
        match state:
            case {"_metadata": dict(versions), **rest} if not rest:
                self._memory.take(_VERSION_BYTES * len(versions))
                return {"_metadata": _module_versions(versions)}
        raise Refused("it sets attributes of a dictionary that are not the _metadata of a state_dict()")

    def is_key(self, value: object) -> bool:
        return isinstance(value, np.generic | StandIn)


def _module_versions(versions: dict[object, object]) -> OrderedDict[str, dict[str, object]]:
    """What `nn.Module.state_dict()` hangs on its dictionary, and `load_state_dict` looks at."""
    found: OrderedDict[str, dict[str, object]] = OrderedDict()
    for name, entry in versions.items():
        match entry:
            case {"version": int() | None as version} if type(name) is str:
                found[name] = {"version": version}
            case _:
                raise Refused("the _metadata of a state_dict() are not the versions of modules")
    return found


class CheckpointPickle:
    """Reads the pickles of one checkpoint, one after the other."""

    def __init__(self, data: bytes, torch: Any, storages: Storages, file_size: int) -> None:
        """`data`: where the pickles are; `file_size`: of the whole checkpoint, which bounds its tensors."""
        self.tensors = TensorBook(torch, file_size)
        memory = Memory(len(data))
        vocabulary = _CheckpointVocabulary(memory)
        self._reader = PickleReader(data, vocabulary, memory)
        vocabulary.names = {
            **plain_names(memory, vocabulary.is_key),
            **numpy_names(memory, self._reader.again),
            **torch_names(torch, storages, self.tensors),
            **skipped_names(),
        }
        self._allowed = (
            PLAIN_VALUES
            | stand_in_types()
            | {
                torch.Tensor,
                torch.nn.Parameter,
                torch.Size,
                torch.dtype,
                torch.device,
            }
        )
        self._size = len(data)

    @property
    def end(self) -> int:
        """The place behind what was read."""
        return self._reader.end

    def read(self) -> Any:
        """The value of the next pickle.

        Raises:
            Refused: see `PickleReader.read` and `check_structure`.
        """
        value = self._reader.read()
        check_structure(value, self._reader.shared, self._allowed, self._size)
        return value
