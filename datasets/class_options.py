"""How a command is told which classes an info file has, and which names of the data they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from base.errors import ConfigError
from base.messages import shown

__all__ = ["add_class_options", "renaming"]


def add_class_options(parser: argparse.ArgumentParser, default: str) -> None:
    """`--classes` and `--map`.

    Args:
        parser: Of the command.
        default: What the classes are without the option, for its help.
    """
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help=f"classes in the order of their labels (default: {default})"
    )
    parser.add_argument(
        "--map",
        nargs="+",
        default=[],
        metavar="NAME=CLASS",
        help="objects of that name are of that class: Car=car Pedestrian=pedestrian",
    )


def renaming(
    args: argparse.Namespace, default: Sequence[str], aliases: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes, and name -> class.

    Args:
        args: Of a parser with `add_class_options`.
        default: Classes without the option; where names are mapped, those that they are mapped to stand in their place.
        aliases: Names that mean another one in this data.

    Raises:
        ConfigError: an entry is no `NAME=CLASS`, a name is mapped twice, or a class is given twice or is not among the
            classes.
    """
    mapping: dict[str, str] = {}
    for entry in args.map:
        name, equals, target = entry.partition("=")
        if not (name and equals and target):
            raise ConfigError(f"--map has {shown(entry)}; give NAME=CLASS, such as Car=car.")
        if name in mapping:
            raise ConfigError(f"--map names {shown(name)} twice.")
        mapping[name] = target
    names = {**(aliases or {}), **mapping}
    if args.classes:
        classes = tuple(args.classes)
    else:
        classes = tuple(dict.fromkeys(mapping.get(name, name) for name in default))
        classes = tuple(dict.fromkeys((*classes, *mapping.values())))
    twice = [name for name in classes if classes.count(name) > 1]
    if twice:
        raise ConfigError(f"--classes names {shown(twice[0])} twice.")
    unknown = [target for target in mapping.values() if target not in classes]
    if unknown:
        raise ConfigError(f"--map maps to {shown(unknown[0])}, which --classes does not name.")
    return classes, names
