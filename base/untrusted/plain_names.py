"""Stand-ins for the names of Python itself that plain values need."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from base.messages import printable
from base.untrusted.keys import check_keys
from base.untrusted.limits import Memory
from base.untrusted.refusal import Refused
from base.untrusted.stand_ins import StandIn, kind

__all__ = ["plain_names"]

_LATIN1 = frozenset({"latin1", "latin-1"})
_ITEM_BYTES = 64
_ORDERED_DICT_BYTES = 500


def plain_names(memory: Memory, is_other_key: Callable[[object], bool]) -> dict[tuple[str, str], StandIn]:
    """Stand-ins by module and name, as Python 3 spells the modules; `is_other_key` as for `keys.check_keys`."""
    return {
        ("builtins", "set"): _Set("builtins.set", memory, is_other_key),
        ("builtins", "frozenset"): _Set("builtins.frozenset", memory, is_other_key),
        ("builtins", "complex"): _Complex("builtins.complex"),
        ("builtins", "bytes"): _NoBytes("builtins.bytes"),
        ("collections", "OrderedDict"): _OrderedDict("collections.OrderedDict", memory),
        ("_codecs", "encode"): _Latin1("_codecs.encode", memory),
    }


class _Allocating(StandIn):
    __slots__ = ("memory",)

    def __init__(self, what: str, memory: Memory) -> None:
        super().__init__(what)
        self.memory = memory


class _Set(_Allocating):
    """Protocols 0 to 3 write a set as a call with its list; made anew, of values whose hashes are cheap."""

    __slots__ = ("is_other_key",)

    def __init__(self, what: str, memory: Memory, is_other_key: Callable[[object], bool]) -> None:
        super().__init__(what, memory)
        self.is_other_key = is_other_key

    def call(self, arguments: tuple[object, ...]) -> object:
        if len(arguments) != 1 or type(arguments[0]) is not list:
            raise Refused(f"'{self.what}' is called with something else than one list")
        items = arguments[0]
        self.memory.take(_ITEM_BYTES * (len(items) + 4))
        check_keys(items, len(items), self.is_other_key)
        return set(items) if self.what == "builtins.set" else frozenset(items)


class _Complex(StandIn):
    """A complex number is a call with two floats; two floats are all that it is made of here."""

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (float(real), float(imaginary)):
                return complex(real, imaginary)
        raise Refused("'builtins.complex' is called with something else than two floats")


class _NoBytes(StandIn):
    """Protocols 0 to 2 write b'' as a call without arguments; any argument (a length, an object) is refused."""

    def call(self, arguments: tuple[object, ...]) -> object:
        if arguments:
            raise Refused("'builtins.bytes' is called with arguments")
        return b""


class _OrderedDict(_Allocating):
    """An ordered dictionary is a call without arguments; its items follow as those of a dictionary do."""

    def call(self, arguments: tuple[object, ...]) -> object:
        if arguments:
            raise Refused("'collections.OrderedDict' is called with arguments")
        self.memory.take(_ORDERED_DICT_BYTES)
        return OrderedDict()


class _Latin1(_Allocating):
    """Protocols 0 to 2 write bytes as a text and 'latin1', the one codec that is allowed: a byte a character, no more.

    Other codecs multiply what they get ('hex'), take the square of its time ('punycode'), or import modules by name.
    """

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (str(text), str(codec)) if codec in _LATIN1:
                self.memory.take(len(text))
                return text.encode("latin1")
            case (_, str(codec)):
                raise Refused(
                    f"it asks for '_codecs.encode' with the codec '{printable(codec)}'; only latin1 is needed"
                )
        raise Refused(f"it asks for '_codecs.encode' with {', '.join(map(kind, arguments)) or 'nothing'}")
