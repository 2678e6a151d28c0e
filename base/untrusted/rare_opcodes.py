"""Opcodes of pickles that are seldom met, or whose work outweighs the price of a call."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from base.messages import printable
from base.untrusted.keys import check_keys
from base.untrusted.limits import (
    MAX_INTEGER_BYTES,
    MAX_NAME_BYTES,
    MAX_NUMBER_TEXT,
    Memory,
)
from base.untrusted.refusal import Refused
from base.untrusted.stand_ins import StandIn, Vocabulary, kind, tuple_of

__all__ = ["CONTAINERS", "RareOpcodes"]

CONTAINERS = frozenset({list, dict, tuple, set, frozenset, OrderedDict})
_SET_BYTES = 240
_LIST_BYTES = 72
_MEMO_ENTRY_BYTES = 100


class RareOpcodes:
    """The state of one reading, and its rare opcodes: methods from the place behind the opcode to the next one."""

    def __init__(self, data: bytes, vocabulary: Vocabulary, memory: Memory) -> None:
        self.data = data
        self.vocabulary = vocabulary
        self.memory = memory
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        # Containers that are referred to from more than one place, by id; `structure` needs them.
        self.shared: dict[int, Any] = {}
        self._sparse_memo: dict[int, Any] = {}

    # What other opcodes share

    def take(self, pos: int, size: int) -> bytes:
        """The `size` bytes at `pos`.

        Raises:
            Refused: the file ends before.
        """
        found = self.data[pos : pos + size]
        if len(found) != size:
            raise Refused(f"it ends in the middle of a value of {size} bytes")
        return found

    def line(self, pos: int, longest: int) -> bytes:
        """The text from `pos` to the end of its line.

        Raises:
            Refused: the file ends before, or the line is longer than `longest`.
        """
        end = self.data.find(b"\n", pos, pos + longest + 1)
        if end < 0:
            raise Refused(f"a line of it has no end within {longest} bytes")
        return self.data[pos:end]

    def to_mark(self) -> list[Any]:
        """Takes everything above the topmost mark from the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def sparse(self, index: int) -> Any:
        """What was memoised under a number that did not follow the one before it."""
        if index not in self._sparse_memo:
            raise Refused(f"it refers to its value number {index}, which it does not have")
        return self._sparse_memo[index]

    def memoize(self, index: int) -> None:
        """Memoises the top of the stack under any number."""
        if index < len(self.memo):
            self.memo[index] = self.stack[-1]
        elif index == len(self.memo):
            self.memo.append(self.stack[-1])
        elif index > len(self.data):
            raise Refused(f"it numbers a value {index}, and has {len(self.data)} bytes")
        else:
            # A list that reaches to the number would take far more memory than the file.
            self.memory.take(_MEMO_ENTRY_BYTES)
            self._sparse_memo[index] = self.stack[-1]

    def again(self, value: Any) -> Any:
        """Notes that a container is referred to once more; a stand-in may stand for a value by now."""
        if isinstance(value, StandIn):
            value = value.remembered()
        if type(value) in CONTAINERS or isinstance(value, np.ndarray):
            self.shared[id(value)] = value
        return value

    def set_items(self, target: Any, keys: list[Any], values: list[Any]) -> None:
        """Sets items of a dictionary whose keys are not all texts, or of a stand-in."""
        if isinstance(target, StandIn):
            target.update(keys, values)
            return
        if type(target) is not dict and type(target) is not OrderedDict:
            raise Refused(f"it sets items of {kind(target)}")
        if len(keys) != len(values):
            raise Refused("a key of a dictionary has no value")
        check_keys(keys, len(target) + len(keys), self.vocabulary.is_key)
        target.update(zip(keys, values, strict=True))

    def extend(self, target: Any, items: list[Any]) -> None:
        """Appends to what is no list."""
        if not isinstance(target, StandIn):
            raise Refused(f"it appends to {kind(target)}")
        target.extend(items)

    def call(self, target: Any, arguments: Any) -> Any:
        """What REDUCE gives."""
        if not isinstance(target, StandIn):
            raise Refused(f"it calls {kind(target)}")
        return target.call(tuple_of(arguments, target.what))

    def build(self, target: Any, state: Any) -> Any:
        """What BUILD leaves in the place of `target`."""
        if isinstance(target, StandIn):
            return target.build(state)
        if type(target) is OrderedDict and type(state) is dict:
            vars(target).update(self.vocabulary.attributes(state))
            return target
        raise Refused(f"it sets the state of {kind(target)}")

    # Opcodes

    def _proto(self, pos: int) -> int:
        protocol = self.data[pos]
        if protocol > 5:
            raise Refused(f"it is a pickle of protocol {protocol}; 5 is the highest there is")
        return pos + 1

    def _frame(self, pos: int) -> int:
        self.take(pos, 8)
        return pos + 8

    def _pop(self, pos: int) -> int:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()
        return pos

    def _pop_mark(self, pos: int) -> int:
        self.to_mark()
        return pos

    def _dup(self, pos: int) -> int:
        self.stack.append(self.again(self.stack[-1]))
        return pos

    def _int(self, pos: int) -> int:
        text = self.line(pos, MAX_NUMBER_TEXT)
        self.stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))
        return pos + len(text) + 1

    def _long(self, pos: int) -> int:
        text = self.line(pos, MAX_NUMBER_TEXT)
        self.stack.append(int(text.removesuffix(b"L")))
        return pos + len(text) + 1

    def _long1(self, pos: int) -> int:
        return self._integer(pos + 1, self.data[pos])

    def _long4(self, pos: int) -> int:
        return self._integer(pos + 4, struct.unpack("<i", self.take(pos, 4))[0])

    def _integer(self, pos: int, size: int) -> int:
        if not 0 <= size <= MAX_INTEGER_BYTES:
            raise Refused(f"an integer of {size} bytes is in it; {MAX_INTEGER_BYTES} are the most")
        self.stack.append(int.from_bytes(self.take(pos, size), "little", signed=True))
        return pos + size

    def _float(self, pos: int) -> int:
        text = self.line(pos, MAX_NUMBER_TEXT)
        self.stack.append(float(text))
        return pos + len(text) + 1

    def _unicode(self, pos: int) -> int:
        text = self.line(pos, len(self.data))
        self.stack.append(_without_surrogates(text.decode("raw-unicode-escape")))
        return pos + len(text) + 1

    def _binunicode8(self, pos: int) -> int:
        size = int.from_bytes(self.take(pos, 8), "little")
        self.stack.append(self.take(pos + 8, size).decode())
        return pos + 8 + size

    def _short_string(self, pos: int) -> int:
        return self._old_text(pos + 1, self.data[pos])

    def _binstring(self, pos: int) -> int:
        return self._old_text(pos + 4, struct.unpack("<i", self.take(pos, 4))[0])

    def _old_text(self, pos: int, size: int) -> int:
        if size < 0:
            raise Refused(f"a text of {size} bytes is in it")
        self.stack.append(self.take(pos, size).decode("ascii"))  # as Python 2 wrote names
        return pos + size

    def _binbytes(self, pos: int) -> int:
        return self._bytes(pos + 4, struct.unpack("<I", self.take(pos, 4))[0])

    def _binbytes8(self, pos: int) -> int:
        return self._bytes(pos + 8, struct.unpack("<Q", self.take(pos, 8))[0])

    def _bytes(self, pos: int, size: int) -> int:
        self.stack.append(self.take(pos, size))
        return pos + size

    def _bytearray8(self, pos: int) -> int:
        size = int.from_bytes(self.take(pos, 8), "little")
        self.stack.append(bytearray(self.take(pos + 8, size)))
        return pos + 8 + size

    def _list(self, pos: int) -> int:
        self.memory.take(_LIST_BYTES)
        self.stack.append(self.to_mark())
        return pos

    def _dict(self, pos: int) -> int:
        items = self.to_mark()
        made: dict[Any, Any] = {}
        self.memory.take(_SET_BYTES)
        self.set_items(made, items[::2], items[1::2])
        self.stack.append(made)
        return pos

    def _empty_set(self, pos: int) -> int:
        self.memory.take(_SET_BYTES)
        self.stack.append(set())
        return pos

    def _additems(self, pos: int) -> int:
        items = self.to_mark()
        target = self.stack[-1]
        if type(target) is set:
            check_keys(items, len(target) + len(items), self.vocabulary.is_key)
            target.update(items)
        else:
            self.extend(target, items)
        return pos

    def _frozenset(self, pos: int) -> int:
        items = self.to_mark()
        self.memory.take(_SET_BYTES)
        check_keys(items, len(items), self.vocabulary.is_key)
        self.stack.append(frozenset(items))
        return pos

    def _get(self, pos: int) -> int:
        text = self.line(pos, MAX_NUMBER_TEXT)
        index = int(text)
        self.stack.append(self.again(self.memo[index] if 0 <= index < len(self.memo) else self.sparse(index)))
        return pos + len(text) + 1

    def _put(self, pos: int) -> int:
        text = self.line(pos, MAX_NUMBER_TEXT)
        index = int(text)
        if index < 0:
            raise Refused(f"it numbers a value {index}")
        self.memoize(index)
        return pos + len(text) + 1

    def _global(self, pos: int) -> int:
        module = self.line(pos, MAX_NAME_BYTES)
        name = self.line(pos + len(module) + 1, MAX_NAME_BYTES)
        self.stack.append(self.vocabulary.stand_in(module.decode(), name.decode()))
        return pos + len(module) + len(name) + 2

    def _stack_global(self, pos: int) -> int:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("it asks for something without a name")
        if len(name) > MAX_NAME_BYTES or len(module) > MAX_NAME_BYTES:
            raise Refused(f"it asks for '{printable(module)}.{printable(name)}'")
        self.stack.append(self.vocabulary.stand_in(module, name))
        return pos

    def _newobj(self, pos: int) -> int:
        arguments, target = self.stack.pop(), self.stack.pop()
        if not isinstance(target, StandIn):
            raise Refused(f"it makes an object of {kind(target)}")
        self.stack.append(target.new(tuple_of(arguments, target.what)))
        return pos

    def _newobj_ex(self, pos: int) -> int:
        named = self.stack.pop()
        if type(named) is not dict or named:
            raise Refused("it makes an object with named arguments")
        return self._newobj(pos)

    def _persid(self, pos: int) -> int:
        text = self.line(pos, MAX_NAME_BYTES)
        self.stack.append(self.vocabulary.persistent(text.decode()))
        return pos + len(text) + 1

    def _binpersid(self, pos: int) -> int:
        self.stack.append(self.vocabulary.persistent(self.stack.pop()))
        return pos

    RARE: ClassVar[dict[int, Callable[[Any, int], int]]] = {
        ord("0"): _pop,
        ord("1"): _pop_mark,
        ord("2"): _dup,
        ord("B"): _binbytes,
        ord("F"): _float,
        ord("I"): _int,
        ord("L"): _long,
        ord("P"): _persid,
        ord("Q"): _binpersid,
        ord("T"): _binstring,
        ord("U"): _short_string,
        ord("V"): _unicode,
        ord("c"): _global,
        ord("d"): _dict,
        ord("g"): _get,
        ord("l"): _list,
        ord("p"): _put,
        0x80: _proto,
        0x81: _newobj,
        0x8A: _long1,
        0x8B: _long4,
        0x8D: _binunicode8,
        0x8E: _binbytes8,
        0x8F: _empty_set,
        0x90: _additems,
        0x91: _frozenset,
        0x92: _newobj_ex,
        0x93: _stack_global,
        0x95: _frame,
        0x96: _bytearray8,
    }


def _without_surrogates(text: str) -> str:
    # Half of a character that no encoding writes: whoever prints or saves it fails. UTF-8 never gives one.
    text.encode()
    return text
