"""Checks of what is read, what they found and what a person accepts: facts of two places, values that nobody means.

    with checking(accepted=("sweep-times",)) as record:
        settle(compare(...))      # raises what is wrong; logs and keeps the rest
    record.results()

A `Check` says what is compared, a `Finding` where and what came. Findings are reported in one place, `settle`: an error
raises unless its check is accepted, a warning goes to the log, and all are kept for whoever writes the run down. Like
warnings of Python's own, the record is that of the process: what reads a file deep inside need not be handed one.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from base.errors import ConfigError, DataError, UserError

__all__ = [
    "Check",
    "CheckRecord",
    "CheckResult",
    "Finding",
    "add_accept",
    "checking",
    "found_since",
    "recorded",
    "require_known",
    "settle",
]

Severity = Literal["error", "warning"]
Outcome = Literal["error", "accepted", "warning"]

_logger = logging.getLogger(__name__)
# Of a check that finds something in every file of a dataset, so many are told in full.
_TOLD = 5


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        id: What `--accept` calls it, in lower case with hyphens.
        compares: What with what, and when it finds something: a sentence for docs/checks.md.
        severity: "error" where the result would be wrong, "warning" where that cannot be decided.
        accepting: What it means to accept an error, such as "the info file's number is wrong"; empty where nobody can
            know better.
        error: Kind of exception of an error.
    """

    id: str
    compares: str
    severity: Severity = "error"
    accepting: str = ""
    error: type[UserError] = DataError

    def __post_init__(self) -> None:
        if self.severity == "warning" and self.accepting:
            raise ValueError(f"check '{self.id}' is a warning: there is nothing to accept")


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: Which one.
        place: Where the first statement stands, such as "Info file 'a.pkl', data_list[3].timestamp"; the file that was
            looked at where one statement is wrong by itself.
        value: What it says, for a message: numbers with their units.
        other_place: Where the other statement stands; empty where there is none.
        other_value: What it says.
        remedy: What to do, in sentences.
    """

    check: Check
    place: str
    value: str
    other_place: str = ""
    other_value: str = ""
    remedy: str = ""

    @property
    def text(self) -> str:
        """The finding in sentences, both places and both values named."""
        if self.other_place:
            said = f"{self.place} says {self.value}, but {self.other_place} says {self.other_value}."
        else:
            said = f"{self.place}: {self.value}."
        return f"{said} {self.remedy}".rstrip()


@dataclass(frozen=True)
class CheckResult:
    """What a check found in a run, as the run's record holds it.

    Attributes:
        check: Its id.
        outcome: "error", "accepted" (an error that `--accept` made a warning), or "warning".
        count: How often it found something.
        messages: The first of what it found.
    """

    check: str
    outcome: Outcome
    count: int
    messages: tuple[str, ...]


class CheckRecord:
    """What checks found while it was open, in the order of their first finding."""

    def __init__(self, accepted: Iterable[str] = ()) -> None:
        self.accepted = frozenset(accepted)
        self._results: dict[tuple[str, Outcome], CheckResult] = {}

    def results(self) -> tuple[CheckResult, ...]:
        """One entry for each check that found something."""
        return tuple(self._results.values())

    def add(self, finding: Finding, outcome: Outcome) -> bool:
        """Keeps a finding; whether it is to be told: the first few of a check, and none twice."""
        key = (finding.check.id, outcome)
        known = self._results.get(key, CheckResult(*key, 0, ()))
        is_new = finding.text not in known.messages and len(known.messages) < _TOLD
        messages = (*known.messages, finding.text) if is_new else known.messages
        self._results[key] = dataclasses.replace(known, count=known.count + 1, messages=messages)
        return is_new


_open: list[CheckRecord] = []


@contextmanager
def checking(accepted: Iterable[str] = ()) -> Iterator[CheckRecord]:
    """Keeps what is found inside.

    Args:
        accepted: Ids of checks whose errors are warnings; those of a record outside count too.
    """
    outside = _open[-1].accepted if _open else frozenset[str]()
    record = CheckRecord(outside | frozenset(accepted))
    _open.append(record)
    try:
        yield record
    finally:
        _open.remove(record)


def recorded() -> tuple[CheckResult, ...]:
    """What was found so far, of the record that was opened last; nothing where none is open."""
    return _open[-1].results() if _open else ()


def found_since(earlier: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """What was found since `recorded()` gave `earlier`, counted from there; of a check that found more of the same, its
    messages stand again."""
    known = {(result.check, result.outcome): result for result in earlier}
    found = []
    for result in recorded():
        before = known.get((result.check, result.outcome), CheckResult(result.check, result.outcome, 0, ()))
        messages = tuple(text for text in result.messages if text not in before.messages) or result.messages
        if result.count > before.count:
            found.append(dataclasses.replace(result, count=result.count - before.count, messages=messages))
    return tuple(found)


def settle(findings: Iterable[Finding]) -> None:
    """Reports findings: warnings and accepted errors to the log, the others as one exception.

    Raises:
        UserError: there are errors that nobody accepted; of the first one's kind, and all of them in its text.
    """
    record = _open[-1] if _open else CheckRecord()
    errors: list[Finding] = []
    for finding in findings:
        check = finding.check
        outcome: Outcome = check.severity
        if outcome == "error" and check.accepting and check.id in record.accepted:
            outcome = "accepted"
        is_new = record.add(finding, outcome)
        for outer in _open[:-1]:
            outer.add(finding, outcome)
        if outcome == "error":
            errors.append(finding)
        elif is_new:
            _logger.warning("%s (%s: %s)", finding.text, "accepted" if outcome == "accepted" else "check", check.id)
    if errors:
        raise errors[0].check.error(" Also: ".join(map(_advised, errors[:_TOLD])))


def _advised(finding: Finding) -> str:
    check = finding.check
    if not check.accepting:
        return finding.text
    return f"{finding.text} If you know that {check.accepting}, go on with --accept={check.id}."


def add_accept(parser: argparse.ArgumentParser, known: Mapping[str, Check]) -> None:
    """Adds `--accept`, which every command has that reads what checks are about; `args.accept` is a list of ids.

    Args:
        parser: The command's.
        known: Id -> check.
    """
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        choices=sorted(name for name, check in known.items() if check.accepting),
        metavar="CHECK",
        help="go on although this check finds an error, for who knows better (docs/checks.md); repeatable, recorded",
    )


def require_known(accepted: Iterable[str], known: Mapping[str, Check], where: str) -> None:
    """Whether each id is of an error that may be accepted.

    Args:
        accepted: The ids.
        known: Id -> check.
        where: Place that names them, for the message.

    Raises:
        ConfigError: one is not.
    """
    can_be = sorted(name for name, check in known.items() if check.accepting)
    for name in accepted:
        if name in can_be:
            continue
        if name in known:
            why = "is only a warning" if known[name].severity == "warning" else "finds what nobody can know better"
            raise ConfigError(f"{where} names check '{name}', which {why}. Remove it.")
        near = difflib.get_close_matches(name, can_be, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"{where} names no check: '{name}'.{hint} Known are {', '.join(can_be)}.")
