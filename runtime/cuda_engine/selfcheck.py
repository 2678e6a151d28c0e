"""Compares the engine's kernels on a GPU with numpy: `python -m runtime.cuda_engine.selfcheck [--device N]`.

Needs a GPU and cuda-python with NVRTC; no model. Prints one row a check and exits with 1 if any failed, 2 without a
device. A check whose package or GPU is missing is SKIPPED.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from base.arguments import whole_number
from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import BackendUnavailable, MissingDependencyError
from runtime.cuda.device import CudaDevice, CudaError
from runtime.cuda_engine.checks.dense_checks import check_dense_frames, check_large_dense_frame
from runtime.cuda_engine.checks.detection_checks import check_large_maps, check_random_maps, check_special_maps
from runtime.cuda_engine.checks.frame_checks import (
    check_large_frame,
    check_layers,
    check_random_frames,
    check_special_frames,
    check_stock_frame,
)
from runtime.cuda_engine.checks.intake_checks import check_intake
from runtime.cuda_engine.checks.pillar_checks import (
    check_crowded_pillar,
    check_encoder_forms,
    check_large_cloud,
    check_random_clouds,
    check_special_clouds,
)
from runtime.cuda_engine.checks.skip_checks import check_skipping
from runtime.cuda_engine.checks.sweep_checks import check_sweeps
from runtime.cuda_engine.checks.tiling_checks import check_tilings

__all__ = ["CHECKS", "main"]

CHECKS: dict[str, Callable[[CudaDevice], str]] = {
    "layers": check_layers,
    "tilings": check_tilings,
    "intake": check_intake,
    "sweeps": check_sweeps,
    "pillars, limits": check_special_clouds,
    "pillars, forms": check_encoder_forms,
    "pillars, random": check_random_clouds,
    "pillars, large": check_large_cloud,
    "pillars, crowded": check_crowded_pillar,
    "detections, limits": check_special_maps,
    "detections, random": check_random_maps,
    "detections, large": check_large_maps,
    "frames, limits": check_special_frames,
    "frames, random": check_random_frames,
    "frames, large": check_large_frame,
    "frames, stock": check_stock_frame,
    "skipping": check_skipping,
    "dense, limits": check_dense_frames,
    "dense, large": check_large_dense_frame,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the checks; returns 0 if none failed, 1 otherwise, 2 without a device."""
    parser = argparse.ArgumentParser(prog="python -m runtime.cuda_engine.selfcheck", description=__doc__)
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    parser.add_argument("--only", default="", help="run the checks whose names have this text")
    add_log_level(parser)
    args = parser.parse_args(arguments)
    return run_command(lambda: _check_all(args), args.log_level)


def _check_all(args: argparse.Namespace) -> int:
    write = sys.stdout.write
    failed = 0
    CudaDevice.open(args.device).close()
    for name, check in CHECKS.items():
        if args.only not in name:
            continue
        # A device of its own for each check: what a check allocates is freed after it.
        device, start = CudaDevice.open(args.device), time.perf_counter()
        failure: Exception | None = None
        try:
            verdict, detail = "PASS", check(device)
        except (BackendUnavailable, MissingDependencyError) as reason:
            verdict, detail = "SKIPPED", str(reason)
        except (AssertionError, CudaError) as problem:
            verdict, detail, failure = "FAIL", str(problem), problem
            failed += 1
        write(f"{verdict:<8} {name:<20} {detail} [{time.perf_counter() - start:.1f} s]\n")
        sys.stdout.flush()
        if verdict == "FAIL" and isinstance(failure, CudaError):
            write("SKIPPED  the remaining checks: the device may be in an error state.\n")
            return EXIT_FAILED
        device.close()
    return EXIT_FAILED if failed else EXIT_PASSED


if __name__ == "__main__":
    run_main(main)
