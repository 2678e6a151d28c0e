"""What `--debug-divergence` adds to a failed comparison."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import DataError
from deploy.config.schema import BoxLimitsConfig, Scenario

if TYPE_CHECKING:
    from deploy.session import Session
    from eval.box_comparison import BoxTolerance
    from eval.verification import VerificationResult

__all__ = ["box_tolerance", "explain_failure"]

_logger = logging.getLogger(__name__)


def box_tolerance(limits: BoxLimitsConfig, precision: str) -> BoxTolerance | None:
    """The default of the precision with the configured values in it; None where nothing is configured.

    Raises:
        ConfigError: the precision has no default.
    """
    from eval.box_comparison import default_box_tolerance

    given = {name: value for name, value in dataclasses.asdict(limits).items() if value is not None}
    return dataclasses.replace(default_box_tolerance(precision), **given) if given else None


def explain_failure(session: Session, scenario: Scenario, result: VerificationResult) -> VerificationResult:
    """The failed result with the nodes at which its outputs begin to differ.

    ONNX files are compared tensor by tensor with the reference. An engine gives no inner tensors; the ONNX files it was
    built from are compared with the PyTorch model, which tells a wrong network from a wrong build.
    """
    from eval.divergence import find_divergences

    plan = session.plan
    reasons: list[str] = []
    if {scenario.ref_backend, scenario.test_backend} == {"onnx"}:
        _logger.info("   both sides run the same ONNX files; the difference arises in the runtime or the device")
        return result
    reference: Any = _modules(session)
    try:
        found = find_divergences(result, reference, Path(plan.onnx_dir), plan.export_spec, _frames(session))
    except DataError as error:
        _logger.error("   --debug-divergence: %s", error)
        return dataclasses.replace(result, reasons=(*result.reasons, f"--debug-divergence: {error}"))
    for item in found:
        reasons.append(item.summary())
        _logger.error("   %s", item.summary())
    if not found:
        what = "the engine build" if "tensorrt" in (scenario.ref_backend, scenario.test_backend) else "the runtime"
        reasons.append(
            f"given the same inputs, every output of the ONNX files agrees with PyTorch within the defaults of "
            f"{result.precision}; the difference arises in {what} or lies below those limits"
        )
        _logger.error("   %s", reasons[0])
    return dataclasses.replace(result, reasons=(*result.reasons, *reasons), divergences=found)


def _modules(session: Session) -> dict[str, Any]:
    import copy

    from models.components import extract_components

    if session.export_model is None:
        raise RuntimeError("load_model comes before any comparison")
    return extract_components(copy.deepcopy(session.export_model), session.plan.spec)


def _frames(session: Session) -> Any:
    if session.frames is None:
        raise RuntimeError("load_frames comes before any comparison")
    return session.frames
