"""Which layers in INT8 and which in FP16: the fastest plan whose measured loss of mAP stays within a budget.

    python -m quant.search --profile sensitivity.json --budget 0.002 --config … --checkpoint … --output plan.json

The sensitivity profile predicts the loss of any plan, the roofline (or measured layer times) its time; `quant.plans`
finds the fastest plan of a predicted loss. The network itself then decides: the plan is evaluated, and the predicted
loss that is allowed is narrowed down between what passed and what failed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import user_path, write_json
from base.messages import plain_lines
from base.ownership import owned_file
from quant.plans import Item, PlanTimes, fastest_plan
from quant.sensitivity.profile import Effect, SensitivityProfile
from quant.sensitivity.selection import shares

__all__ = ["PlanStep", "SearchResult", "main", "search_plan"]

Criterion = Literal["estimate", "interval"]
CRITERIA: tuple[Criterion, ...] = ("estimate", "interval")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanStep:
    """A plan.

    Attributes:
        skip_layers: Module paths that it leaves in FP16.
        predicted_time_s: Of a frame.
        predicted_map_drop: By the profile; of the far end of the interval, where that is the criterion.
        measured: Its evaluation against floating point; None where nothing was evaluated.
        within_budget: Whether the measured loss is; None where nothing was evaluated.
    """

    skip_layers: tuple[str, ...]
    predicted_time_s: float
    predicted_map_drop: float
    measured: Effect | None
    within_budget: bool | None


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        budget: Allowed loss of mAP.
        criterion: What must be within it: the measured loss, or the far end of its interval.
        times_from: Source of the layers' times.
        int8_time_s: Of the network with every layer of the profile in INT8.
        fp16_time_s: With every layer in FP16.
        steps: Every plan that was considered, in order.
        chosen: The fastest one within the budget.
    """

    budget: float
    criterion: Criterion
    times_from: str
    int8_time_s: float
    fp16_time_s: float
    steps: tuple[PlanStep, ...]
    chosen: PlanStep

    @property
    def verified(self) -> bool:
        """Whether the chosen plan's accuracy was measured."""
        return self.chosen.measured is not None

    def write_json(self, path: str | Path) -> None:
        """Writes everything; equal results give equal bytes."""
        values = asdict(self)
        for step in (*values["steps"], values["chosen"]):
            if step["measured"] is not None:
                # An output that the plan does not touch has an infinite ratio.
                ratios = step["measured"]["sqnr_db"]
                step["measured"]["sqnr_db"] = {k: v if math.isfinite(v) else None for k, v in ratios.items()}
                # Of objects in one frame there is no interval.
                ends = {name: step["measured"][name] for name in ("low", "high")}
                step["measured"] |= {k: v if math.isfinite(v) else None for k, v in ends.items()}
        write_json(path, values)

    def summary(self) -> str:
        """As text."""
        what = "loss" if self.criterion == "estimate" else "far end of the loss's interval"
        lines = [f"fastest plan whose {what} of mAP is at most {self.budget:g}; times from {self.times_from}"]
        lines.append(f"{'layers in FP16':>14s} {'time':>10s} {'predicted':>10s} {'measured':>10s}  interval")
        for step in self.steps:
            text = (
                f"{len(step.skip_layers):14d} {1e3 * step.predicted_time_s:7.3f} ms {-step.predicted_map_drop:+10.4f}"
            )
            if step.measured is not None:
                of = step.measured
                text += f" {of.difference:+10.4f}  "
                text += "none" if math.isnan(of.low) else f"{of.low:+.4f} to {of.high:+.4f}"
                text += "  within" if step.within_budget else "  too much"
            lines.append(text + ("  <- chosen" if step == self.chosen else ""))
        lines.append(f"all in INT8 {1e3 * self.int8_time_s:.3f} ms, all in FP16 {1e3 * self.fp16_time_s:.3f} ms")
        if not self.verified and len(self.steps) > 1:
            tried = len(self.steps) - 1
            lines.append(f"none of {tried} evaluated plans is within the budget; raise it, or --max-evaluations")
        elif not self.verified:
            lines.append("not verified: the accuracy is the profile's prediction; give --checkpoint to measure it")
        skipped = " ".join(self.chosen.skip_layers)
        lines.append(f"--skip-layers {skipped}" if skipped else "nothing has to be skipped")
        return "\n".join(lines)


