"""Mutations of documents (JSON, YAML, Python settings) by their values, and how those are written down."""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator
from functools import lru_cache
from random import Random
from typing import Any

from tests.faults.hostile_values import Pairs, Raw, hostile_value
from tests.faults.mutate_bytes import Mutation, either, mutate_bytes

__all__ = ["json_mutation", "literals_mutation", "mutate_tree", "places", "python_text", "to_json", "yaml_mutation"]

Path = tuple[Any, ...]
_MAX_PLACES = 4000
_MAX_DEPTH = 40
_YAML_TEXTS = (
    *("!!python/object/apply:os.system ['touch RAN']", "!!binary aGVsbG8=", "!!set {a, b}", "!custom 1", "2001-01-01"),
    *(
        "2001-12-14t21:59:43.10-05:00",
        "0o17",
        "0b101",
        "190:20:30",
        "~",
        "yes",
        ".nan",
        "-.inf",
        "[a, &x b, *x]",
        "? a",
    ),
    *("{<<: {a: 1}, b: 2}", "{&a a: &b [*a], c: *b}", '"\\ud800"', "'unended", "|\n  text", "- - - 1", "@", "%TAG"),
    *(
        "&a [&b [1,1,1,1,1,1,1,1,1,1], *b,*b,*b,*b,*b,*b,*b,*b,*b]",
        "1__0",
        "1e",
        "+",
        "0x",
        "!!int '1'",
        "!!str 1",
        "\t- 1",
    ),
)


