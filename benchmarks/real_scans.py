"""Generated scans held against real ones: points, pillars, tiles, heights, intensities and objects, side by side.

    python -m datasets.synthetic --out data/like_kitti --train-scenes 0 --val-scenes 12 --frames-per-scene 2 \
        --key-every 8 --sweeps 0 --sensor kitti
    python -m benchmarks.real_scans --real data/kitti_drive --generated data/like_kitti --view 42

A real set is a folder of `benchmarks.real_drive` (`labels.json` or `.npz` files), or a `.bin` file of five float32 (or
float16) a point; a generated one a T4 dataset, of which the key frames of the split val are taken.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base.arguments import number, whole_number
from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import atomic_path, user_path, write_json
from base.ownership import owned_folder
from benchmarks.scan_facts import Scan, layers_of, scan_facts
from benchmarks.scan_sets import generated_scans, real_scans
from benchmarks.scan_table import draw, spread, table

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="real_scans", description=__doc__.split("\n\n")[0])
    parser.add_argument("--real", type=Path, required=True, metavar="DIR|BIN")
    parser.add_argument("--generated", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--config", default="configs/model/centerpoint_t4_demo.py", metavar="PY", help="for pillars and tiles"
    )
    parser.add_argument(
        "--view", type=number(1.0, 180.0), default=180.0, metavar="DEG", help="within ± this of ahead (%(default)s)"
    )
    height = number(0.0, 10.0)
    parser.add_argument("--real-height", type=height, default=1.73, metavar="M", help="of the real LiDAR (%(default)s)")
    parser.add_argument("--generated-height", type=height, metavar="M", help="of the generated one (default: the same)")
    parser.add_argument(
        "--turned", action="store_true", help="a real .bin has y ahead and x to the right, as nuScenes' LiDAR"
    )
    parser.add_argument("--half", action="store_true", help="a real .bin has float16 numbers")
    parser.add_argument(
        "--sweeps",
        type=whole_number(0, 100),
        default=0,
        metavar="N",
        help="earlier sweeps joined to each generated frame (%(default)s)",
    )
    parser.add_argument(
        "--frames", type=whole_number(1, 100_000), default=60, metavar="N", help="of each at most (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("work_dirs/real_scans"), metavar="DIR")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    from models.config import load_model_config

    if (args.turned or args.half) and user_path(args.real).is_dir():
        raise ConfigError(f"--turned and --half say how a .bin file is; --real is the folder '{args.real}'.")
    cfg = load_model_config(user_path(args.config))
    layers = layers_of(cfg.model.pts_backbone, cfg.model.pts_neck)
    generated_height = args.real_height if args.generated_height is None else args.generated_height
    sets = {
        "real": list(real_scans(user_path(args.real), args.real_height, args.frames, args.turned, args.half)),
        "generated": list(generated_scans(user_path(args.generated), generated_height, args.frames, args.sweeps)),
    }

    def facts_of(scans: Sequence[Scan]) -> dict[str, Any]:
        return scan_facts(scans, args.view, cfg.point_cloud_range, float(cfg.voxel_size[0]), layers)

    facts = {name: facts_of(scans) for name, scans in sets.items()}
    spreads = spread([facts_of([scan]) for scan in sets["generated"]])
    out = user_path(args.out)
    with owned_folder(out, "--out"):
        write_json(out / "scans.json", _without_nan({**facts, "spread": spreads}))
        text = table(facts["real"], facts["generated"], spreads)
        with atomic_path(out / "scans.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        draw(out / "scans.png", facts, spreads)
    print(text)  # noqa: T201


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    run_main(main)
