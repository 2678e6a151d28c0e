"""The record of a run: `results.json`, of which `results.schema.json` is the schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from base.checks import CheckResult
from base.command import run_command, run_main
from base.errors import DataError
from base.files import read_json, write_json
from eval.codec import from_json, json_schema, to_json

if TYPE_CHECKING:
    from eval.evaluator import EvaluationSummary
    from eval.gates import GateResult
    from eval.metrics.driving import DrivingScore
    from eval.metrics.nuscenes_frames import NuScenesScore
    from eval.statistics import BootstrapComparison
    from eval.vehicle import VehicleSummary
    from eval.verification import VerificationResult

__all__ = [
    "LEFT_OUT",
    "SCHEMA_PATH",
    "SCHEMA_VERSION",
    "ArtifactRecord",
    "RunResults",
    "StepResult",
    "StepStatus",
    "read_results",
    "results_schema",
    "write_results",
]

SCHEMA_VERSION = 6
LEFT_OUT = "left out"
"""`run["evaluation"]` of a run that was not to evaluate."""
SCHEMA_PATH = Path(__file__).with_name("results.schema.json")

StepStatus = Literal["PASSED", "FAILED", "SKIPPED"]


@dataclass(frozen=True)
class StepResult:
    """One step of a run.

    Attributes:
        name: "export onnx", "verify pytorch vs onnx", ...
        status: PASSED, FAILED or SKIPPED.
        reason: Why it failed or was skipped; empty otherwise.
        seconds: Wall time; None where it did not run.
        peak_rss_mb: Peak resident memory of the process up to its end, MB; None where it did not run.
    """

    name: str
    status: StepStatus
    reason: str = ""
    seconds: float | None = None
    peak_rss_mb: float | None = None

    def __post_init__(self) -> None:
        if self.status != "PASSED" and not self.reason:
            raise ValueError(f"step '{self.name}' is {self.status} without a reason")


@dataclass(frozen=True)
class ArtifactRecord:
    """A file that the run made.

    Attributes:
        path: Relative to the work folder.
        kind: "onnx", "engine", ...
        precision: "fp32", "fp16", ...; empty where it has none.
        sha256: Of its bytes.
        bytes: Its size.
    """

    path: str
    kind: str
    precision: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class RunResults:
    """Everything a run found out.

    Attributes:
        title: What was deployed: the model's name.
        run: Configuration of the run as the user would recognize it: mode, precision, checkpoint, dataset, ...
        steps: In the order in which they ran.
        verifications: One per scenario that ran.
        evaluations: One per backend that ran, the reference first.
        comparisons: Detection accuracy of every pair of them, with intervals.
        gates: Accuracy gates, for every backend that was judged.
        artifacts: Files made.
        detections: Label of an evaluation -> file with the detections and ground truth of its frames, relative to
            this document (`eval.detections_file`).
        vehicle: Evaluations as the vehicle sees them, where Autoware's decode was asked for.
        candidates: Label of an evaluation -> file like those of `detections`, with what Autoware's node decodes before
            its score thresholds; a bundle's thresholds are measured on it.
        nuscenes: nuScenes' official score of each evaluation, where it was asked for.
        driving: What a vehicle cares for beside AP, of each evaluation (docs/metrics.md).
        checks: What checks of the data and the model found, errors that were accepted included (docs/checks.md).
        versions: Package -> version.
        schema_version: Of this document.
    """

    title: str
    run: dict[str, Any]
    steps: tuple[StepResult, ...]
    verifications: tuple[VerificationResult, ...] = ()
    evaluations: tuple[EvaluationSummary, ...] = ()
    comparisons: tuple[BootstrapComparison, ...] = ()
    gates: tuple[GateResult, ...] = ()
    artifacts: tuple[ArtifactRecord, ...] = ()
    detections: dict[str, str] = field(default_factory=dict)
    vehicle: tuple[VehicleSummary, ...] = ()
    candidates: dict[str, str] = field(default_factory=dict)
    nuscenes: tuple[NuScenesScore, ...] = ()
    driving: tuple[DrivingScore, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def evaluation_note(self) -> str:
        """That nothing was evaluated because nobody wanted it; empty otherwise."""
        if self.run.get("evaluation") != LEFT_OUT:
            return ""
        return "Evaluation was left out (evaluation.enabled is False): nothing here says how well the model detects."

    @property
    def passed(self) -> bool:
        """Something ran, and nothing failed. Skipped steps do not fail a run; a run of skipped steps alone does."""
        statuses = [step.status for step in self.steps]
        clean = "FAILED" not in statuses and all(item.passed for item in self.verifications)
        clean = clean and all(item.status != "FAILED" for item in self.gates)
        return clean and "PASSED" in statuses

    def count(self, status: StepStatus) -> int:
        """Steps of this status."""
        return sum(step.status == status for step in self.steps)


def results_schema() -> dict[str, Any]:
    """JSON schema of `results.json`."""
    return json_schema(RunResults, "CenterPoint deployment results", _parts())


def write_results(results: RunResults, path: str | Path) -> None:
    """Writes `results.json` atomically: equal results give equal bytes."""
    write_json(path, to_json(results))


def read_results(path: str | Path) -> RunResults:
    """Reads what `write_results` wrote.

    Raises:
        DataError: the file is missing, no JSON, of another schema version, or does not fit the schema.
    """
    from base.parsing import RelativePath, parse

    value = read_json(path)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"'{path}' has schema_version {version!r}; this version reads {SCHEMA_VERSION}")
    results = from_json(RunResults, value, str(path), _parts())
    for key in ("detections", "candidates"):
        parse(dict[str, RelativePath], getattr(results, key), file=path, at=(key,))
    return results


def _parts() -> dict[str, type]:
    """What the fields of `RunResults` are made of; needed to read or to describe a record, not to write one."""
    from eval.divergence.bisection import Divergence
    from eval.evaluator import EvaluationSummary
    from eval.gates import GateResult
    from eval.metrics.driving import DrivingScore
    from eval.metrics.nuscenes_frames import NuScenesScore
    from eval.statistics import BootstrapComparison
    from eval.vehicle import VehicleSummary
    from eval.verification import VerificationResult

    scores = (EvaluationSummary, GateResult, DrivingScore, NuScenesScore, BootstrapComparison, VehicleSummary)
    kinds = (*scores, VerificationResult, Divergence)
    return {kind.__name__: kind for kind in kinds}


def main() -> int:
    """Regenerates the schema file after a change of the dataclasses; returns the exit code."""
    return run_command(lambda: write_json(SCHEMA_PATH, results_schema()))


if __name__ == "__main__":
    run_main(main)
