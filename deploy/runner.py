"""One command from a checkpoint to verified, evaluated artifacts: load, export, build, verify, evaluate, record."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.checks import checking, recorded
from base.command import EXIT_FAILED, EXIT_PASSED
from base.determinism import set_determinism
from base.errors import BackendUnavailable, UserError
from base.files import sha256_file
from deploy.config.schema import DeployConfig, Scenario
from deploy.devices import resolve_device
from deploy.outcome import DeploymentOutcome
from deploy.plan import RunPlan, make_plan
from deploy.run_manifest import write_run_manifest
from deploy.session import Session, engine_settings, onnx_settings
from deploy.steps import FAILED, PASSED, SKIPPED, Step, StepRecorder
from deploy.work_dir import log_to_file, owned_work_dir
from models.spec import BACKBONE_NECK_HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.code_agreement import CodeAgreement
    from eval.evaluator import BackendEvaluation
    from eval.gates import GateResult
    from eval.panels import FramePanel
    from eval.report import ReportSection
    from eval.results import ArtifactRecord, RunResults
    from eval.statistics import BootstrapComparison
    from eval.verification import VerificationResult
    from runtime.detector import InspectableDetector

__all__ = ["CenterPointDeploymentRunner"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Evaluated:
    step: Step
    evaluation: BackendEvaluation


class CenterPointDeploymentRunner:
    """Runs a deployment.

    Args:
        config: What to do.
        model_config: Path of the model config.
        source: File of the deploy config, for messages and the manifest.
        strict: Whether a step that cannot run here fails the run.
        record: Recording of the evaluated frames to write, `.rrd` or `.mcap`; None for none.
    """

    def __init__(
        self,
        config: DeployConfig,
        model_config: str | os.PathLike[str],
        *,
        source: str = "deploy config",
        strict: bool = False,
        record: Path | None = None,
    ) -> None:
        self.config = config
        self.model_config = model_config
        self.source = source
        self.strict = strict
        self.record = record
        self._recorder = StepRecorder()
        self._artifacts: list[ArtifactRecord] = []
        self._verifications: list[VerificationResult] = []
        self._evaluated: list[_Evaluated] = []
        self._agreements: tuple[CodeAgreement, ...] = ()
        self._detections: dict[str, str] = {}
        self._candidates: dict[str, str] = {}
        self._comparisons: tuple[BootstrapComparison, ...] = ()
        self._gates: tuple[GateResult, ...] = ()

    def run(self) -> DeploymentOutcome:
        """Runs every step; what is known is written even when a step fails.

        Returns:
            The results and the exit code: 0 all that was asked for was done and passed, 1 a comparison or an
            accuracy gate failed (or, with `strict`, a step was skipped).

        Raises:
            UserError: wrong input or configuration (exit code 2); whatever was found out before is in the work folder.
        """
        with checking(self.config.accepted_checks):
            plan = make_plan(self.config, self.source, self.model_config)
            if self.record is not None:
                from deploy.run_recording import require_evaluated

                require_evaluated(self.record, plan.backends)
            with owned_work_dir(plan.work_dir, plan.marks), log_to_file(plan.work_dir, self.config.deploy_log_path):
                _logger.info("model '%s', mode '%s', into %s", plan.spec.name, plan.mode, plan.work_dir)
                session = Session(plan)
                try:
                    self._execute(session)
                except BaseException:
                    self._record_failure(session)
                    raise
                return self._record(session)

    def _execute(self, session: Session) -> None:
        plan = session.plan
        set_determinism(self.config.seed)
        with self._recorder.step("load model", is_work=False):
            session.load_model()
        if plan.data_root is not None:
            with self._recorder.step("open dataset", is_work=False):
                session.load_frames()
        if plan.quantization is not None and plan.uses_quantized_model:
            with self._recorder.step("quantize", is_work=False):
                self._quantize(session)
        if plan.exports_onnx:
            with self._recorder.step("export ONNX"):
                self._export_onnx(session)
        if plan.foreign_onnx is not None:
            with self._recorder.step("take over ONNX"):
                self._adopt_onnx(plan)
        if plan.builds_engines:
            with self._recorder.step("build engines"):
                self._build_engines(plan)
        for scenario in plan.scenarios:
            self._verify(session, scenario)
        for backend in plan.backends:
            self._evaluate(session, backend)
        self._apply_gates()
        if self.record is not None and self._evaluated:
            from deploy.run_recording import record_run

            with self._recorder.step("record frames", is_work=False):
                evaluations = [item.evaluation for item in self._evaluated]
                record_run(self.record, plan.spec, _opened(session), evaluations)

    def _quantize(self, session: Session) -> None:
        from export.quantized_model import save_quantized_model

        plan, quantized = session.plan, session.quantize()
        facts = quantized.facts
        _logger.info("   %d layers in INT8 by '%s'", facts["quantized_layers"], facts["method"])
        if plan.quantization is not None and not plan.quantization.checkpoint_is_quantized:
            for path in save_quantized_model(quantized, plan.work_dir / "quantized"):
                self._add_artifact(plan, path, path.stem, "int8")

    def _export_onnx(self, session: Session) -> None:
        from export.onnx_export import export_components

        plan = session.plan
        if session.export_model is None:
            raise RuntimeError("load_model comes before the export")
        provenance = {"weights": f"sha256 {sha256_file(plan.checkpoint)}"}
        for made in self._artifacts:
            if made.kind == "checkpoint":
                provenance["quantized_weights"] = f"sha256 {made.sha256}"
        settings = onnx_settings(plan, provenance, session.quantized)
        for artifact in export_components(session.export_model, plan.export_spec, plan.onnx_dir, settings):
            self._add_artifact(plan, artifact.path, "onnx", artifact.precision)

    def _adopt_onnx(self, plan: RunPlan) -> None:
        from export.autoware_ml_onnx import adopt_their_files

        if plan.foreign_onnx is not None:
            for path in adopt_their_files(plan.foreign_onnx, plan.export_spec, plan.onnx_dir):
                self._add_artifact(plan, path, path.stem, plan.precision)

    def _build_engines(self, plan: RunPlan) -> None:
        from export.engine.pipeline import CenterPointTensorRTExportPipeline

        pipeline = CenterPointTensorRTExportPipeline(engine_settings(plan))
        for result in pipeline.run(plan.onnx_dir, plan.engine_dir, plan.export_spec):
            self._add_artifact(plan, result.engine_path, "engine", result.precision)

    def _add_artifact(self, plan: RunPlan, path: Path, kind: str, precision: str) -> None:
        from eval.results import ArtifactRecord

        relative = path.relative_to(plan.work_dir).as_posix()
        record = ArtifactRecord(relative, kind, precision, sha256_file(path), path.stat().st_size)
        self._artifacts.append(record)

    def _verify(self, session: Session, scenario: Scenario) -> None:
        from deploy.divergence import box_tolerance, explain_failure
        from eval.verification import verify

        verification = self.config.verification
        with self._recorder.step(f"verify {scenario.test_backend} against {scenario.ref_backend}") as step:
            devices = [
                resolve_device(device, backend, self.config, for_verification=True)
                for backend, device in (
                    (scenario.ref_backend, scenario.ref_device),
                    (scenario.test_backend, scenario.test_device),
                )
            ]
            # The backend under test first: where it cannot run, the reference need not be loaded.
            with (
                session.detector(scenario.test_backend, devices[1], as_exported=True) as (test, precision),
                session.detector(scenario.ref_backend, devices[0], as_exported=True) as (reference, _),
            ):
                disagreements: tuple[str, ...] = ()
                if precision == "int8":
                    disagreements = self._compare_codes(session, scenario, test)
                result = verify(
                    reference,
                    test,
                    _opened(session),
                    num_frames=verification.num_verify_samples,
                    precision=precision,
                    absolute_tolerance=verification.tolerance,
                    relative_l2=verification.relative_l2,
                    box_tolerance=box_tolerance(verification.boxes, precision),
                    equal_inputs=precision == "int8",
                )
            if not result.passed and verification.debug_divergence:
                result = explain_failure(session, scenario, result)
            self._verifications.append(result)
            _logger.info("   %s", result.summary())
            reasons = (*result.reasons, *disagreements)
            if reasons:
                step.fail("; ".join(reasons))

    def _compare_codes(self, session: Session, scenario: Scenario, test: InspectableDetector) -> tuple[str, ...]:
        """Fake-quantized PyTorch against ONNX Runtime layer by layer: what is beyond limits; of other pairs none."""
        from deploy.code_agreement import compare_exported, disagreements

        if (scenario.ref_backend, scenario.test_backend) != ("pytorch", "onnx") or session.export_model is None:
            return ()
        frames = _opened(session)
        chosen = (frames[index] for index in range(min(self.config.verification.num_verify_samples, len(frames))))
        found = compare_exported(session.export_model, session.plan.onnx_dir, test, chosen)
        self._agreements = found
        worst = min(found, key=lambda item: item.equal_share)
        _logger.info(
            "   codes layer by layer: at least %.4f %% equal (%s), largest difference %g step(s)",
            *(100 * worst.equal_share, worst.name, max(item.max_steps for item in found if not item.is_output)),
        )
        return disagreements(found)

    def _evaluate(self, session: Session, backend: str) -> None:
        from deploy.accuracy import with_decodes_compared
        from deploy.decoding import evaluated_decoder
        from eval.evaluator import evaluate

        evaluation, vehicle = self.config.evaluation, session.plan.vehicle
        decoder = evaluated_decoder(evaluation, vehicle)
        with self._recorder.step(f"evaluate {backend}") as step:
            device = resolve_device(getattr(evaluation.backends, backend).device, backend, self.config)
            # PyTorch is the model as trained: a wrong conversion in the export would show as a loss of accuracy.
            with session.detector(backend, device, as_exported=False, decoder=decoder) as (detector, precision):
                result = evaluate(
                    detector,
                    _opened(session),
                    num_samples=evaluation.num_samples,
                    warmup=evaluation.warmup_frames,
                    precision=precision,
                    engine=evaluation.metrics.engine,
                    vehicle=vehicle,
                    nuscenes=evaluation.metrics.nuscenes,
                )
            result = with_decodes_compared(result, evaluation)
            self._evaluated.append(_Evaluated(step, result))
            self._keep_detections(session.plan, result)
            total = result.latency["total"]
            _logger.info(
                "   %s: mAP %.4f over %d frames, %.1f ms (p50), %.1f ms (p99)",
                *(result.summary.label, result.metrics.mean_ap, result.summary.num_frames, total.p50, total.p99),
            )
            if evaluation.verbose:
                _log_details(result)

    def _keep_detections(self, plan: RunPlan, result: BackendEvaluation) -> None:
        """For `//eval:compare` and `//eval:score`; candidates of the node's decode for the thresholds of a bundle."""
        from eval.detections_file import write_detections

        summary, names = result.summary, result.metrics.class_names
        kept = [(f"detections/{summary.backend}.jsonl", result.frames, self._detections)]
        if result.vehicle_frames is not None:
            name = f"detections/{summary.backend}_candidates.jsonl"
            kept.append((name, result.vehicle_frames.candidates, self._candidates))
        (plan.work_dir / "detections").mkdir(exist_ok=True)
        for name, frames, table in kept:
            write_detections(frames, names, plan.work_dir / name)
            table[summary.label] = name

    def _apply_gates(self) -> None:
        if not self._evaluated:
            return

        from deploy.accuracy import judge_accuracy

        pairs = [(item.step, item.evaluation) for item in self._evaluated]
        self._comparisons, self._gates = judge_accuracy(pairs, self.config.evaluation)

    def _results(self, plan: RunPlan) -> RunResults:
        from eval.machine import package_versions
        from eval.results import LEFT_OUT, RunResults

        run = {
            "mode": plan.mode,
            "precision": plan.precision,
            "precision_policy": self.config.backend_config.common_config.precision_policy,
            "rot_y_axis_reference": self.config.export.rot_y_axis_reference,
            "strict": self.strict,
            "decode": self.config.evaluation.decode,
            "checkpoint": plan.checkpoint.name,
            "checkpoint_sha256": sha256_file(plan.checkpoint),
            "model_config": plan.model_config_path.name,
            "deploy_config": Path(self.source).name,
            "dataset": str(plan.data_root) if plan.data_root is not None else None,
        }
        if not self.config.evaluation.enabled:
            run["evaluation"] = LEFT_OUT
        return RunResults(
            title=plan.spec.name,
            run=run,
            steps=tuple(step.to_result() for step in self._recorder.steps),
            verifications=tuple(self._verifications),
            evaluations=tuple(item.evaluation.summary for item in self._evaluated),
            detections=dict(self._detections),
            vehicle=tuple(item.evaluation.vehicle for item in self._evaluated if item.evaluation.vehicle is not None),
            candidates=dict(self._candidates),
            nuscenes=tuple(
                item.evaluation.nuscenes for item in self._evaluated if item.evaluation.nuscenes is not None
            ),
            driving=tuple(item.evaluation.driving for item in self._evaluated if item.evaluation.driving is not None),
            comparisons=self._comparisons,
            gates=self._gates,
            checks=recorded(),
            artifacts=tuple(self._artifacts),
            versions=package_versions(),
        )

    def _record(self, session: Session) -> DeploymentOutcome:
        from eval.report import write_report
        from eval.results import write_results

        plan = session.plan
        try:
            results = self._results(plan)
            write_results(results, plan.work_dir / "results.json")
            more = self._int8_sections(session) if plan.precision == "int8" else ()
            write_report(results, self._panels(session), plan.work_dir / "report.html", more)
            write_run_manifest(session, self.source, [artifact.path for artifact in self._artifacts])
        except OSError as error:
            raise UserError(f"Cannot write the results to '{plan.work_dir}': {error.strerror or error}.") from error
        note = self._objection()
        failed = bool(note) or not results.passed
        return DeploymentOutcome(EXIT_FAILED if failed else EXIT_PASSED, results, plan.work_dir, note)

    def _objection(self) -> str:
        """Why a run must not pass although no step failed."""
        if not any(step.is_work and step.status == PASSED for step in self._recorder.steps):
            return "" if self._recorder.with_status(FAILED) else "nothing that was asked for could be done"
        return "--strict allows no skipped step" if self.strict and self._recorder.with_status(SKIPPED) else ""

    def _panels(self, session: Session) -> Sequence[FramePanel]:
        """The worst frames, where any were evaluated."""
        if not self._evaluated:
            return ()

        from eval.panels import select_panels

        return select_panels([item.evaluation for item in self._evaluated], _opened(session))

    def _int8_sections(self, session: Session) -> tuple[ReportSection, ...]:
        from deploy.int8_report import int8_sections

        facts = session.quantized.facts if session.quantized is not None else None
        return int8_sections(session.plan.onnx_dir / f"{BACKBONE_NECK_HEAD}.onnx", self._agreements, facts)

    def _record_failure(self, session: Session) -> None:
        """Writes what is known of a run that is about to end with an error."""
        from eval.results import write_results

        path = session.plan.work_dir / "results.json"
        try:
            write_results(self._results(session.plan), path)
        except OSError as error:
            _logger.error("could not write %s either: %s", path, error.strerror or error)
        else:
            failed = ", ".join(step.name for step in self._recorder.with_status(FAILED))
            _logger.error("stopped at '%s'; what was found out before is in %s", failed, path)


def _opened(session: Session) -> Any:
    if session.frames is None:
        raise BackendUnavailable("no dataset was opened")
    return session.frames


def _log_details(evaluation: BackendEvaluation) -> None:
    for item in evaluation.metrics.total.classes:
        score = f"{item.mean_ap:.4f}" if item.num_ground_truth else "none"
        _logger.info("      %-12s AP %s, %d objects", item.class_name, score, item.num_ground_truth)
    for stage, times in evaluation.latency.items():
        _logger.info("      %-20s %8.2f ms mean, %8.2f p50, %8.2f p99", stage, times.mean, times.p50, times.p99)
