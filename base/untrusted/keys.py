"""Keys of dictionaries and items of sets: only values that hash quickly, and without deep recursion.

Python hashes a key when it is put in. A tuple's hash visits all that is inside, over and over and on the C stack;
hashes of large integers and floats can be chosen so that they all collide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from base.untrusted.limits import MAX_TUPLE_KEY, MAX_UNUSUAL_KEYS
from base.untrusted.refusal import Refused
from base.untrusted.stand_ins import kind

__all__ = ["check_keys"]

# Hashes of texts and bytes are seeded; True, False and None are three values. Integers below 2^31 spread by themselves.
_USUAL = frozenset({str, bytes, bool, type(None)})
_NUMBERS = frozenset({int, float, complex})
_SMALL = 1 << 31


def check_keys(keys: Sequence[Any], total: int, is_other_key: Callable[[object], bool]) -> None:
    """Checks keys before they are put into a dictionary or set.

    Args:
        keys: What is put in.
        total: Entries that there will be.
        is_other_key: Whether a value that is no text, number or tuple may be a key.

    Raises:
        Refused: a key is of another kind, or such keys are too many.
    """
    unusual = False
    for key in keys:
        kind_of_key = type(key)
        if kind_of_key in _USUAL or (kind_of_key is int and -_SMALL <= key < _SMALL):
            continue
        unusual = True
        if kind_of_key is tuple:
            _check_tuple(key)
        elif kind_of_key not in _NUMBERS and not is_other_key(key):
            raise Refused(f"{kind(key)} is the key of a dictionary or in a set")
    if unusual and total > MAX_UNUSUAL_KEYS:
        raise Refused(
            f"a dictionary or set of {total} entries has keys that are neither texts nor small integers; "
            f"{MAX_UNUSUAL_KEYS} entries are the most then"
        )


def _check_tuple(key: tuple[Any, ...]) -> None:
    pending, count = [key], 0
    while pending:
        values = pending.pop()
        count += max(1, len(values))
        if count > MAX_TUPLE_KEY:
            raise Refused(f"the key of a dictionary is a tuple of more than {MAX_TUPLE_KEY} values")
        for value in values:
            if type(value) is tuple:
                pending.append(value)
            elif type(value) not in _USUAL and type(value) not in _NUMBERS:
                raise Refused(f"{kind(value)} is in a tuple that is the key of a dictionary")
