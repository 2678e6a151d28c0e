"""Scores any detector's boxes: `python -m eval.score --frames FILE --out FILE [--config NAME …]`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import user_path, write_json
from base.messages import shown_file
from base.ownership import owned_file
from eval.metrics.nuscenes import NUSCENES_RANGES_M
from eval.score_configs import ScoreConfig, parse_config
from eval.score_frames import FrameFile
from eval.score_labels import UNKNOWN
from eval.score_presets import NUSCENES_PRESET, PRESETS
from eval.score_run import score_file

__all__ = ["main", "score"]

_DEFAULT_PRESET = "awml"

_logger = logging.getLogger(__name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="score",
        description="Score detections against ground truth. No model is needed. docs/metrics.md has the file format.",
        epilog="Exit code: 0 scored; 2 wrong input or configuration.",
    )
    parser.add_argument(
        "--frames", required=True, metavar="FILE", help=".json, .jsonl (a frame a line), or .gz of these"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"a configuration of the file, or a preset: {', '.join((*PRESETS, NUSCENES_PRESET))} (default: all of the "
        f"file, or {_DEFAULT_PRESET})",
    )
    parser.add_argument(
        "--detections", metavar="FILE", help="take the detections ('est') from this file, frame by frame the same"
    )
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="classes of the nuScenes score")
    parser.add_argument(
        "--compat",
        action=argparse.BooleanOptionalAction,
        help="take headings in base_link as perception_eval does, without the sign of the turn (default: for "
        "configurations of the file, which describe a run of that package, but not for presets)",
    )
    parser.add_argument(
        "--unstable-ties",
        action="store_true",
        help="order equal scores by numpy's default sort, as perception_eval does; the result depends on the CPU",
    )
    parser.add_argument(
        "--curves", action="store_true", help="also write the precision at the recalls 0, 0.01, … 1 ('precision')"
    )
    add_log_level(parser)
    return parser


def _configs(names: Sequence[str] | None, in_file: dict[str, Any], args: argparse.Namespace) -> list[ScoreConfig]:
    """The configurations that the names stand for; those of the file come before presets of the same name."""
    if names is None:
        names = list(in_file) or [_DEFAULT_PRESET]
    stable = not args.unstable_ties
    chosen: list[ScoreConfig] = []
    for name in dict.fromkeys(names):
        if name in in_file:
            compat = args.compat is None or bool(args.compat)
            try:
                chosen.append(parse_config(name, in_file[name], compat=compat, stable_ties=stable))
            except ConfigError as error:
                raise ConfigError(f"{shown_file(args.frames)}: {error}") from error
        elif name in PRESETS:
            chosen += PRESETS[f"{name}_compat" if args.compat and f"{name}_compat" in PRESETS else name]
        elif name != NUSCENES_PRESET:
            raise ConfigError(
                f"there is no configuration '{name}': '{args.frames}' has {sorted(in_file) or 'none'}, the presets are "
                f"{', '.join((*PRESETS, NUSCENES_PRESET))}"
            )
    return chosen


def _nuscenes_classes(given: Sequence[str] | None, configs: Sequence[ScoreConfig]) -> tuple[str, ...]:
    """The classes asked for; else those of the first configuration; else of the default preset."""
    if given:
        return tuple(dict.fromkeys(given))
    first = configs[0] if configs else PRESETS[_DEFAULT_PRESET][0]
    return tuple(name for name in first.class_names if name != UNKNOWN) or tuple(NUSCENES_RANGES_M)


def score(args: argparse.Namespace) -> None:
    """Scores what the arguments name and writes the result.

    Raises:
        UserError: wrong input or configuration.
    """
    detections = None if args.detections is None else user_path(args.detections)
    with owned_file(user_path(args.out), "--out", args) as out:
        frames = FrameFile(user_path(args.frames), detections)
        configs = _configs(args.config, frames.configs(), args)
        result = score_file(frames, configs, _nuscenes_classes(args.classes, configs), curves=args.curves)
        write_json(out, result)
    for name, scores in result["results"].items():
        for mode, values in scores["modes"].items():
            _logger.info("%s %s: mAP %s, mAPH %s", name, mode, values["mAP"], values["mAPH"])
    filtered = result["nuscenes"]["filtered"]
    _logger.info("nuscenes: mAP %s, NDS %s", filtered["mAP"], filtered["NDS"])
    _logger.info("wrote %s", out)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: score(args), args.log_level)


if __name__ == "__main__":
    run_main(main)
