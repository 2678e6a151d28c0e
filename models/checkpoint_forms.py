"""Where a checkpoint keeps a model's weights: under which key, and with what before their names.

Trainers wrap models (`module.`, `model.`, `_orig_mod.`), put the weights beside other things (`state_dict`, `model`,
`net`), and keep averaged ones of their own. None of that is told by a list of names: weights are where the names of the
model's own parameters are.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from base.errors import CheckpointError
from base.messages import printable, shown, shown_place
from base.untrusted import is_skipped

__all__ = ["Weights", "find_weights"]

_logger = logging.getLogger(__name__)

# The one place that mmengine, mmcv and most others load from; what stands beside it is for whoever trains on.
_USUAL = ("state_dict",)
# What wrappers put between a module and its parts: DataParallel and EMA, torch.compile, FSDP.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module"})
_MAX_DEPTH = 3
# Names that are looked for to find prefixes, and prefixes that are tried in a dictionary, the commonest first.
_PROBES, _PREFIXES = 16, 16
_LISTED = 6
# mmcv keeps averaged weights as buffers of the model: their names with underscores.
_AVERAGED = "ema_"


@dataclass(frozen=True, eq=False)
class Weights:
    """One set of weights in a checkpoint.

    Attributes:
        path: Keys that lead to it; empty for the checkpoint itself.
        prefix: What stands before the names of the model's parameters, as a person would write it.
        state: Name -> value, named as the model names them; what else has the prefix is in it too.
        others: Names beside it in the same dictionary that do not have the prefix.
        matched: How many of the model's parameters it has.
    """

    path: tuple[str, ...]
    prefix: str
    state: Mapping[Any, Any]
    others: tuple[str, ...]
    matched: int

    @property
    def is_plain(self) -> bool:
        """Whether nothing had to be understood: the checkpoint itself, or its `state_dict`."""
        return not self.prefix and self.path in ((), _USUAL)

    def __str__(self) -> str:
        place = f"'{shown_place(self.path)}'" if self.path else "the checkpoint itself"
        return f"{place}, names after '{printable(self.prefix)}'" if self.prefix else place


def find_weights(checkpoint: Mapping[str, Any], expected: Collection[str], where: str) -> Weights:
    """The weights of a model in a checkpoint, whatever form it has; the log says so where it is no plain one.

    Args:
        checkpoint: As `load_weights_file` gives it.
        expected: Names of the model's parameters and buffers.
        where: Such as "Checkpoint 'a.pth'".

    Returns:
        The weights that have most of the names; whether they have all is for `models.weights` to check.

    Raises:
        CheckpointError: it holds no dictionary that could be weights, or several that differ and of which none is in
            the usual place; the message names them.
    """
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{where}: 'state_dict' is a {_kind(state)}, not a dictionary.")
    found = sorted(_all_weights(checkpoint, expected), key=lambda item: (-item.matched, not item.is_plain))
    found = [item for item in found if item.matched == found[0].matched]
    if not found:
        return _nothing(checkpoint, state, where)
    # Of a part of the names nobody can tell which set is meant; what is missing is said of the first.
    chosen = _choose(found, where) if found[0].matched == len(expected) else found[0]
    if not chosen.is_plain:
        others = f"; {len(chosen.others)} other entries beside them are left alone" if chosen.others else ""
        _logger.info("%s: the weights are those of %s%s", where, chosen, others)
    beside = [str(item) for item in found if item is not chosen]
    if beside:
        _logger.info("%s: weights of %s are not used", where, "; ".join(beside[:_LISTED]))
    return chosen


def _choose(found: Sequence[Weights], where: str) -> Weights:
    """The only ones, those in the usual place, or those that all others equal."""
    for among in ([item for item in found if item.is_plain], [item for item in found if item.path == _USUAL], found):
        if among and all(_equal(among[0], item) for item in among[1:]):
            return among[0]
        if among and among is not found and among[0].is_plain:
            return min(among, key=lambda item: item.path != _USUAL)
    listed = "; ".join(map(str, found[:_LISTED]))
    raise CheckpointError(
        f"{where} holds {len(found)} sets of weights of this model, which differ: {listed}. Save the one that is meant "
        "as {'state_dict': …}, with the names that model.state_dict() has."
    )


def _equal(first: Weights, second: Weights) -> bool:
    import torch

    if first.state.keys() != second.state.keys():
        return False
    pairs = ((first.state[key], second.state[key]) for key in first.state)
    return all(a is b or (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.equal(b)) for a, b in pairs)


def _nothing(checkpoint: Mapping[str, Any], state: Mapping[Any, Any], where: str) -> Weights:
    """No name of the model is anywhere: what there is, is named by `check_architecture`, or is no weights at all."""
    import torch

    if any(isinstance(value, torch.Tensor) for value in state.values()) or not state:
        return Weights(_USUAL if "state_dict" in checkpoint else (), "", state, (), 0)
    tensors = {
        path: sum(isinstance(value, torch.Tensor) for value in mapping.values())
        for path, mapping in _mappings(checkpoint, ())
    }
    fullest = max(tensors, key=tensors.__getitem__)
    if tensors[fullest]:  # another network's
        return Weights(fullest, "", dict(_mappings(checkpoint, ()))[fullest], (), 0)
    skipped = [f"'{printable(str(key))}' is {value!r}" for key, value in checkpoint.items() if is_skipped(value)]
    advice = "Save {'state_dict': model.state_dict()} where the model's code is."
    if skipped:
        raise CheckpointError(
            f"{where} holds no weights, but objects that are not read: {', '.join(skipped[:_LISTED])}. {advice}"
        )
    kinds = [f"{shown(key)} (a {_kind(value)})" for key, value in list(checkpoint.items())[:_LISTED]]
    more = f" and {len(checkpoint) - _LISTED} more" if len(checkpoint) > _LISTED else ""
    raise CheckpointError(f"{where} holds no weights of this model: its entries are {', '.join(kinds)}{more}. {advice}")


def _kind(value: object) -> str:
    return type(value).__name__


def _all_weights(checkpoint: Mapping[str, Any], expected: Collection[str]) -> Iterator[Weights]:
    for path, mapping in _mappings(checkpoint, ()):
        names = {key: value for key, value in mapping.items() if type(key) is str}
        by_prefix = {prefix: _under(mapping, names, prefix, expected, path) for prefix in _prefixes(names, expected)}
        unwrapped = {_without_wrappers(name, expected): value for name, value in names.items()}
        if unwrapped.keys() != names.keys() and len(unwrapped) == len(names):
            for prefix in _prefixes(unwrapped, expected):
                inner = _under(unwrapped, unwrapped, prefix, expected, path)
                if inner.matched > max((item.matched for item in by_prefix.values()), default=0):
                    wrappers = sorted(_WRAPPERS & {part for name in names for part in name.split(".")})
                    shown_prefix = f"{prefix}{'.'.join(wrappers)}."
                    by_prefix[shown_prefix] = Weights(path, shown_prefix, inner.state, inner.others, inner.matched)
        averaged = _averaged(names, expected, path)
        if averaged is not None:
            by_prefix[_AVERAGED] = averaged
            plain = by_prefix.get("")
            if plain is not None:
                own = {key: value for key, value in plain.state.items() if not _is_averaged(key, averaged)}
                by_prefix[""] = Weights(path, "", own, (), plain.matched)
        yield from (item for item in by_prefix.values() if item.matched)


def _mappings(value: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    yield path, value
    if len(path) < _MAX_DEPTH:
        for key, item in value.items():
            if isinstance(item, Mapping) and isinstance(key, str):
                yield from _mappings(item, (*path, key))


def _prefixes(names: Mapping[str, Any], expected: Collection[str]) -> list[str]:
    """What stands before some of the expected names, the empty prefix included where they stand alone."""
    ordered = sorted(expected)
    probes = ordered[:: max(1, len(ordered) // _PROBES)]
    found = Counter(
        name[: len(name) - len(probe)]
        for probe in probes
        for name in names
        if name.endswith(probe) and (len(name) == len(probe) or name[-len(probe) - 1] == ".")
    )
    return [prefix for prefix, _ in found.most_common(_PREFIXES)]


def _under(
    mapping: Mapping[Any, Any], names: Mapping[str, Any], prefix: str, expected: Collection[str], path: tuple[str, ...]
) -> Weights:
    if not prefix:
        return Weights(path, "", mapping, (), sum(name in names for name in expected))
    state = {name[len(prefix) :]: value for name, value in names.items() if name.startswith(prefix)}
    others = tuple(name for name in names if not name.startswith(prefix))
    return Weights(path, prefix, state, others, sum(name in state for name in expected))


def _without_wrappers(name: str, expected: Collection[str]) -> str:
    if name in expected:
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _averaged(names: Mapping[str, Any], expected: Collection[str], path: tuple[str, ...]) -> Weights | None:
    if not any(name.startswith(_AVERAGED) for name in names):
        return None
    by_buffer = {_AVERAGED + name.replace(".", "_"): name for name in expected}
    state = {by_buffer[name]: value for name, value in names.items() if name in by_buffer}
    if len(by_buffer) != len(set(expected)) or not state:
        return None
    return Weights(path, _AVERAGED, state, tuple(name for name in names if name not in by_buffer), len(state))


def _is_averaged(key: Any, averaged: Weights) -> bool:
    return isinstance(key, str) and key.startswith(_AVERAGED) and key not in averaged.others
