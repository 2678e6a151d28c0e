"""What training leaves in a checkpoint beside weights: objects of classes, which are skipped without being made.

Curves of losses, callbacks, hyper-parameters. The reader needs none of them, and imports none of their classes. What a
name means cannot be known without importing it, so the way in which a pickle uses it decides:

* mentioned, or made as pickle makes objects of classes (NEWOBJ): skipped;
* called: skipped where the name is that of a class (`CapWords`) or of a package's own support for pickles (`_private`),
  outside of Python's own library, or one of the few of Python's own that values are made of. Everything else is a
  function, and a file of values calls none: refused.
"""

from __future__ import annotations

import sys

from base.messages import printable
from base.untrusted.refusal import Refused
from base.untrusted.stand_ins import StandIn, kind

__all__ = ["Skipped", "SkippedName", "skipped_names"]

# Of Python's own names, those whose call only makes a value, and which frameworks are known to save.
_VALUES = frozenset(
    {
        ("argparse", "Namespace"),
        ("builtins", "bytearray"),
        ("collections", "Counter"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("functools", "partial"),
        ("pathlib", "Path"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePath"),
        ("pathlib", "PurePosixPath"),
        ("pathlib", "WindowsPath"),
        ("types", "SimpleNamespace"),
        ("uuid", "UUID"),
    }
)


class Skipped(StandIn):
    """An object that was not made; what is put into it is dropped."""

    __slots__ = ()

    def build(self, state: object) -> object:
        return self

    def extend(self, items: list[object]) -> None:
        """Drops the items."""

    def update(self, keys: list[object], values: list[object]) -> None:
        """Drops the items."""

    def __repr__(self) -> str:
        return f"<skipped {self.what}>"


class SkippedName(StandIn):
    """A name that was not imported."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"{printable(module)}.{printable(name)}")
        self.module, self.name = module, name

    def call(self, arguments: tuple[object, ...]) -> object:
        package = self.module.partition(".")[0]
        first = self.name.rpartition(".")[2][:1]
        is_python = package in sys.stdlib_module_names
        if (self.module, self.name) in _VALUES or ((first.isupper() or first == "_") and not is_python):
            return Skipped(self.what)
        raise Refused(f"it calls '{self.what}', and nothing in a checkpoint needs that")

    def new(self, arguments: tuple[object, ...]) -> object:
        return Skipped(self.what)

    def attribute(self, name: str) -> SkippedName:
        """The name of something inside of this one.

        Raises:
            Refused: this one is of Python's own library, where classes have methods that act.
        """
        if self.module.partition(".")[0] in sys.stdlib_module_names:
            raise Refused(f"it asks for '{self.what}.{printable(name)}', which no checkpoint needs")
        return SkippedName(self.module, f"{self.name}.{name}")

    def __repr__(self) -> str:
        return f"<skipped {self.what}>"


class _Getattr(StandIn):
    """Protocol 2 writes the name of a method as `getattr(class, 'name')`; it gives a name, and looks nothing up."""

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (SkippedName() as owner, str(name)):
                return owner.attribute(name)
        raise Refused(f"it calls 'builtins.getattr' with {', '.join(map(kind, arguments)) or 'nothing'}")


class _Reconstructor(StandIn):
    """Protocols 0 and 1 make an object as `copyreg._reconstructor(class, object, None)`: skipped like any other."""

    def call(self, arguments: tuple[object, ...]) -> object:
        match arguments:
            case (SkippedName() as owner, *_):
                return owner.new(())
        raise Refused(f"'{self.what}' is called without a class")


def skipped_names() -> dict[tuple[str, str], StandIn]:
    """Stand-ins for the names with which pickle makes objects and refers to methods."""
    return {
        ("builtins", "getattr"): _Getattr("builtins.getattr"),
        ("copyreg", "_reconstructor"): _Reconstructor("copyreg._reconstructor"),
    }
