"""Command line of the generator: `python -m datasets.synthetic --out DIR …`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import user_path
from datasets.synthetic.riders import DEFAULT_RIDERS, RIDERS
from datasets.synthetic.sensors import DEFAULT_SENSOR, SENSORS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.synthetic", description="Generate a synthetic T4 dataset. Same seed, same bytes."
    )
    parser.add_argument("--out", required=True, help="folder to create")
    parser.add_argument("--train-scenes", type=int, default=8, help="scenes to train on (default %(default)s)")
    parser.add_argument("--val-scenes", type=int, default=2, help="scenes to validate on (default %(default)s)")
    parser.add_argument("--frames-per-scene", type=int, default=10, help="key frames a scene (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--split", choices=("both", "train", "val"), default="both", help="generate one split only")
    parser.add_argument("--beams", type=int, choices=(64, 128), help=f"of --sensor {DEFAULT_SENSOR}; default 64")
    parser.add_argument(
        "--sensor",
        choices=tuple(SENSORS),
        default=DEFAULT_SENSOR,
        help="spinning: 64 or 128 beams all around (--beams); others as docs/data.md says (default %(default)s)",
    )
    parser.add_argument(
        "--riders",
        choices=tuple(RIDERS),
        default=DEFAULT_RIDERS,
        help="plain: one build of cyclists; varied: many, for training beside real frames (default %(default)s)",
    )
    parser.add_argument(
        "--key-every", type=int, default=1, help="key frame every so many 0.1 s revolutions (default %(default)s)"
    )
    parser.add_argument("--sweeps", type=int, default=1, help="earlier revolutions per key frame (default %(default)s)")
    parser.add_argument("--tables", action="store_true", help="also write raw T4 datasets under t4/")
    parser.add_argument("--workers", type=int, help="processes (default: one per CPU); does not change the bytes")
    parser.add_argument("--overwrite", action="store_true", help="replace --out when it exists")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the generator; 0 when the dataset is whole, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _generate(args), args.log_level)


def _generate(args: argparse.Namespace) -> None:
    from datasets.synthetic.dataset_writer import DatasetConfig, generate

    if args.beams is not None and args.sensor != DEFAULT_SENSOR:
        raise ConfigError(
            f"--beams is for --sensor {DEFAULT_SENSOR}; {args.sensor} has the beams of its own units. Leave it out."
        )
    scenes = {"train": args.train_scenes, "val": args.val_scenes}
    start = time.monotonic()
    if args.split != "both":
        scenes = {args.split: scenes[args.split]}
    config = DatasetConfig(
        scenes,
        args.frames_per_scene,
        args.seed,
        beams=args.beams or 64,
        key_every=args.key_every,
        sweeps=args.sweeps,
        tables=args.tables,
        sensor=args.sensor,
        riders=args.riders,
    )
    written = generate(config, user_path(args.out), args.workers, args.overwrite)
    seconds = time.monotonic() - start
    total = sum(written.values())
    parts = ", ".join(f"{count} {split}" for split, count in written.items())
    print(f"{args.out}: {parts} key frames in {seconds:.1f} s ({total / seconds:.1f} frames/s)")


if __name__ == "__main__":
    run_main(main)
