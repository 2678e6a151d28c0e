"""What takes the place of a name that a pickle mentions.

A pickle names callables and calls them with arguments of its own. The reader never imports such a name and never calls
what it means: a vocabulary gives a stand-in for it, which checks the arguments and builds a plain value, or refuses.
"""

from __future__ import annotations

from typing import Protocol

from base.untrusted.refusal import Refused

__all__ = ["StandIn", "Vocabulary", "kind", "stand_in_types", "tuple_of"]


class StandIn:
    """A name of the file, or what a call of it gave; each operation that a kind does not define is refused."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        """`what`: for messages, such as 'numpy.dtype'."""
        self.what = what

    def call(self, arguments: tuple[object, ...]) -> object:
        """The value of `what(*arguments)` (REDUCE)."""
        raise Refused(f"it calls '{self.what}', which is no function of a value")

    def new(self, arguments: tuple[object, ...]) -> object:
        """The value of `what.__new__(what, *arguments)` (NEWOBJ)."""
        raise Refused(f"it makes an object of '{self.what}', which is no plain value")

    def build(self, state: object) -> object:
        """The value after `state` was set (BUILD); takes this one's place."""
        raise Refused(f"it sets the state of '{self.what}'")

    def extend(self, items: list[object]) -> None:
        """Appends items (APPENDS, ADDITEMS)."""
        raise Refused(f"it appends to '{self.what}'")

    def update(self, keys: list[object], values: list[object]) -> None:
        """Sets items (SETITEMS)."""
        raise Refused(f"it sets items of '{self.what}'")

    def remembered(self) -> object:
        """What the file gets when it refers to this again."""
        return self


class Vocabulary(Protocol):
    """The names that one kind of file may use."""

    def stand_in(self, module: str, name: str) -> object:
        """What takes the place of a name.

        Raises:
            Refused: no such file needs it.
        """

    def persistent(self, identifier: object) -> object:
        """The value that lies outside of the pickle under `identifier`.

        Raises:
            Refused: there is none.
        """

    def attributes(self, state: dict[object, object]) -> dict[str, object]:
        """What an OrderedDict carries as attributes, made anew.

        Raises:
            Refused: such a file needs none, or other ones.
        """

    def is_key(self, value: object) -> bool:
        """Whether a value that is no plain number, text or tuple may be a dictionary's key."""


def kind(value: object) -> str:
    """What a value is, for a message."""
    return f"the name '{value.what}'" if isinstance(value, StandIn) else f"a value of type {type(value).__name__}"


def tuple_of(arguments: object, what: str) -> tuple[object, ...]:
    """`arguments` if they are a tuple.

    Raises:
        Refused: they are something else.
    """
    if type(arguments) is not tuple:
        raise Refused(f"'{what}' is called with {kind(arguments)} in place of arguments")
    return arguments


def stand_in_types() -> frozenset[type]:
    """All kinds of stand-ins; where what they stand for is skipped, they may be part of a value."""
    found, pending = set(), [StandIn]
    while pending:
        kind_of_stand_in = pending.pop()
        found.add(kind_of_stand_in)
        pending.extend(kind_of_stand_in.__subclasses__())
    return frozenset(found)
