"""The command `sensitivity`: measures a model's layers; writes a table, the profile and a chart."""

from __future__ import annotations

import argparse
import logging
import math
from typing import TYPE_CHECKING

from base.arguments import SEED, whole_number
from base.errors import ConfigError
from base.files import user_path
from base.keeping import require_ours
from base.messages import plain_lines
from base.shares import WHOLE
from quant.part_options import add_parts, output_of
from quant.sensitivity.calibrated import add_model_arguments

if TYPE_CHECKING:
    from quant.sensitivity.profile import SensitivityProfile

__all__ = ["add_arguments", "run"]

_SHOWN = 10
_PICTURES = (".svg", ".png")
_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model_arguments(parser, required=False)
    add_parts(parser, "the analysis, by layers", "needs no other option but --output")
    analysis = parser.add_argument_group("analysis")
    analysis.add_argument(
        "--granularity",
        choices=("layer", "stage"),
        default="layer",
        help="what is switched: every layer, or whole blocks and head branches, for less than half of the cost",
    )
    analysis.add_argument(
        "--num-resamples",
        type=whole_number(0, 1_000_000),
        default=1000,
        metavar="N",
        help="of the bootstrap; default 1000",
    )
    analysis.add_argument("--seed", type=SEED, default=0, help="of the bootstrap; default %(default)s")
    analysis.add_argument(
        "--max-map-drop",
        type=float,
        default=0.001,
        metavar="X",
        help="loss of mAP, from 0 to 1, for which layers to skip are proposed; default %(default)s",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="CSV",
        help="table; the profile (.json) and the chart (.svg, .png) are written beside it",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from quant.sensitivity.chart import write_sensitivity_chart
    from quant.sensitivity.parts import merge_sensitivity_parts

    output = output_of(args, ".csv")
    if args.part is None:
        profile_name = output.with_suffix(".json").name
        pictures = {output.with_suffix(suffix).name: profile_name for suffix in _PICTURES}
        require_ours(output.parent, {profile_name: b'"model_fingerprint"', **pictures}, "--output")
    profile = merge_sensitivity_parts([user_path(path) for path in args.merge]) if args.merge else _measure(args)
    if args.part is not None:
        return 0
    profile.write_csv(output)
    profile.write_json(output.with_suffix(".json"))
    for suffix in _PICTURES:
        write_sensitivity_chart(profile, output.with_suffix(suffix))
    _logger.info("wrote %s, and .json, .svg and .png beside it", output)
    print(plain_lines(summary(profile, args.max_map_drop)))  # noqa: T201 - what the command is for
    return 0


def _measure(args: argparse.Namespace) -> SensitivityProfile:
    """The profile, or that of a part of the layers, which is written."""
    from quant.sensitivity.analysis import build_sensitivity_profile
    from quant.sensitivity.calibrated import open_calibrated_model
    from quant.sensitivity.parts import write_sensitivity_part

    missing = [f"--{name}" for name in ("config", "checkpoint") if getattr(args, name) is None]
    if missing:
        raise ConfigError(f"The analysis needs {' and '.join(missing)}; --merge alone does without.")
    opened = open_calibrated_model(args)
    profile = build_sensitivity_profile(
        opened.model,
        opened.frames,
        spec=opened.spec,
        granularity=args.granularity,
        num_resamples=args.num_resamples,
        seed=args.seed,
        workers=args.workers,
        share=args.part or WHOLE,
    )
    if args.part is not None:
        write_sensitivity_part(profile, opened.model, args.seed, args.part, user_path(args.output), spec=opened.spec)
        print(f"{args.output}: part {args.part} of the analysis, {len(profile.layers)} {args.granularity}s")  # noqa: T201
    return profile


def summary(profile: SensitivityProfile, max_map_drop: float) -> str:
    """The most sensitive layers, the layers to skip, and what the analysis cost, as text."""
    from quant.sensitivity.selection import get_sensitive_layers

    quantized = profile.quantized
    interval = "no interval: one frame holds all objects"
    if not math.isnan(quantized.low):
        interval = f"{100 * profile.confidence:g} % interval {quantized.low:+.4f} to {quantized.high:+.4f}"
        interval += f": {quantized.verdict}"
    lines = [
        f"{profile.num_frames} frames: mAP {profile.float_map:.4f} in floating point, "
        f"{quantized.mean_ap:.4f} quantized ({quantized.difference:+.4f}, {interval})",
        "",
        f"{'layer':44s} {'alone':>8s} {'all but':>8s} {'lowest SQNR':>12s}",
    ]
    ranked = sorted(profile.layers, key=lambda layer: (-layer.stake, layer.alone.lowest_sqnr_db))
    lines += [
        f"{layer.name:44s} {layer.alone.difference:+8.4f} {layer.all_but.difference:+8.4f} "
        f"{layer.alone.lowest_sqnr_db:9.1f} dB"
        for layer in ranked[:_SHOWN]
    ]
    chosen = get_sensitive_layers(profile, max_map_drop)
    lines += ["", f"to stay within {max_map_drop:g} of mAP: --skip-layers {' '.join(chosen)}" if chosen else ""]
    if not chosen:
        lines[-1] = f"to stay within {max_map_drop:g} of mAP no layer has to be skipped"
    cost = f"{profile.cost.num_runs} runs cost {profile.cost.multiple:.1f} evaluations by MACs"
    if profile.measured is not None:
        measured = profile.measured
        cost += (
            f", {measured.multiple:.1f} by time ({measured.analysis_s:.0f} s; one evaluation: "
            f"{measured.evaluation_s:.1f} s in floating point, {measured.quantized_s:.1f} s with its quantizers)"
        )
    return "\n".join([*lines, cost])
