"""What INT8 costs, by method: accuracy of one model in every precision, on one backend, with intervals.

Three stages: `prepare` makes the variants' ONNX files, `score` runs them, `report` compares them with FP16. A variant
that is prepared or scored stays in the output folder; a run that was stopped goes on where it was.

    python -m benchmarks.int8_accuracy --config configs/model/centerpoint_t4_demo.py --checkpoint best.pth \
        --data-root data/t4val --calibration-data-root data/t4train --frames 200 --output work_dirs/int8_accuracy

Stages can be started one by one, so that variants are prepared on a GPU, by several commands at a time, while others
are scored: `--stages prepare --device cuda:0 --methods lidar_ptq`. What a backend costs, of one variant's files:
`--methods percentile percentile@openvino percentile@pytorch --pair percentile percentile@openvino`.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError, DataError
from base.files import atomic_dir, read_json, sha256_file, user_path, write_json
from base.progress import progress
from benchmarks.int8_accuracy_device import Engines, score_on_device
from benchmarks.int8_accuracy_judged import write_judged
from benchmarks.int8_accuracy_results import DEFAULT_RANGES_M, StoredRun, write_results
from benchmarks.int8_accuracy_scoring import Network, network_opener, score
from benchmarks.int8_accuracy_variants import (
    BACKENDS,
    FP16,
    METHODS,
    Variants,
    file_name,
    is_choice_of_layers,
    parse_variant,
    variant_and_backend,
)
from models.spec import BACKBONE_NECK_HEAD, ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from quant.stored_frames import StoredFrames

__all__ = ["main"]

_logger = logging.getLogger(__name__)

_STAGES = ("prepare", "score", "report")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="int8_accuracy", description="Accuracy of a model in INT8, by method.")
    parser.add_argument("--config", default="configs/model/centerpoint_t4_demo.py", metavar="PY")
    parser.add_argument("--checkpoint", default="models/zoo/centerpoint_t4_demo/checkpoint.pth", metavar="PTH")
    parser.add_argument("--data-root", required=True, metavar="DIR", help="T4 dataset to score on (its split val)")
    parser.add_argument("--calibration-data-root", metavar="DIR", help="to calibrate on (its split train)")
    parser.add_argument("--frames", type=int, default=-1, metavar="N", help="frames to score; -1 is all")
    parser.add_argument("--calibrate-batches", type=int, default=100, metavar="N", help="default %(default)s")
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
    parser.add_argument("--workers", type=int, metavar="N", help="processes that score; default one a processor")
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
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap")
    parser.add_argument(
        "--judged",
        nargs="+",
        default=[],
        metavar="NAME",
        help="variants whose judgements the report keeps in judged.npz.xz (see int8_accuracy_judged.py)",
    )
    parser.add_argument("--output", type=Path, default=Path("work_dirs/int8_accuracy"), metavar="DIR")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    from datasets.frames import open_frames
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config

    for name in args.methods:
        parse_variant(variant_and_backend(name, args.backend)[0])
    methods = [FP16, *(name for name in args.methods if name != FP16)]
    missing = sorted({name for pair in args.pair for name in pair} - set(methods))
    if missing:
        raise ConfigError(f"--pair names {', '.join(missing)}, which --methods does not.")
    out = user_path(args.output)
    cfg = load_model_config(user_path(args.config))
    spec = ModelSpec.from_config(cfg)
    model = build_model(cfg)
    load_checkpoint(model, user_path(args.checkpoint))
    run = StoredRun(out)
    variants = _Prepared(args, out, cfg, spec, model)
    if args.each_layer:
        methods += variants.of_each_layer(args.each_layer)
    waiting = [name for name in methods if not run.has(name) and name not in run.refusals()]
    files = [variant for variant, backend in variants.asked(waiting) if backend != "pytorch"]
    if "prepare" in args.stages and files:
        _claim(out / "prepared.json", _identity(args))
        variants.export_all(list(dict.fromkeys(files)))
    if "score" in args.stages or "report" in args.stages:
        frames = open_frames(cfg, "val", args.data_root)
        count = len(frames) if args.frames == -1 else args.frames
        if not 1 <= count <= len(frames):
            raise DataError(f"--frames is {args.frames}; '{args.data_root}' has {len(frames)}.")
        scored = {
            "dataset_sha256": sha256_file(user_path(args.data_root) / "centerpoint_infos_val.pkl"),
            "frames": count,
            "backend": args.backend,
            "ranges_m": [list(pair) for pair in DEFAULT_RANGES_M],
        }
        _claim(out / "run.json", {**_identity(args), **scored})
    if "score" in args.stages and waiting:
        on_gpu = [
            name for name, (_, backend) in zip(waiting, variants.asked(waiting), strict=True) if backend == "cuda"
        ]
        networks = {name: variants.opener(name) for name in waiting if name not in on_gpu}
        if networks:
            score(run, networks, frames, count, model, spec, args.workers)
        if on_gpu:
            engines = Engines(spec, args.gpu, frames.most_points(count)[0])
            with closing(engines):
                detectors = {name: partial(engines.open, variants.folder(name)) for name in on_gpu}
                score_on_device(run, detectors, frames, count, args.workers)
    if "report" in args.stages:
        methods = [name for name in methods if name not in run.refusals()]
        absent = [name for name in methods if not run.has(name)]
        pairs = [(a, b) for a, b in args.pair]
        if absent:
            raise DataError(f"'{out}' has no detections of {', '.join(absent)}; score them first.")
        if args.judged:
            write_judged(run, args.judged, spec.class_names, out / "judged.npz.xz")
        print(write_results(run, methods, spec.class_names, args.resamples, pairs, args.workers))  # noqa: T201


class _Prepared:
    """The variants of a run, their ONNX files in its folder."""

    def __init__(self, args: argparse.Namespace, out: Path, cfg: Any, spec: ModelSpec, model: nn.Module) -> None:
        self._args = args
        self._out = out
        self._cfg = cfg
        self._spec = spec
        self._model = model
        self._variants: Variants | None = None

    def asked(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Variant and backend of each name."""
        return [variant_and_backend(name, self._args.backend) for name in names]

    def of_each_layer(self, calibration: str) -> list[str]:
        """Names of a calibration's variants with each layer in FP16, and with each one alone in INT8."""
        layers = self._made().layers()
        return [f"{calibration}:{kind}={layer}" for kind in ("float", "only") for layer in layers]

    def export_all(self, names: Sequence[str]) -> None:
        """Writes the files of variants; on a CPU those that differ in the choice of layers side by side."""
        from quant.calibration.processes import in_processes

        missing = [name for name in names if not (self._out / "models" / file_name(name)).exists()]
        # A process with a GPU's driver in it is not copied.
        alike = [name for name in missing if self._args.device == "cpu" and is_choice_of_layers(name)]
        for name in names:
            if name not in alike:
                self.export(name)
        if not alike:
            return
        self._made().calibrate(alike)
        workers = min(self._args.workers or len(os.sched_getaffinity(0)), len(alike))

        def work(share: Sequence[str]) -> Iterator[str]:
            import torch

            torch.set_num_threads(1)
            for name in share:
                self.export(name)
                yield name

        for _ in progress(in_processes(work, [alike[k::workers] for k in range(workers)]), "exporting", len(alike)):
            pass

    def export(self, name: str) -> None:
        """Writes the files of a variant, unless they are there."""
        folder = self._out / "models" / file_name(name)
        if not folder.exists():
            with atomic_dir(folder) as temporary:
                self._made().export(name, temporary)
            _logger.info("%s prepared", name)

    def opener(self, name: str) -> Callable[[], Network]:
        """What opens the network of a variant on its backend, with one thread.

        Raises:
            DataError: it was not prepared.
        """
        (component,) = (item for item in self._spec.components if item.name == BACKBONE_NECK_HEAD)
        ((variant, backend),) = self.asked([name])
        if backend == "pytorch":
            network = self._made().network(variant).eval()
            return lambda: _pytorch(network, [tensor.name for tensor in component.outputs])
        return network_opener(self._spec, self.folder(name), backend)

    def folder(self, name: str) -> Path:
        """Where a variant's ONNX files lie.

        Raises:
            DataError: it was not prepared.
        """
        ((variant, _),) = self.asked([name])
        folder = self._out / "models" / file_name(variant)
        if not folder.exists():
            raise DataError(f"'{folder}' is missing: variant '{variant}' was not prepared (--stages prepare).")
        return folder

    def _made(self) -> Variants:
        if self._variants is None:
            from models.build import build_model

            args = self._args
            plan = _plan(user_path(args.plan)) if args.plan else ()
            self._variants = Variants(
                self._model,
                self._spec,
                self._calibration(),
                lambda: build_model(self._cfg),
                args.qat_checkpoint,
                plan,
                args.device,
            )
        return self._variants

    def _calibration(self) -> StoredFrames:
        """The run's calibration frames: those of an earlier start, or new ones."""
        from quant.calibration import calibration_batches
        from quant.stored_frames import StoredFrames

        path = self._out / f"calibration_{self._args.calibrate_batches}.pt"
        if not path.exists():
            root, wanted = self._args.calibration_data_root or self._args.data_root, self._args.calibrate_batches
            frames = calibration_batches(self._cfg, "train", root, wanted, model=self._model)
            StoredFrames(frames, wanted).save(path)
        return StoredFrames.load(path)


