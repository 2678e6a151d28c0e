"""Draws the README's picture: `python -m docs.make_pictures --data-root DIR --onnx-dir DIR --out docs/images`.

The ONNX files come from `python -m deploy.export --mode=onnx`, the data from the generator (docs/data.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from base.command import add_log_level, run_command, run_main
from datasets.frames import open_frames
from eval.bev import save_bev_png
from eval.evaluator import evaluate
from eval.panels import select_panels
from models.config import load_model_config
from models.spec import ModelSpec
from runtime import open_detector


def main() -> int:
    """Evaluates some frames on ONNX Runtime and draws the one with the fewest errors among the worst."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-config", type=Path, default=Path("configs/model/centerpoint_t4_demo.py"))
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--onnx-dir", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    add_log_level(parser)
    args = parser.parse_args()
    return run_command(lambda: _draw(args), args.log_level)


def _draw(args: argparse.Namespace) -> None:
    cfg = load_model_config(args.model_config)
    spec = ModelSpec.from_config(cfg)
    frames = open_frames(cfg, data_root=args.data_root)
    with open_detector("onnx", spec=spec, onnx_dir=args.onnx_dir) as detector:
        result = evaluate(detector, frames, num_samples=args.frames)
    panel = select_panels([result], frames, count=args.frames)[-1]
    args.out.mkdir(parents=True, exist_ok=True)
    save_bev_png(panel, args.out / "detections.png", title=f"{spec.name}, {panel.token[:8]}")


if __name__ == "__main__":
    run_main(main)
