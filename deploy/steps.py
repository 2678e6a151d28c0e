"""The steps of a run: what each did, how long it took and how much memory it needed at its peak."""

from __future__ import annotations

import contextlib
import logging
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from base.errors import BackendUnavailable

if TYPE_CHECKING:
    from eval.results import StepResult

__all__ = ["FAILED", "NOT_RUN", "PASSED", "SKIPPED", "Step", "StepRecorder", "peak_rss_bytes"]

PASSED: Final = "PASSED"
FAILED: Final = "FAILED"
SKIPPED: Final = "SKIPPED"
NOT_RUN: Final = "NOT RUN"

_logger = logging.getLogger(__name__)
_CLEAR_PEAK = "5"


@dataclass
class Step:
    """One step of a run.

    Attributes:
        name: What was done.
        status: PASSED, FAILED, SKIPPED, or NOT RUN while it has not ended.
        reason: Why it failed or was skipped.
        seconds: Wall time.
        is_work: False for a step that only prepares others: a run in which no work passed proves nothing.
        peak_rss_bytes: Largest resident memory of this process during the step, or of a process that it waited for.
    """

    name: str
    status: str = NOT_RUN
    reason: str = ""
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    is_work: bool = True

    def to_result(self) -> StepResult:
        """The step as `results.json` holds it."""
        from eval.results import StepResult

        if self.status == PASSED:
            return StepResult(self.name, PASSED, "", self.seconds, self.peak_rss_bytes / 1e6)
        # A step of which the results are written while it runs: the record of an interrupted run.
        status: Literal["FAILED", "SKIPPED"] = "SKIPPED" if self.status == SKIPPED else "FAILED"
        return StepResult(self.name, status, self.reason or "did not end", self.seconds, self.peak_rss_bytes / 1e6)

    def fail(self, reason: str) -> None:
        """Marks a step that ran to its end with a result that is not good enough."""
        self.status, self.reason = FAILED, reason

    def skip(self, reason: str) -> None:
        """Marks a step that cannot run here."""
        self.status, self.reason = SKIPPED, reason


class StepRecorder:
    """Keeps every step in order, whatever becomes of it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @contextlib.contextmanager
    def step(self, name: str, *, is_work: bool = True) -> Iterator[Step]:
        """Runs the body as one step.

        `BackendUnavailable` from the body makes the step SKIPPED and is not passed on; any other exception
        makes it FAILED and is passed on.
        """
        step = Step(name, is_work=is_work)
        self.steps.append(step)
        _logger.info("── %s", name)
        _reset_peak_rss()
        children = _children_peak_bytes()
        started = time.monotonic()
        try:
            yield step
            if step.status == NOT_RUN:
                step.status = PASSED
        except BackendUnavailable as unavailable:
            step.skip(str(unavailable))
        except BaseException as error:
            step.fail(f"{type(error).__name__}: {error}")
            raise
        finally:
            step.seconds = time.monotonic() - started
            step.peak_rss_bytes = peak_rss_bytes()
            # The kernel keeps one maximum over all children; only one that grew belongs to this step.
            if _children_peak_bytes() > children:
                step.peak_rss_bytes = max(step.peak_rss_bytes, _children_peak_bytes())
            reason = f": {step.reason}" if step.reason else ""
            level = {FAILED: logging.ERROR, SKIPPED: logging.WARNING}.get(step.status, logging.INFO)
            memory = step.peak_rss_bytes / 1e6
            _logger.log(
                level, "   %s %s in %.1f s, peak memory %.0f MB%s", name, step.status, step.seconds, memory, reason
            )

    def with_status(self, status: str) -> list[Step]:
        """The steps in one state."""
        return [step for step in self.steps if step.status == status]


def _reset_peak_rss() -> None:
    # Linux lets a process reset its own high-water mark; elsewhere the peak is that of the process so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="ascii")


def _children_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def peak_rss_bytes() -> int:
    """Peak resident memory of this process since the last step began (Linux), else since it began."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
