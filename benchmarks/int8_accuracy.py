"""What INT8 costs, by method: accuracy of one model in every precision, on one backend, with intervals.

Three stages: `prepare` makes the variants' ONNX files, `score` runs them, `report` compares them with FP16. A variant
that is prepared or scored stays in the output folder; a run that was stopped goes on where it was.

    python -m benchmarks.int8_accuracy --config configs/model/centerpoint_t4_demo.py --checkpoint best.pth \
        --data-root data/t4val --calibration-data-root data/t4train --frames 200 --output work_dirs/int8_accuracy

What each layer costs, and plans of mixed precision by accuracy and milliseconds, in one run on the engine:
`--backend cuda --methods percentile --each-layer percentile --plans 0.5 0.25 0.1`.

Stages can be started one by one, so that variants are prepared on a GPU, by several commands at a time, while others
are scored: `--stages prepare --device cuda:0 --methods lidar_ptq`. What a backend costs, of one variant's files:
`--methods percentile percentile@openvino percentile@pytorch --pair percentile percentile@openvino`.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import number
from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError, DataError
from base.files import sha256_file, user_path, write_json
from benchmarks.int8_accuracy_device import Engines, score_on_device
from benchmarks.int8_accuracy_judged import write_judged
from benchmarks.int8_accuracy_prepared import Prepared, read_plan
from benchmarks.int8_accuracy_results import DEFAULT_RANGES_M, Drawn, StoredRun, write_results
from benchmarks.int8_accuracy_scoring import score
from benchmarks.int8_accuracy_variants import BACKENDS, FP16, METHODS, parse_variant, variant_and_backend
from benchmarks.int8_plans import layer_rows, plan_name, plans
from benchmarks.run_options import add_calibrate_batches, add_model, add_output, add_resamples, add_workers, claim
from models.spec import ModelSpec

if TYPE_CHECKING:
    from datasets.frames import FrameSource

__all__ = ["main"]

_logger = logging.getLogger(__name__)

_STAGES = ("prepare", "score", "report")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="int8_accuracy", description="Accuracy of a model in INT8, by method.")
    add_model(parser)
    parser.add_argument("--data-root", required=True, metavar="DIR", help="T4 dataset to score on (its split val)")
    parser.add_argument("--calibration-data-root", metavar="DIR", help="to calibrate on (its split train)")
    parser.add_argument("--frames", type=int, default=-1, metavar="N", help="frames to score; -1 is all")
    add_calibrate_batches(parser, 100)
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        default=[m for m in METHODS if m != "qat"],
        help=f"variants: {', '.join(METHODS)}; mixed-NAME, NAME-percentile, NAME-even, NAME@BACKEND (see "
        "int8_accuracy_variants.py)",
    )
    parser.add_argument("--stages", nargs="+", choices=_STAGES, default=_STAGES, help="default: all")
    parser.add_argument(
        "--plan", type=Path, metavar="JSON", help="layers that mixed variants leave in FP16: of a search"
    )
    parser.add_argument("--device", default="cpu", help='to prepare on, "cpu" or "cuda:N"; default %(default)s')
    add_workers(parser)
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        default=[],
        metavar="NAME",
        help="two variants to compare with each other, beside every one with FP16; may be repeated",
    )
    parser.add_argument("--qat-checkpoint", type=Path, metavar="PTH", help="for the variant qat")
    parser.add_argument("--backend", choices=BACKENDS, default="onnx", help="default %(default)s")
    parser.add_argument("--gpu", default="cuda:0", metavar="CUDA", help="of the backend cuda; default %(default)s")
    parser.add_argument(
        "--each-layer",
        metavar="NAME",
        help="beside --methods, this calibration with each layer in FP16 and with each one alone in INT8",
    )
    parser.add_argument(
        "--plans",
        nargs="+",
        type=number(0.0, 1.0),
        default=[],
        metavar="SHARE",
        help="then measure, too, the fastest plan whose INT8 layers cost at most this share of what all layers cost",
    )
    add_resamples(parser)
    parser.add_argument(
        "--judged",
        nargs="+",
        default=[],
        metavar="NAME",
        help="variants whose judgements the report keeps in judged.npz.xz (see int8_accuracy_judged.py)",
    )
    add_output(parser, "work_dirs/int8_accuracy")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    asked = [*args.methods, *([args.each_layer] if args.each_layer else [])]
    variants = [parse_variant(variant_and_backend(name, args.backend)[0]) for name in asked]
    if "prepare" in args.stages:
        if any(variant.mixed for variant in variants) and args.plan is None:
            raise ConfigError("A mixed variant needs --plan: the JSON file of quant.search, or one with 'skip_layers'.")
        if any(variant.method == "qat" for variant in variants) and args.qat_checkpoint is None:
            raise ConfigError("The variant 'qat' needs --qat-checkpoint.")
    methods = [FP16, *(name for name in args.methods if name != FP16)]
    for option, names in (("--pair", [name for pair in args.pair for name in pair]), ("--judged", args.judged)):
        if missing := sorted(set(names) - set(methods)):
            raise ConfigError(f"{option} names {', '.join(missing)}, which --methods does not.")
    if args.plans and not (args.each_layer and set(_STAGES) <= set(args.stages)):
        raise ConfigError("--plans chooses by what --each-layer measures, in one run of all --stages; give both.")
    if args.plans and args.backend != "cuda":
        raise ConfigError(f"--plans chooses by milliseconds, which --backend cuda takes; it is '{args.backend}'.")
    if args.plans and args.each_layer not in methods:
        raise ConfigError(f"--plans compares with all layers in INT8: name '{args.each_layer}' in --methods, too.")
    stages = _Stages(args)
    if args.each_layer:
        methods += stages.prepared.of_each_layer(args.each_layer)
    stages.run(methods)
    if args.plans:
        started = time.perf_counter()
        known = [name for name in methods if name not in stages.stored.refusals()]
        rows = layer_rows(
            {"variants": stages.drawn.points(known), "refused": stages.stored.refusals()}, args.each_layer
        )
        write_json(stages.stored.folder / "layers.json", {"calibration": args.each_layer, "layers": rows})
        chosen = [plan_name(args.each_layer, plan) for plan in plans(rows, args.plans)]
        _logger.info("%d plans of %d layers in %.1f s", len(chosen), len(rows), time.perf_counter() - started)
        methods += [name for name in chosen if name not in methods]
        stages.run(methods)
    if "report" in args.stages:
        print(stages.report(methods))  # noqa: T201


class _Stages:
    """A run's stages, over variants of which some may be done; what was read or drawn once is kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        from models.build import build_model, load_checkpoint
        from models.config import load_model_config

        self._args = args
        out = user_path(args.output)
        self._cfg = load_model_config(user_path(args.config))
        self._spec = ModelSpec.from_config(self._cfg)
        self._model = build_model(self._cfg)
        load_checkpoint(self._model, user_path(args.checkpoint))
        self.stored = StoredRun(out)
        self.prepared = Prepared(args, out, self._cfg, self._spec, self._model)
        self.drawn = Drawn(self.stored, self._spec.class_names, args.resamples, args.workers)

    def run(self, methods: Sequence[str]) -> None:
        """Prepares and scores those of the variants that are not, as far as --stages says."""
        args, out = self._args, self.stored.folder
        scores = "score" in args.stages or "report" in args.stages
        frames, count = self._frames if scores else (None, 0)  # what is wrong with them is told before calibrations
        waiting = [name for name in methods if not self.stored.has(name) and name not in self.stored.refusals()]
        files = [variant for variant, backend in self.prepared.asked(waiting) if backend != "pytorch"]
        if "prepare" in args.stages:
            for name, chosen in _chosen(args).items():
                claim(out / f"prepared_{name}.json", chosen)
        if "prepare" in args.stages and files:
            claim(out / "prepared.json", _identity(args))
            started = time.perf_counter()
            self.prepared.export_all(list(dict.fromkeys(files)))
            _logger.info("%d variants prepared in %.1f s", len(files), time.perf_counter() - started)
        if frames is not None:
            scored = {
                "dataset_sha256": sha256_file(user_path(args.data_root) / "centerpoint_infos_val.pkl"),
                "frames": count,
                "backend": args.backend,
                "ranges_m": [list(pair) for pair in DEFAULT_RANGES_M],
            }
            claim(out / "run.json", {**_identity(args), **scored})
            if "score" in args.stages and waiting:
                started = time.perf_counter()
                self._score(waiting, frames, count)
                _logger.info("%d variants scored in %.1f s", len(waiting), time.perf_counter() - started)

    @cached_property
    def _frames(self) -> tuple[FrameSource, int]:
        """The frames to score, and how many of them."""
        from datasets.frames import open_frames

        args = self._args
        frames = open_frames(self._cfg, "val", args.data_root)
        count = len(frames) if args.frames == -1 else args.frames
        if not 1 <= count <= len(frames):
            raise DataError(f"--frames is {args.frames}; '{args.data_root}' has {len(frames)}.")
        return frames, count

    def _score(self, waiting: Sequence[str], frames: FrameSource, count: int) -> None:
        args, asked = self._args, self.prepared.asked(waiting)
        on_gpu = [name for name, (_, backend) in zip(waiting, asked, strict=True) if backend == "cuda"]
        networks = {name: self.prepared.opener(name) for name in waiting if name not in on_gpu}
        if networks:
            score(self.stored, networks, frames, count, self._model, self._spec, args.workers)
        if on_gpu:
            engines = Engines(self._spec, args.gpu, frames.most_points(count)[0])
            with closing(engines):
                detectors = {name: partial(engines.open, self.prepared.folder(name)) for name in on_gpu}
                score_on_device(self.stored, detectors, frames, count, args.workers)

    def report(self, methods: Sequence[str]) -> str:
        """The tables; written into the run's folder, too."""
        args, run = self._args, self.stored
        methods = [name for name in methods if name not in run.refusals()]
        absent = [name for name in methods if not run.has(name)]
        pairs = [(a, b) for a, b in args.pair]
        if absent:
            raise DataError(f"'{run.folder}' has no detections of {', '.join(absent)}; score them first.")
        if args.judged:
            write_judged(run, args.judged, self._spec.class_names, run.folder / "judged.npz.xz")
        started = time.perf_counter()
        text = write_results(run, methods, self._spec.class_names, args.resamples, pairs, args.workers, self.drawn)
        _logger.info("%d variants compared in %.1f s", len(methods), time.perf_counter() - started)
        return text


def _identity(args: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for variants to stand side by side."""
    return {
        "config": Path(args.config).name,
        "checkpoint_sha256": sha256_file(user_path(args.checkpoint)),
        "calibrate_batches": args.calibrate_batches,
    }


def _chosen(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What some variants are made of, where it is given: files that exist were made of the same."""
    frames = user_path(args.calibration_data_root or args.data_root) / "centerpoint_infos_train.pkl"
    chosen: dict[str, dict[str, Any]] = {}
    if frames.is_file():
        chosen["frames"] = {"calibration frames": sha256_file(frames)}
    if args.plan:
        chosen["plan"] = {"layers of --plan": list(read_plan(user_path(args.plan)))}
    if args.qat_checkpoint:
        chosen["qat"] = {"--qat-checkpoint": sha256_file(user_path(args.qat_checkpoint))}
    return chosen


if __name__ == "__main__":
    run_main(main)
