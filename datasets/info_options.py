"""Options of the commands that make info files: their classes, and what becomes of points when they are read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from base.arguments import number
from base.errors import ConfigError
from base.messages import shown

__all__ = ["add_class_options", "add_point_options", "point_facts", "renaming"]

_MAX_SCALE, _MAX_HEIGHT_M = 1e6, 100.0


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


def add_point_options(parser: argparse.ArgumentParser) -> None:
    """`--intensity-scale` and `--lidar-height`, as `deploy.predict` has them."""
    parser.add_argument(
        "--intensity-scale",
        type=number(1 / _MAX_SCALE, _MAX_SCALE),
        default=1.0,
        metavar="K",
        help="factor by which intensities are multiplied when they are read; 255 where 0..1 is to be 0..255",
    )
    parser.add_argument(
        "--lidar-height",
        type=number(-_MAX_HEIGHT_M, _MAX_HEIGHT_M),
        default=0.0,
        metavar="M",
        help="metres that are added to z of points and boxes when they are read: the sensor above the ground",
    )


def point_facts(args: argparse.Namespace) -> dict[str, float]:
    """What `metainfo` says of these options; nothing where points are taken as they are."""
    facts = {"intensity_scale": args.intensity_scale} if args.intensity_scale != 1.0 else {}
    return {**facts, "lidar_height_m": args.lidar_height} if args.lidar_height != 0.0 else facts


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