def search_plan(
    profile: SensitivityProfile,
    times: PlanTimes,
    budget: float,
    *,
    evaluate: Callable[[tuple[str, ...]], Effect] | None = None,
    max_evaluations: int = 5,
    by: Literal["map", "sqnr"] = "map",
    criterion: Criterion = "estimate",
) -> SearchResult:
    """Finds the fastest plan within a budget.

    Args:
        profile: Of the model; its layers are what the plan decides about, all others are in FP16.
        times: Of the network.
        budget: Allowed loss of mAP, mAP from 0 to 1.
        evaluate: Layers in FP16 -> the plan's measured mAP against floating point; None trusts the prediction.
        max_evaluations: Plans to evaluate at most.
        by: What tells how the loss is shared out between layers: their measured losses of mAP, or the noise that each
            adds to the outputs.
        criterion: What must be within the budget: the measured loss, or the far end of its interval.

    Raises:
        ConfigError: a budget below 0, a profile without mAP, or a layer without a time.
    """
    if not budget >= 0.0:
        raise ConfigError(f"The budget is {budget}; give a loss of mAP from 0 to 1, such as 0.002.")
    if math.isnan(profile.map_drop):
        raise ConfigError("The profile has no mAP: its frames hold no object. Analyse frames with ground truth.")
    if math.isnan(_loss(profile.quantized, criterion)):
        raise ConfigError(
            "The profile has no interval: one of its frames holds all objects. Analyse more frames, or judge by "
            "--criterion=estimate."
        )
    if max_evaluations < 1:
        raise ConfigError(f"max_evaluations is {max_evaluations}; give 1 or more.")
    # Shared out is what must be within the budget: where no loss is measured, its interval still has a far end.
    drop = max(_loss(profile.quantized, criterion), 0.0)
    items = [Item(layer.name, layer.layers, drop * share) for layer, share in _with_shares(profile, by)]
    everything = tuple(layer for item in items for layer in item.layers)

    def step_of(skipped_items: frozenset[str]) -> PlanStep:
        skipped = tuple(layer for item in items if item.name in skipped_items for layer in item.layers)
        predicted = sum(item.loss for item in items if item.name not in skipped_items)
        effect = evaluate(skipped) if evaluate is not None else None
        within = None if effect is None else _loss(effect, criterion) <= budget
        return PlanStep(skipped, times.time_s(set(everything) - set(skipped)), predicted, effect, within)

    steps: list[PlanStep] = []
    tried: set[frozenset[str]] = set()
    passed: PlanStep | None = None
    # Allowed predicted losses: at `low` plans pass (without quantization nothing is lost), above `high` they fail.
    low, high, allowed = 0.0, math.inf, budget
    while len(steps) < (max_evaluations if evaluate is not None else 1):
        plan = fastest_plan(items, times, allowed)
        if plan in tried:
            break
        tried.add(plan)
        step = step_of(plan)
        steps.append(step)
        if step.within_budget is False:
            high = step.predicted_map_drop
        else:
            low = max(low, step.predicted_map_drop)
            if passed is None or step.predicted_time_s < passed.predicted_time_s:
                passed = step
            if not any(item.name in plan for item in items):
                break  # Nothing is faster than everything in INT8.
        allowed = (low + min(high, drop)) / 2
    if passed is None:
        _logger.warning("No plan with a quantized layer was found within the budget; everything stays in FP16.")
        passed = PlanStep(everything, times.time_s(()), 0.0, None, None)
        steps.append(passed)
    return SearchResult(
        budget, criterion, times.source, times.time_s(everything), times.time_s(()), tuple(steps), passed
    )


