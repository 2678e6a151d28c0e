"""Draws the README's pictures: `python -m docs.make_pictures --data-root DIR --onnx-dir DIR --out docs/images`.

The ONNX files come from `python -m deploy.export --mode=onnx`, the data from the generator (docs/data.md).
`--sequence` draws the moving one, of a scene of 40 frames:

    python -m datasets.synthetic --out seq --split val --train-scenes 0 --val-scenes 1 --frames-per-scene 40 --seed 41
    python -m docs.make_pictures --sequence --data-root seq --onnx-dir work_dirs/centerpoint_deployment/onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from base.command import add_log_level, run_command, run_main
from datasets.frames import open_frames
from docs.sequence_picture import save_sequence_gif
from eval.bev import save_bev_png
from eval.evaluator import evaluate
from eval.panels import select_panels
from models.config import load_model_config
from models.spec import ModelSpec
from runtime import open_detector

RATE_HZ = 10.0  # of the generator's sensor


def main() -> int:
    """Evaluates some frames on ONNX Runtime; draws the one with the fewest errors among the worst, or all in a GIF."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-config", type=Path, default=Path("configs/model/centerpoint_t4_demo.py"))
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--onnx-dir", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--sequence", action="store_true", help="sequence.gif of all frames, in place of the picture")
    add_log_level(parser)
    args = parser.parse_args()
    return run_command(lambda: _draw(args), args.log_level)


def _draw(args: argparse.Namespace) -> None:
    cfg = load_model_config(args.model_config)
    spec = ModelSpec.from_config(cfg)
    frames = open_frames(cfg, data_root=args.data_root)
    args.out.mkdir(parents=True, exist_ok=True)
    with open_detector("onnx", spec=spec, onnx_dir=args.onnx_dir) as detector:
        result = evaluate(detector, frames, num_samples=-1 if args.sequence else args.frames)
    if args.sequence:
        shown = enumerate(result.frames)
        moments = [(frames[index].points, frame.ground_truth, frame.detections) for index, frame in shown]
        save_sequence_gif(args.out / "sequence.gif", moments, spec.class_names, RATE_HZ)
        return
    panel = select_panels([result], frames, count=args.frames)[-1]
    save_bev_png(panel, args.out / "detections.png", title=f"{spec.name}, {panel.token[:8]}")


if __name__ == "__main__":
    run_main(main)
