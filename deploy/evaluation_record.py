"""From frames that were run to what `deploy.evaluate` writes and says, whether one process ran them or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from base.checks import CheckResult, recorded, settle
from base.command import EXIT_FAILED, EXIT_PASSED
from base.messages import plain_lines
from base.parsing import Items, NonEmptyStr, PositiveInt, Record, Text, parse
from base.tables import text_table
from deploy.accuracy import limits_on_losses
from deploy.config.schema import GatesConfig
from models.spec import ModelSpec

if TYPE_CHECKING:
    from eval.evaluator import BackendEvaluation
    from eval.frame_run import FrameRun
    from eval.gates import GateResult

__all__ = ["DETECTIONS", "RESULTS", "Evaluated", "conclude", "merge_parts"]

DETECTIONS, RESULTS = "detections.jsonl", "results.json"


class Evaluated(Record):
    """What is evaluated on what: all that an evaluation depends on, which its parts must agree in.

    Attributes:
        backend, precision, decode: Of the detector.
        spec: Its model's specification, as `ModelSpec.to_dict` gives it.
        classes: Names of the labels.
        config: Name of the model config.
        checkpoint, checkpoint_sha256: Name and content, where one was given.
        files: Name -> SHA-256 of the ONNX files or engines.
        info_sha256: Of the info file that says which frames there are.
        frames: How many of them, the first ones.
        threads: CPU threads of a process.
        nuscenes: Whether nuScenes' official score is asked for.
        versions: Package -> version.
    """

    backend: NonEmptyStr
    precision: NonEmptyStr
    decode: NonEmptyStr
    spec: dict[NonEmptyStr, Any]
    classes: Annotated[Items[NonEmptyStr], Field(min_length=1)]
    config: Text
    checkpoint: Text | None
    checkpoint_sha256: Text | None
    files: dict[NonEmptyStr, NonEmptyStr]
    info_sha256: NonEmptyStr
    frames: PositiveInt
    threads: PositiveInt
    nuscenes: bool
    versions: dict[NonEmptyStr, Text]


def conclude(
    what: Evaluated,
    runs: Sequence[FrameRun],
    *,
    devices: Sequence[str],
    dataset: str | None,
    seconds: float | None,
    out: Path,
    checks: Sequence[CheckResult] = (),
) -> int:
    """Scores all frames, writes `results.json` and `detections.jsonl`, and says what came out.

    Args:
        what: Was evaluated.
        runs: Every frame.
        devices: Of each process that ran some.
        dataset: As the user named it.
        seconds: That it took; None: tell neither latencies nor the machine.
        out: Folder of both files.
        checks: What checks found elsewhere, before those of this process.

    Returns:
        The exit code: 1 where so much was lost on the way into the network that the score says little.
    """
    from eval.evaluator import summarize
    from eval.frame_run import DetectorFacts
    from eval.losses import judge_losses

    timed = seconds is not None
    facts = DetectorFacts(ModelSpec.from_dict(what.spec), what.backend, devices[0], what.decode)
    result = summarize(facts, runs, precision=what.precision, nuscenes=what.nuscenes, timed=timed)
    settle(judge_losses(result.summary))
    gates = limits_on_losses(result.summary, GatesConfig())
    run = {
        "mode": "evaluate",
        "precision": what.precision,
        "rot_y_axis_reference": facts.spec.rot_y_axis_reference,
        "checkpoint": what.checkpoint,
        "checkpoint_sha256": what.checkpoint_sha256,
        "model_config": what.config,
        "dataset": dataset,
        # What repeats does not tell how many shared the work.
        **({"processes": len(devices)} if timed else {}),
        "devices": list(devices if timed else dict.fromkeys(devices)),
        "threads": what.threads,
    }
    _write(what, result, gates, run, seconds, (*checks, *recorded()), out)
    print(plain_lines(f"\n{_summary(result, devices, gates, out)}"))  # noqa: T201 - what the command is for
    return EXIT_FAILED if any(gate.status == "FAILED" for gate in gates) else EXIT_PASSED


def merge_parts(paths: Sequence[Path], out: Path) -> int:
    """`conclude` on the parts of an evaluation; neither model nor frames are needed.

    Raises:
        DataError: a file is broken, or the parts are of other models, frames or settings, or not those of one whole.
    """
    from eval.parts import read_evaluation_parts

    merged = read_evaluation_parts(paths)
    what = parse(Evaluated, dict(merged.work), file=merged.file, at=("work",))
    return conclude(
        what,
        merged.runs,
        devices=[part.device for part in merged.parts],
        dataset=merged.parts[0].dataset,
        seconds=None,
        out=out,
        checks=merged.checks(),
    )


def _write(
    what: Evaluated,
    result: BackendEvaluation,
    gates: Sequence[GateResult],
    run: dict[str, Any],
    seconds: float | None,
    checks: tuple[CheckResult, ...],
    out: Path,
) -> None:
    from eval.detections_file import write_detections
    from eval.results import RunResults, StepResult, write_results

    reasons = "; ".join(gate.reason for gate in gates if gate.reason)
    seconds = None if seconds is None else round(seconds, 3)
    results = RunResults(
        title=str(what.spec["name"]),
        run=run,
        steps=(StepResult(f"evaluate {what.backend}", "FAILED" if reasons else "PASSED", reasons, seconds),),
        gates=tuple(gates),
        evaluations=(result.summary,),
        nuscenes=() if result.nuscenes is None else (result.nuscenes,),
        driving=() if result.driving is None else (result.driving,),
        detections={result.summary.label: DETECTIONS},
        checks=checks,
        versions=dict(what.versions),
    )
    # The record names the detections: an earlier one goes before new detections come.
    (out / RESULTS).unlink(missing_ok=True)
    write_detections(result.frames, what.classes, out / DETECTIONS)
    write_results(results, out / RESULTS)


def _summary(result: BackendEvaluation, devices: Sequence[str], gates: Sequence[GateResult], out: Path) -> str:
    from eval.losses import loss_lines

    summary, total = result.summary, result.latency.get("total")
    row = (
        summary.label,
        f"{summary.metrics.mean_ap:.4f}" if summary.metrics.total.num_ground_truth else "none",
        *(() if result.nuscenes is None else (f"{result.nuscenes.nds:.4f}",)),
        "not told" if total is None else f"{total.p50:.1f} ms",
        "not told" if total is None else f"{total.p99:.1f} ms",
        str(summary.num_frames),
        f"{len(devices)} on {', '.join(dict.fromkeys(devices))}",
    )
    more = () if result.nuscenes is None else ("NDS",)
    header = ("backend", "mAP", *more, "p50 latency", "p99 latency", "frames", "processes")
    parts = [text_table(header, [row]), *(["\n".join(lines)] if (lines := loss_lines([summary])) else [])]
    parts += [f"FAILED: {gate.reason}" for gate in gates if gate.reason]
    return "\n\n".join([*parts, f"{out / RESULTS}, {out / DETECTIONS}"])
