"""What Autoware's node makes of a dataset: `python -m deploy.detect --onnx-dir DIR --model-config CFG --out DIR`.

Candidates, that is the node's boxes before its score thresholds, with the ground truth of every frame: a bundle's
thresholds are measured on them. Reads nothing but the files it is given and writes nothing but `--out`, the same bytes
on every run: a build action.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from base.arguments import FRAMES, THREADS
from base.checks import add_accept
from base.command import add_log_level, run_command, run_main
from base.determinism import set_determinism
from base.errors import ConfigError, ExportError
from base.files import user_path
from base.manifests import require_as_made
from base.onnx_files import read_onnx
from base.ownership import owned_folder
from base.wholeness import MARKS
from eval.detections_file import DETECTIONS, DETECTIONS_MARK, MANIFEST_KIND
from export.manifest import build_manifest, discard_manifest, write_manifest
from export.onnx_graph import metadata
from models.known_checks import KNOWN_CHECKS
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detect", description="Detect with exported ONNX files as Autoware's node does, before score thresholds."
    )
    parser.add_argument("--onnx-dir", required=True, type=Path, help="folder with both components")
    parser.add_argument("--model-config", required=True, type=Path, help="mmengine model config, for its test pipeline")
    parser.add_argument("--data-root", required=True, type=Path, help="T4 dataset")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="default %(default)s")
    parser.add_argument("--num-samples", type=FRAMES, default=-1, metavar="N", help="frames; -1 for all (the default)")
    parser.add_argument("--out", required=True, type=Path, help=f"folder for {DETECTIONS} and manifest.json")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads of ONNX Runtime (default 1)")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level, args.accept)


def _run(args: argparse.Namespace) -> None:
    with owned_folder(user_path(args.out), "--out", marks={**MARKS, DETECTIONS: DETECTIONS_MARK}):
        _detect(args)


def _detect(args: argparse.Namespace) -> None:
    from datasets.frames import open_frames
    from deploy.detectors import DetectorFiles, open_checked_detector
    from eval.detections_file import write_detections
    from eval.frames import first_frames
    from eval.metrics import FrameResult
    from models.config import load_model_config
    from runtime.autoware_params import AutowareDecodeParams
    from runtime.autoware_postprocess import why_undecodable
    from runtime.decoders import candidates_decoder

    set_determinism(0, threads=args.threads)
    onnx_dir, config_path, data_root, out = (
        user_path(path) for path in (args.onnx_dir, args.model_config, args.data_root, args.out)
    )
    files = {name: onnx_dir / f"{name}.onnx" for name in (VOXEL_ENCODER, BACKBONE_NECK_HEAD)}
    require_as_made(onnx_dir, [path.name for path in files.values()], "onnx", "Export both components again.")
    facts = metadata(read_onnx(files[BACKBONE_NECK_HEAD]))
    if "spec" not in facts:
        raise ExportError(f"'{onnx_dir}' does not say what it is; export it with export.tools.export_onnx.")
    spec = ModelSpec.from_json(facts["spec"], str(files[BACKBONE_NECK_HEAD]))
    reason = why_undecodable(spec)
    if reason:
        raise ConfigError(f"'{onnx_dir}': {reason}.")
    cfg = load_model_config(config_path)
    classes = ModelSpec.from_config(cfg).class_names
    if classes != spec.class_names:
        raise ConfigError(f"'{onnx_dir}' is of classes {list(spec.class_names)}; '{config_path}' has {list(classes)}.")
    frames = open_frames(cfg, args.split, str(data_root))
    params = AutowareDecodeParams.from_spec(spec).with_score_threshold(spec.score_threshold)
    decoder = candidates_decoder(params)
    results = []
    detector, _ = open_checked_detector(
        "onnx", DetectorFiles(onnx_dir=onnx_dir), spec=spec, device="cpu", decoder=decoder, threads=args.threads
    )
    with detector:
        for frame in first_frames(frames, args.num_samples, "detecting", show_progress=True):
            results.append(FrameResult(frame.token, detector(frame.points).detections, frame.ground_truth))
    # The manifest is of the detections beside it: an earlier one goes before new detections come.
    discard_manifest(out, MANIFEST_KIND)
    write_detections(results, spec.class_names, out / DETECTIONS)
    inputs = {path.name: path for path in files.values()}
    inputs |= {"model_config": config_path, "info_file": data_root / cfg[f"{args.split}_dataloader"].dataset.ann_file}
    manifest = build_manifest(
        kind=MANIFEST_KIND,
        inputs=inputs,
        outputs={DETECTIONS: out / DETECTIONS},
        settings={
            "weights": facts.get("weights", ""),
            "precision": facts.get("precision", ""),
            "frames": len(results),
            "split": args.split,
            "score_threshold": spec.score_threshold,
        },
        packages=("onnxruntime", "numpy", "mmdet3d"),
    )
    write_manifest(out / "manifest.json", manifest)


if __name__ == "__main__":
    run_main(main)
