"""The frames that a deployment evaluated, as a recording: points, ground truth, and the boxes of every backend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import ConfigError
from base.progress import progress
from deploy.recording.contract import RecordedFrame, RecordingFacts, recording

if TYPE_CHECKING:
    from datasets.frames import FrameSource
    from eval.evaluator import BackendEvaluation
    from models.spec import ModelSpec

__all__ = ["record_run", "require_evaluated"]

_logger = logging.getLogger(__name__)


def require_evaluated(path: Path, backends: Sequence[str]) -> None:
    """That a run that records has something to record.

    Raises:
        ConfigError: it evaluates no backend.
    """
    if not backends:
        raise ConfigError(
            f"--record is '{path}', but this run evaluates no backend, so that there are no boxes to record. "
            "Enable one (evaluation.enabled, --backends), or leave --record out."
        )


def record_run(path: Path, spec: ModelSpec, frames: FrameSource, evaluations: Sequence[BackendEvaluation]) -> None:
    """Writes the evaluated frames; each is read once more.

    Args:
        path: The file, `.rrd` or `.mcap`.
        spec: The model.
        frames: What was evaluated, from its first frame on.
        evaluations: At least one, all of the same frames.

    Raises:
        ConfigError, MissingDependencyError: as for `deploy.recording.contract.require_recordable`.
        DataError: a frame cannot be read, or its time cannot be written.
        OSError: the file cannot be written.
    """
    count = len(evaluations[0].frames)
    facts = RecordingFacts(spec.name, spec.class_names, spec.point_columns)
    with recording(path, facts) as recorder:
        for index in progress(range(count), "recording"):
            frame = frames[index]
            found = {item.summary.label: item.frames[index].detections for item in evaluations}
            recorder.write(
                RecordedFrame(index, frame.token, frame.timestamp_s, frame.points, found, frame.ground_truth)
            )
    _logger.info("   %d frames in %s", count, path)