def places(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of all values below `tree`, itself last; not into what an earlier mutation nested without end."""
    entries: Iterator[tuple[Any, Any]] = iter(())
    if len(path) > _MAX_DEPTH:
        return
    if isinstance(tree, dict):
        entries = iter(tree.items())
    elif isinstance(tree, list | tuple):
        entries = enumerate(tree)
    for key, value in entries:
        yield from places(value, (*path, key))
    yield path


def mutate_tree(tree: Any, rng: Random, hostile: Callable[[Random], Any] = hostile_value) -> Any:
    """A copy of `tree` with one to three values replaced, removed, renamed, repeated, swapped or bent.

    Args:
        tree: Dictionaries, lists and scalars; left as it is.
        rng: Chooses.
        hostile: Draws what takes a value's place.
    """
    pickled = pickle.dumps(tree)
    out = pickle.loads(pickled)
    shapes = _shapes(pickled)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not shapes or rng.random() < 0.005:
            return hostile(rng)
        path = rng.choice(rng.choice(shapes))
        parent = _found(out, path[:-1])
        if not isinstance(parent, dict | list):  # tuples stay; what holds them is mutated
            continue
        if _found(parent, path[-1:]) is not _GONE:
            rng.choice(_CHANGES)(parent, path[-1], out, [path for group in shapes for path in group], rng, hostile)
    return out


@lru_cache(maxsize=4)
def _shapes(pickled: bytes) -> list[list[Path]]:
    """The paths of all values, where the many rows of a list are one group."""
    shapes: dict[Path, list[Path]] = {}
    for path in [path for path in places(pickle.loads(pickled)) if path][:_MAX_PLACES]:
        shapes.setdefault(tuple("*" if isinstance(key, int) else key for key in path), []).append(path)
    return list(shapes.values())


_GONE = object()


def _found(tree: Any, path: Path) -> Any:
    """The value at a path; `_GONE` where an earlier change has taken it away."""
    for key in path:
        if isinstance(tree, dict):
            tree = tree.get(key, _GONE)
        elif isinstance(tree, list | tuple) and isinstance(key, int) and key < len(tree):
            tree = tree[key]
        else:
            return _GONE
    return tree


def _replace(parent: Any, key: Any, _: Any, __: list[Path], rng: Random, hostile: Callable[[Random], Any]) -> None:
    parent[key] = copy.deepcopy(hostile(rng))


def _remove(parent: Any, key: Any, *_: Any) -> None:
    del parent[key]


def _bend(parent: Any, key: Any, _: Any, __: list[Path], rng: Random, ___: Any) -> None:
    """The value stays near to what it was: another sign, another scale, another type."""
    value = parent[key]
    if isinstance(value, bool):
        parent[key] = rng.choice((int(value), str(value), not value, None))
    elif isinstance(value, int | float):
        parent[key] = rng.choice(
            (
                -value,
                value + 1,
                value * 2,
                str(value),
                [value],
                float(value) if abs(value) < 1e300 else 0.5,
                None,
                bool(value),
                0,
            )
        )
    elif isinstance(value, str):
        parent[key] = rng.choice(
            (
                value + " ",
                value.upper(),
                value[:-1],
                value * 50,
                value + "\0",
                "../" + value,
                "/" + value,
                [value],
                {value: value},
            )
        )
    elif isinstance(value, list):
        parent[key] = rng.choice(
            (value[:-1], value + value[-1:], [value], value[::-1], dict(enumerate(value)), tuple(value))
        )
        if isinstance(parent[key], tuple) or rng.random() < 0.02:
            parent[key] = (value or [0]) * 300
    elif isinstance(value, dict):
        parent[key] = rng.choice((list(value), list(value.values()), {**value, "unknown": 1}, {}, [value]))
    else:
        parent[key] = rng.choice((0, "", [], {}))


def _rename(parent: Any, key: Any, _: Any, __: list[Path], rng: Random, ___: Any) -> None:
    if isinstance(parent, dict):
        text = str(key)
        new = rng.choice((text + "_", text.upper(), "", "\0", text[::-1], "__proto__", "x" * 5000, "\ud800"))
        parent[new] = parent.pop(key)
    else:
        parent.insert(key, None)


def _repeat(parent: Any, key: Any, _: Any, __: list[Path], rng: Random, ___: Any) -> None:
    if isinstance(parent, list):
        parent[key:key] = [copy.deepcopy(parent[key]) for _ in range(rng.choice((1, 2, 50)))]
    else:
        pairs = list(parent.items())
        parent.clear()
        parent["\0pairs"] = Pairs((*pairs, (key, hostile_value(rng))))


def _swap(parent: Any, key: Any, tree: Any, paths: list[Path], rng: Random, _: Any) -> None:
    """Takes the value of another place."""
    found = _found(tree, rng.choice(paths))
    if found is not _GONE:
        parent[key] = copy.deepcopy(found)


_CHANGES: tuple[Callable[..., None], ...] = (
    _replace,
    _replace,
    _replace,
    _remove,
    _bend,
    _bend,
    _rename,
    _repeat,
    _swap,
)


def to_json(value: Any) -> str:
    """JSON text, or what looks like it: `Raw` as it stands, `Pairs` with repeated keys, NaN as Python's writer."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict | list):
        with contextlib.suppress(TypeError, ValueError, RecursionError):  # there is no Raw, no Pairs, no long integer
            return json.dumps(value)
    if isinstance(value, dict):
        if isinstance(value.get("\0pairs"), Pairs):
            value = value["\0pairs"]
        else:
            return "{" + ", ".join(f"{_key(key)}: {to_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{_key(key)}: {to_json(item)}" for key, item in value.items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(to_json(item) for item in value) + "]"
    if isinstance(value, int) and value.bit_length() > 13_000:
        return "9" * 4500
    return json.dumps(value)


def _key(key: Any) -> str:
    return json.dumps(key if isinstance(key, str) else str(key))


@lru_cache(maxsize=4)
def _json(data: bytes) -> Any:
    return json.loads(data)


@lru_cache(maxsize=4)
def _yaml(data: bytes) -> Any:
    import yaml

    return yaml.safe_load(data)


def json_mutation(
    sign: Callable[[Any], Any] = lambda tree: tree, write: Callable[[Any], bytes] = lambda tree: to_json(tree).encode()
) -> Mutation:
    """Mutates a JSON file by its values, a quarter of the time by its bytes.

    Args:
        sign: Puts back what the format computes over its content, such as a checksum.
        write: The file's bytes from its values.
    """

    def by_values(data: bytes, rng: Random) -> bytes:
        return write(sign(mutate_tree(_json(data), rng)))

    return either((3, by_values), (1, mutate_bytes))


def yaml_mutation(data: bytes, rng: Random) -> bytes:
    """Mutates a YAML file by its values (written as flow or as blocks), by what only YAML can say, by its bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    tree = mutate_tree(_yaml(data), rng, _hostile_yaml if rng.random() < 0.5 else hostile_value)
    if rng.random() < 0.5:
        return to_json(tree).encode()
    return _blocks(tree).encode("utf-8", "surrogatepass")


def _hostile_yaml(rng: Random) -> Raw:
    return Raw(rng.choice(_YAML_TEXTS))


def _blocks(tree: Any, indent: str = "") -> str:
    if isinstance(tree, dict) and tree and "\0pairs" not in tree:
        return "".join(f"\n{indent}{_key(key)}: {_blocks(value, indent + '  ')}" for key, value in tree.items()).lstrip(
            "\n" if not indent else ""
        )
    return to_json(tree)


def python_text(value: Any) -> str:
    """A Python expression of a value, for configs that are programs."""
    if isinstance(value, Raw):
        return "[" * 60 + "]" * 60 if value.text[:1] in "[{" else "10 ** 4400"
    if isinstance(value, dict):
        if isinstance(value.get("\0pairs"), Pairs):
            value = dict(value["\0pairs"].items)
        return "{" + ", ".join(f"{python_text(key)}: {python_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(python_text, value)) + "]"
    if isinstance(value, tuple):
        return "(" + "".join(f"{python_text(item)}, " for item in value) + ")"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"{'-' if value < 0 else ''}10 ** 400"
    return repr(value)


@lru_cache(maxsize=4)
def _literals(data: bytes) -> dict[str, Any]:
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(data).body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }


def literals_mutation(data: bytes, rng: Random) -> bytes:
    """Mutates a Python file of `name = literal` lines by its values: configs are programs, only their values come from
    tools and people."""
    tree = mutate_tree(_literals(data), rng)
    if not isinstance(tree, dict):
        tree = {"model": tree}
    if isinstance(tree.get("\0pairs"), Pairs):
        tree = dict(tree["\0pairs"].items)
    lines = (f"{key} = {python_text(value)}\n" for key, value in tree.items() if str(key).isidentifier())
    return "".join(lines).encode("utf-8", "backslashreplace")