def _with_shares(profile: SensitivityProfile, by: str) -> list[tuple[Any, float]]:
    share = shares(profile, by)
    return [(layer, share[layer.name]) for layer in profile.layers]


def _loss(effect: Effect, criterion: Criterion) -> float:
    return -effect.difference if criterion == "estimate" else -effect.low


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: print(plain_lines(_run_owning(args).summary())), args.log_level)  # noqa: T201 - what the command is for


def _parser() -> argparse.ArgumentParser:
    from quant.roofline import DEVICES
    from quant.sensitivity.calibrated import add_model_arguments

    parser = argparse.ArgumentParser(
        prog="python -m quant.search", description="Find the fastest mixed-precision plan within a loss of mAP."
    )
    parser.add_argument("--profile", required=True, metavar="JSON", help="of the command sensitivity")
    parser.add_argument("--budget", type=float, required=True, metavar="X", help="allowed loss of mAP, from 0 to 1")
    parser.add_argument("--criterion", choices=CRITERIA, default="estimate", help="default %(default)s")
    parser.add_argument(
        "--by",
        choices=("map", "sqnr"),
        default="map",
        help="how the loss is shared out between layers; default %(default)s",
    )
    parser.add_argument(
        "--target", choices=sorted(DEVICES), default="orin-agx-64", help="roofline; default %(default)s"
    )
    parser.add_argument("--layer-times", metavar="JSON", help='measured: {"<layer>": {"int8": ms, "fp16": ms}, ...}')
    parser.add_argument(
        "--max-evaluations", type=whole_number(0, 1_000_000), default=5, metavar="N", help="default %(default)s"
    )
    parser.add_argument("--output", metavar="JSON", help="where to write the result")
    add_log_level(parser)
    add_model_arguments(parser, required=False)
    return parser


def _run_owning(args: argparse.Namespace) -> SearchResult:
    with owned_file(user_path(args.output), "--output", args) if args.output else contextlib.nullcontext():
        return _run(args)


def _run(args: argparse.Namespace) -> SearchResult:
    from models.config import load_model_config
    from models.spec import ModelSpec
    from quant.roofline import DEVICES, conv_layers, read_layer_times
    from quant.sensitivity.calibrated import open_calibrated_model, user_output
    from quant.sensitivity.plan_evaluation import evaluate_plan

    if not args.config:
        raise ConfigError("--config is missing: the model config that the profile was made with.")
    output = user_output(args.output, ".json") if args.output else None
    profile = SensitivityProfile.read_json(user_path(args.profile))
    cfg = load_model_config(user_path(args.config))
    spec = ModelSpec.from_config(cfg)
    if spec.fingerprint() != profile.model_fingerprint:
        raise ConfigError(f"'{args.profile}' is of model '{profile.model_name}', not of '{args.config}'.")
    if args.layer_times:
        times = PlanTimes.from_layers(read_layer_times(user_path(args.layer_times)))
    else:
        times = PlanTimes.from_roofline(conv_layers(cfg), DEVICES[args.target])
    evaluate: Callable[[tuple[str, ...]], Effect] | None = None
    if args.checkpoint:
        opened = open_calibrated_model(args)

        def evaluate(skipped: tuple[str, ...]) -> Effect:
            return evaluate_plan(opened.model, opened.frames, skipped, spec=spec, workers=args.workers)

    try:
        result = search_plan(
            profile,
            times,
            args.budget,
            evaluate=evaluate,
            max_evaluations=args.max_evaluations,
            by=args.by,
            criterion=args.criterion,
        )
    except ConfigError as error:
        raise ConfigError(f"'{args.profile}': {error}") from error
    if output is not None:
        result.write_json(output)
        _logger.info("wrote %s", output)
    return result


if __name__ == "__main__":
    run_main(main)