def _plan(path: Path) -> tuple[str, ...]:
    """The layers that a plan of `quant.search` leaves in FP16; of a list of layers, that list."""
    plan = read_json(path)
    chosen = plan.get("chosen", plan) if isinstance(plan, dict) else None
    layers = chosen.get("skip_layers") if isinstance(chosen, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise DataError(f"'{path}' has no list 'skip_layers', nor 'chosen' with one; give the plan of quant.search.")
    return tuple(layers)


def _identity(args: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for variants to stand side by side."""
    return {
        "config": Path(args.config).name,
        "checkpoint_sha256": sha256_file(user_path(args.checkpoint)),
        "calibrate_batches": args.calibrate_batches,
    }


def _claim(path: Path, mine: dict[str, Any]) -> None:
    """The folder belongs to one run."""
    if not path.exists():
        write_json(path, mine)
        return
    theirs = read_json(path)
    different = sorted(key for key in mine if theirs.get(key) != mine[key])
    if different:
        raise ConfigError(
            f"'{path.parent}' holds results of another run: {', '.join(different)} differ. Give another --output, or "
            "remove it."
        )


def _pytorch(network: nn.Module, names: Sequence[str]) -> Network:
    import torch

    def run(canvas: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return dict(zip(names, (head.numpy() for head in network(torch.from_numpy(canvas))), strict=True))

    return run


if __name__ == "__main__":
    run_main(main)
