"""What skipping empty tiles saves on a GPU: `python -m benchmarks.gpu_skipping --out FILE`.

The same network twice on one GPU, computing all tiles and those that pillars reach, by turns on frames of a street (one
sweep, ten), of a cloud that meets ground everywhere, on an empty and on a full canvas. Weights are drawn: times do not
depend on them, and every output is compared bit for bit. `--clouds` adds clouds of your own.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from base.arguments import whole_number
from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.files import user_path, write_json
from base.tables import text_table
from benchmarks.gpu_frames import kinds_of_frames
from benchmarks.gpu_timing import EventClock
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.checks.skip_checks import SkippingPair, check_skipping
from runtime.cuda_engine.plan import MAP_TYPES, MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["main", "table"]

# Canvas and cell size of the released models.
_MODELS = {
    "760": (Architecture((760, 760)), 0.32),
    "1020": (Architecture((1020, 1020), upsamples=(0.5, 1, 2)), 0.24),
}
_RUNS = 50


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes the file; 1 where an output of the two differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_skipping", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    parser.add_argument("--rounds", type=whole_number(1, 10_000), default=20, help="turns of every contender")
    parser.add_argument(
        "--equal-frames", type=whole_number(0, 10**6), default=0, help="frames of random sequences to compare"
    )
    parser.add_argument(
        "--clouds", type=Path, nargs="*", default=[], help="further clouds: .npy of (N, 2 or more) metres"
    )
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> int:
    rows, gpu = [], ""
    for model, (architecture, cell_m) in _MODELS.items():
        frames = kinds_of_frames(architecture.size, cell_m, args.clouds)
        for map_type in MAP_TYPES:
            # A device of its own for each network: its memory is freed with it.
            device = CudaDevice.open(args.device)
            gpu = device.name
            rows += [
                {"model": model, "precision": map_type, **row}
                for row in _measure(device, architecture, map_type, frames, args.rounds)
            ]
            device.close()
    results: dict[str, Any] = {"gpu": gpu, "rounds": args.rounds, "runs": _RUNS, "rows": rows}
    if args.equal_frames:
        device = CudaDevice.open(args.device)
        results["equality"] = check_skipping(device, args.equal_frames)
        device.close()
    write_json(user_path(args.out), results)
    sys.stdout.write(table(results) + "\n")
    return EXIT_PASSED if all(row["equal"] for row in rows) else EXIT_FAILED


def _measure(
    device: CudaDevice,
    architecture: Architecture,
    map_type: MapType,
    frames: dict[str, NDArray[np.bool_]],
    rounds: int,
) -> list[dict[str, Any]]:
    stream = device.create_stream()
    pair = SkippingPair(device, random_plan(architecture, map_type), stream)
    clock, rows, rng = EventClock(device, stream, _RUNS), [], np.random.default_rng(0)
    activity = pair.skipping.activity
    assert activity is not None

    def captured(enqueue: Callable[[], None]) -> Any:
        device.begin_capture(stream)
        enqueue()
        return device.end_capture(stream)

    def skip() -> None:
        pair.enqueue_marks()
        pair.skipping.enqueue(stream)

    graphs = {"dense": captured(lambda: pair.dense.enqueue(stream)), "skipping": captured(skip)}
    for name, cells in frames.items():
        pair.run(cells, rng)
        equal = not pair.differing(maps=False)
        times = _by_turns(
            clock, {key: partial(device.launch_graph, graph, stream) for key, graph in graphs.items()}, rounds
        )
        ratios = [median(all_) / median(few) for all_, few in zip(times["dense"], times["skipping"], strict=True)]
        equal = equal and not pair.differing(maps=False)
        shares = {label: active / every for label, (active, every) in activity.counts(stream).items()}
        rows.append(
            {
                "frame": name,
                "pillars": int(cells.sum()),
                "equal": equal,
                "ratio": [median(ratios), min(ratios), max(ratios)],
                "shares": shares,
                **{key: _percentiles(rows_) for key, rows_ in times.items()},
            }
        )
    return rows


def _by_turns(
    clock: EventClock, contenders: dict[str, Callable[[], None]], rounds: int
) -> dict[str, list[list[float]]]:
    """Key -> milliseconds of the runs of each round; rounds begin with another contender by turns."""
    times: dict[str, list[list[float]]] = {key: [] for key in contenders}
    keys = list(contenders)
    for index in range(rounds):
        shift = index % len(keys)
        for key in (*keys[shift:], *keys[:shift]):
            times[key].append(clock(contenders[key], _RUNS))
    return times


def _percentiles(rounds: list[list[float]]) -> dict[str, float]:
    values = np.percentile(np.concatenate(rounds), (50, 99, 99.9))
    return dict(zip(("p50", "p99", "p999"), map(float, values), strict=True))


def table(results: dict[str, Any]) -> str:
    """The rows as text: milliseconds of the network from canvas to outputs, lists included."""
    header = ["model", "type", "frame", "pillars", "tiles", "all p50", "skipping p50", "p99", "p99.9", "ratio", "equal"]
    lines = []
    for row in results["rows"]:
        shares, (middle, low, high), skipping = list(row["shares"].values()), row["ratio"], row["skipping"]
        lines.append(
            [
                row["model"],
                row["precision"],
                row["frame"],
                str(row["pillars"]),
                f"{min(shares):.2f} to {max(shares):.2f}",
                *(f"{value:.3f}" for value in (row["dense"]["p50"], *skipping.values())),
                f"{middle:.2f} [{low:.2f}, {high:.2f}]",
                "yes" if row["equal"] else "NO",
            ]
        )
    return text_table(header, lines)


if __name__ == "__main__":
    run_main(main)
