"""Speed of our own GPU engine beside what else runs CenterPoint on that GPU, in one run.

    python -m benchmarks.gpu --model-config configs/model/second_secfpn_4xb16_121m_base_amp.py \\
        --onnx-dir-int8 DIR --onnx-dir-fp16 DIR --out DIR [--peers torch-fp16-graph torch-compile …]

Four sections: backbone, neck and head against PyTorch and ONNX Runtime; every layer of ours against the roofline;
points to boxes against mmdet3d's predict; several networks at a time. Contenders are timed by turns, each round
beginning with another one, so that clocks treat all alike, and ratios are of medians of the same round. Runs of a turn
follow each other without a pause and the first of them does not count: caches are in the state that the previous run
leaves, as in steady running. The canvas is that of a generated cloud of real size.

Writes `gpu_<model>.json` with everything, the same as tables in Markdown, and charts. What can be measured is; a peer
that does not run here is listed with the reason. `python -m benchmarks.gpu_page` makes docs/benchmarks/gpu.md of it.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import BackendUnavailable, ConfigError, DataError, UserError
from base.files import atomic_path, read_json, user_path, write_json
from base.ownership import owned_folder
from benchmarks.gpu_peers import PEERS
from benchmarks.gpu_sections import PREDICTORS, SECTIONS, Bench, Settings
from benchmarks.gpu_tables import report
from eval.codec import to_json
from eval.machine import package_versions
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER

__all__ = ["main", "run"]

_MODEL_CONFIG = "configs/model/second_secfpn_4xb16_121m_base_amp.py"

_logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the sections asked for and writes the results after each of them.

    Returns:
        What is written as JSON; `failed` maps the sections that broke off to the reason.

    Raises:
        BackendUnavailable: this machine has no GPU that it can be measured on.
        UserError: wrong files or options.
    """
    from deploy.config.paths import input_path

    folders = {"int8": user_path(args.onnx_dir_int8), "fp16": user_path(args.onnx_dir_fp16)}
    for precision, folder in folders.items():
        check_onnx_dir(folder, precision)
    out = user_path(args.out)
    peers = tuple(args.peers)
    settings = Settings(args.rounds, args.runs, args.frames, args.points, args.peer_limit, tuple(args.streams), peers)
    bench = Bench.open(input_path(args.model_config), args.checkpoint, folders, settings, args.device)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "model": bench.spec.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *args.command]),
        "commit": args.commit or _commit(),
        "versions": package_versions(),
        "settings": to_json(settings),
        "weights": "a checkpoint" if args.checkpoint else "drawn from seed 0",
        "skipped": {},
        "failed": {},
    }
    for name in args.sections:
        _logger.info("section %s", name)
        try:
            SECTIONS[name](bench, results)
        except (RuntimeError, ValueError, UserError, BackendUnavailable) as error:
            # What the other sections have measured is worth keeping, and the machine is rare.
            _logger.exception("section %s broke off", name)
            results["failed"][name] = f"{type(error).__name__}: {error}"
        results["skipped"].update(bench.skipped)
        write_json(out / f"gpu_{bench.spec.name}.json", results)
    return results


def check_onnx_dir(folder: Path, precision: str) -> None:
    """Raises `DataError` unless the folder holds both files."""
    for component in (VOXEL_ENCODER, BACKBONE_NECK_HEAD):
        if not (folder / f"{component}.onnx").is_file():
            raise DataError(
                f"--onnx-dir-{precision}: '{folder}' holds no {component}.onnx. "
                f"Export it with './bazelw build //artifacts:…_{precision}_onnx'."
            )


def _commit() -> str:
    """The checkout's commit, with a + where files differ from it."""
    try:
        answers = [
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=20).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answers[0] + ("+" if answers[1] else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model-config", default=_MODEL_CONFIG, help="default %(default)s")
    parser.add_argument("--checkpoint", help="weights of the PyTorch peers; drawn from seed 0 where left out")
    parser.add_argument("--onnx-dir-int8", required=True, metavar="DIR", help="both ONNX files, INT8")
    parser.add_argument("--onnx-dir-fp16", required=True, metavar="DIR", help="both ONNX files, FP16")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    choices = [*PEERS, *PREDICTORS]
    parser.add_argument("--peers", nargs="*", choices=choices, default=choices, help="default: all")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="default: all")
    parser.add_argument("--device", default="cuda:0", help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contender, default %(default)s")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of a turn, default %(default)s")
    parser.add_argument("--frames", type=int, default=10, help="timed frames of a turn from points to boxes")
    parser.add_argument("--points", type=int, default=200_000, help="of the cloud, default %(default)s")
    parser.add_argument("--peer-limit", type=float, default=90.0, help="seconds to prepare a peer, and to time it")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4], help="networks at a time")
    parser.add_argument("--commit", help="recorded in the results; asked of git where left out")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0; 1 where a section broke off or nothing of ours ran; 2 for wrong input or a machine without a GPU for it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    args.command = words
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> int:
    with owned_folder(user_path(args.out), "--out"):
        return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    from benchmarks.gpu_charts import draw

    if min(args.rounds, args.runs, args.frames, args.points, *args.streams) < 1:
        raise ConfigError("--rounds, --runs, --frames, --points and --streams are at least 1.")
    out = user_path(args.out)
    results = run(args)
    # As the file has them, so that the page made of it later is the same.
    results = read_json(out / f"gpu_{results['model']}.json")
    text = report(results)
    with atomic_path(out / f"gpu_{results['model']}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)  # noqa: T201 - the command's result
    draw(results, out)
    return EXIT_FAILED if results["failed"] or "cuda-int8" in results["skipped"] else EXIT_PASSED


if __name__ == "__main__":
    run_main(main)
