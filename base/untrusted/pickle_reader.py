"""An own reader of pickles: it builds plain values, and calls nothing that a file names.

Python's unpickler is a machine that runs a file's program on whatever objects its globals name. Restricting the names
is not enough: with numpy's own `ndarray` and `dtype` a file forges pointers, and with `codecs.encode` it fills the
memory. This reader executes the same opcodes (protocols 0 to 5) on values that it made itself. A global is a stand-in
of its vocabulary (`stand_ins`), and is never imported; memory, nesting and keys are limited (`limits`).
"""

from __future__ import annotations

import pickletools
import struct
from typing import Any

from base.collector import without_collections
from base.untrusted.limits import Memory, container_memory
from base.untrusted.rare_opcodes import RareOpcodes
from base.untrusted.refusal import Refused
from base.untrusted.stand_ins import StandIn, Vocabulary

__all__ = ["PickleReader"]

# What one takes at least: a dictionary and its first entry, a list and its first item, a tuple and one item.
_DICT_BYTES, _LIST_BYTES, _TUPLE_BYTES = 280, 120, 64
_ONLY_TEXT = {str}
_CUT = Refused("it is cut off")
_TOO_MANY = Refused("it has far more lists, dictionaries and tuples than a file of its size has content for")


class PickleReader(RareOpcodes):
    """Reads the pickles of one file, one after the other."""

    def __init__(self, data: bytes, vocabulary: Vocabulary, memory: Memory) -> None:
        """`data`: the file's bytes; `memory`: shared with the vocabulary."""
        super().__init__(data, vocabulary, memory)
        self.end = 0  # behind what was read

    def read(self) -> Any:
        """The value of the next pickle; `end` is the place behind it.

        Raises:
            Refused: it is truncated, broken, beyond a limit, or names something outside of the vocabulary. The text
                ends with the place.
        """
        self.stack, self.marks, self.memo, self._sparse_memo = [], [], [], {}
        with without_collections():  # millions of containers, and no garbage
            return self._run(self.end)

    def _run(self, pos: int) -> Any:
        data, stack, marks, memo = self.data, self.stack, self.marks, self.memo
        push, remember, rare = stack.append, memo.append, self.RARE
        double = struct.Struct(">d").unpack_from
        int4 = struct.Struct("<i").unpack_from
        size4 = struct.Struct("<I").unpack_from
        size2 = struct.Struct("<H").unpack_from
        size, containers, most = len(data), 0, container_memory(len(data))
        at = pos
        try:
            # The order is that of how often info files have an opcode; each comparison counts.
            while True:
                at = pos
                op = data[pos]
                pos += 1
                if op == 0x47:  # BINFLOAT
                    push(double(data, pos)[0])
                    pos += 8
                elif op == 0x94:  # MEMOIZE
                    remember(stack[-1])
                elif op == 0x68 or op == 0x6A:  # BINGET, LONG_BINGET
                    if op == 0x68:
                        index = data[pos]
                        pos += 1
                    else:
                        (index,) = size4(data, pos)
                        pos += 4
                    value = memo[index] if index < len(memo) else self.sparse(index)
                    kind = type(value)
                    if kind is not str and kind is not bytes:
                        value = self.again(value)
                    push(value)
                elif op == 0x4B:  # BININT1
                    push(data[pos])
                    pos += 1
                elif op == 0x8C:  # SHORT_BINUNICODE
                    stop = pos + 1 + data[pos]
                    if stop > size:
                        raise _CUT
                    push(data[pos + 1 : stop].decode())
                    pos = stop
                elif op == 0x28:  # MARK
                    marks.append(len(stack))
                elif op == 0x65:  # APPENDS
                    start = marks.pop()
                    items = stack[start:]
                    del stack[start:]
                    target = stack[-1]
                    if type(target) is list:
                        target += items
                    else:
                        self.extend(target, items)
                elif op == 0x75 or op == 0x73:  # SETITEMS, SETITEM
                    start = marks.pop() if op == 0x75 else len(stack) - 2
                    if start < 1:
                        raise IndexError
                    keys, values = stack[start::2], stack[start + 1 :: 2]
                    del stack[start:]
                    target = stack[-1]
                    if type(target) is dict and set(map(type, keys)) == _ONLY_TEXT and len(keys) == len(values):
                        target.update(zip(keys, values))  # noqa: B905 - compared in the line above
                    else:
                        self.set_items(target, keys, values)
                elif op == 0x5D:  # EMPTY_LIST
                    containers += _LIST_BYTES
                    if containers > most:
                        raise _TOO_MANY
                    push([])
                elif op == 0x7D:  # EMPTY_DICT
                    containers += _DICT_BYTES
                    if containers > most:
                        raise _TOO_MANY
                    push({})
                elif op == 0x71 or op == 0x72:  # BINPUT, LONG_BINPUT
                    if op == 0x71:
                        index = data[pos]
                        pos += 1
                    else:
                        (index,) = size4(data, pos)
                        pos += 4
                    if index == len(memo):
                        remember(stack[-1])
                    else:
                        self.memoize(index)
                elif op == 0x58:  # BINUNICODE
                    stop = pos + 4 + size4(data, pos)[0]
                    if stop > size:
                        raise _CUT
                    push(data[pos + 4 : stop].decode())
                    pos = stop
                elif 0x85 <= op <= 0x87 or op == 0x74 or op == 0x29:  # TUPLE1 to TUPLE3, TUPLE, EMPTY_TUPLE
                    start = marks.pop() if op == 0x74 else len(stack) - (op - 0x84 if op != 0x29 else 0)
                    if start < 0:
                        raise IndexError
                    containers += _TUPLE_BYTES
                    if containers > most:
                        raise _TOO_MANY
                    stack[start:] = [tuple(stack[start:])]
                elif op == 0x88:  # NEWTRUE
                    push(True)
                elif op == 0x89:  # NEWFALSE
                    push(False)
                elif op == 0x4E:  # NONE
                    push(None)
                elif op == 0x4A:  # BININT
                    push(int4(data, pos)[0])
                    pos += 4
                elif op == 0x4D:  # BININT2
                    push(size2(data, pos)[0])
                    pos += 2
                elif op == 0x61:  # APPEND
                    value = stack.pop()
                    target = stack[-1]
                    if type(target) is list:
                        target.append(value)
                    else:
                        self.extend(target, [value])
                elif op == 0x43:  # SHORT_BINBYTES
                    push(self.take(pos + 1, data[pos]))
                    pos += 1 + data[pos]
                elif op == 0x52:  # REDUCE
                    arguments = stack.pop()
                    stack[-1] = self.call(stack[-1], arguments)
                elif op == 0x62:  # BUILD
                    state = stack.pop()
                    stack[-1] = self.build(stack[-1], state)
                elif op == 0x2E:  # STOP
                    self.end = pos
                    if len(stack) != 1 or marks:
                        raise Refused("it ends with one value, and has more or none")
                    return stack[0].remembered() if isinstance(stack[0], StandIn) else stack[0]
                else:
                    if op not in rare:
                        raise Refused("it uses an opcode that info files and checkpoints have no use for")
                    pos = rare[op](self, pos)
        except Refused as error:
            raise Refused(f"{error} ({self._place(at)})") from error
        except (IndexError, struct.error) as error:
            missing = "a value that it uses is missing" if pos < size and isinstance(error, IndexError) else str(_CUT)
            raise Refused(f"{missing} ({self._place(at)})") from error
        except UnicodeError as error:
            raise Refused(f"a text in it is no text ({self._place(at)}): {error}") from error
        except ValueError as error:
            raise Refused(f"a number in it is no number ({self._place(at)})") from error

    def _place(self, at: int) -> str:
        if at >= len(self.data):
            return f"at its end, byte {at}"
        code = self.data[at]
        known = [opcode.name for opcode in pickletools.opcodes if ord(opcode.code) == code]
        return f"byte {at}, {f'opcode {known[0]}' if known else f'no opcode: {code:#04x}'}"
