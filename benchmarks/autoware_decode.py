"""mAP under both decodes, by class and range: `python -m benchmarks.autoware_decode --onnx DIR … --data-root DIR`.

Every model detects once on every frame; its outputs are decoded as the training framework does and as Autoware's node
does, with the node's usual score thresholds and, where a bundle is named, with that bundle's.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import atomic_path, sha256_file, user_path, write_json
from base.manifests import require_as_made
from base.ownership import owned_file
from eval.metrics import DetectionMetrics, FrameResult, evaluate_detections
from eval.statistics import paired_bootstrap
from eval.vehicle import VehicleRecorder, VehicleSettings, VehicleSummary
from models.spec import BACKBONE_NECK_HEAD, ModelSpec

if TYPE_CHECKING:
    from datasets.frames import FrameSource

__all__ = ["main", "tables"]

RANGES_M = ((0.0, 20.0), (20.0, 35.0), (35.0, 50.0))
_DEFAULT, _MEASURED = "0.35", "measured"
_logger = logging.getLogger(__name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="autoware_decode", description=__doc__.split("\n")[0])
    parser.add_argument("--model-config", default="configs/model/centerpoint_t4_demo.py", help="default %(default)s")
    parser.add_argument("--onnx", nargs="+", required=True, metavar="DIR", help="folders of ONNX files, by precision")
    parser.add_argument("--bundles", nargs="+", default=[], metavar="DIR", help="a bundle for each, for its thresholds")
    parser.add_argument("--data-root", required=True, metavar="DIR", help="T4 dataset with validation frames")
    parser.add_argument("--frames", type=int, default=-1, metavar="N", help="-1 for all (the default)")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="draws of scenes, default %(default)s")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of ONNX Runtime (default %(default)s)")
    parser.add_argument("--out", default="autoware_decode", metavar="NAME", help="writes NAME.json and NAME.md")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run_owning(args), args.log_level)


def _run_owning(args: argparse.Namespace) -> None:
    with owned_file(user_path(args.out).with_suffix(".json"), "--out", args):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    from datasets.frames import open_frames
    from models.config import load_model_config

    if args.bundles and len(args.bundles) != len(args.onnx):
        raise ConfigError(f"--bundles names {len(args.bundles)} folders, --onnx {len(args.onnx)}; give one for each.")
    frames = open_frames(load_model_config(user_path(args.model_config)), "val", args.data_root)
    models = []
    for index, folder in enumerate(args.onnx):
        bundle = user_path(args.bundles[index]) if args.bundles else None
        models.append(_measure(user_path(folder), bundle, frames, args))
    result = {"ranges_m": [list(pair) for pair in RANGES_M], "models": models}
    out = user_path(args.out)
    write_json(out.with_suffix(".json"), result)
    text = tables(result)
    with atomic_path(out.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)  # noqa: T201 - what the command is for


def _measure(onnx_dir: Path, bundle: Path | None, frames: FrameSource, args: argparse.Namespace) -> dict[str, Any]:
    from autoware.reading import decode_params_of_bundle
    from base.onnx_files import read_onnx
    from deploy.detectors import DetectorFiles, open_checked_detector
    from eval.frames import first_frames
    from export.onnx_graph import metadata
    from runtime.autoware_params import AutowareDecodeParams

    head = onnx_dir / f"{BACKBONE_NECK_HEAD}.onnx"
    require_as_made(onnx_dir, [head.name], "onnx", "Export both components again.")
    facts = metadata(read_onnx(head))
    spec = ModelSpec.from_json(facts["spec"], str(head))
    settings = {_DEFAULT: VehicleSettings(AutowareDecodeParams.from_spec(spec))}
    if bundle is not None:
        settings[_MEASURED] = VehicleSettings(decode_params_of_bundle(bundle, spec), f"bundle {bundle.name}")
    recorders = {name: VehicleRecorder(spec, item) for name, item in settings.items()}
    training: list[FrameResult] = []
    scenes: list[str] = []
    files = DetectorFiles(onnx_dir=onnx_dir, onnx_key="--onnx")
    detector, _ = open_checked_detector("onnx", files, spec=spec, device="cpu", threads=args.threads)
    with detector:
        for frame in first_frames(frames, args.frames, f"detecting in {facts['precision']}", show_progress=True):
            inference = detector(frame.points)
            assert inference.outputs is not None  # this detector decodes on the host
            training.append(FrameResult(frame.token, inference.detections, frame.ground_truth))
            scenes.append(str(getattr(frame, "scene", "")))
            for recorder in recorders.values():
                recorder.add(frame.token, inference.outputs, frame.ground_truth)

    def score(scored: Sequence[FrameResult]) -> DetectionMetrics:
        return evaluate_detections(scored, spec.class_names, ranges_m=RANGES_M)

    metrics = score(training)
    decodes = []
    for name, recorder in recorders.items():
        seen = recorder.summary(facts["precision"], score, (metrics, training))
        difference = paired_bootstrap(
            training,
            recorder.frames().published,
            spec.class_names,
            ranges_m=RANGES_M,
            groups=scenes,
            num_resamples=args.resamples,
        ).total
        decodes.append(_decode(name, seen, difference.low, difference.high))
    return {
        "precision": facts["precision"],
        "onnx_sha256": sha256_file(head),
        "frames": len(training),
        "scenes": len(set(scenes)),
        "classes": list(spec.class_names),
        "objects": [item.num_ground_truth for item in metrics.total.classes],
        "training": _cells(metrics),
        "decodes": decodes,
    }


def _cells(metrics: DetectionMetrics) -> dict[str, list[float | None]]:
    """Range -> AP per class, then their mean."""
    return {
        part.name: [_number(value) for value in (*(item.mean_ap for item in part.classes), part.mean_ap)]
        for part in metrics.ranges
    }


def _decode(name: str, seen: VehicleSummary, low: float, high: float) -> dict[str, Any]:
    return {
        "thresholds": name,
        "score_thresholds": {row.class_name: list(row.thresholds) for row in seen.score_thresholds},
        "published": _cells(seen.metrics),
        "difference_interval": [_number(low), _number(high)],
        "steps": [
            {
                "name": step.name,
                "ap": [_number(value) for value in (*step.class_ap, step.mean_ap)],
                "boxes_per_frame": round(step.boxes_per_frame, 2),
            }
            for step in seen.steps
        ],
        "operating_point_2m": [
            {
                "class": item.class_name,
                "recall": _ratio(item.at(2.0).num_true_positives, item.num_ground_truth),
                "precision": _ratio(item.at(2.0).num_true_positives, item.at(2.0).num_detections),
                "false_per_frame": round(item.at(2.0).num_false_positives / seen.metrics.num_frames, 3),
            }
            for item in seen.metrics.total.classes
        ],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def tables(result: dict[str, Any]) -> str:
    """The result as Markdown: by class and range, step by step, and the operating points."""
    classes = result["models"][0]["classes"]
    columns = " | ".join([*classes, "mAP"])
    rule = "|---" * (len(classes) + 1)
    text = f"| precision | decode | range | {columns} |\n|---|---|---{rule}|\n"
    for model in result["models"]:
        sources = [("training framework", model["training"])]
        sources += [(f"node, thresholds {item['thresholds']}", item["published"]) for item in model["decodes"]]
        for name, cells in sources:
            for part, values in cells.items():
                text += f"| {model['precision']} | {name} | {part} | {' | '.join(_text(value) for value in values)} |\n"
    text += f"\n| precision | thresholds | decode stops after | {columns} | boxes a frame |\n|---|---|---{rule}|---|\n"
    for model in result["models"]:
        for item in model["decodes"]:
            for step in item["steps"]:
                values = " | ".join(_text(value) for value in step["ap"])
                boxes = f"{step['boxes_per_frame']:.1f}"
                text += f"| {model['precision']} | {item['thresholds']} | {step['name']} | {values} | {boxes} |\n"
    text += (
        "\n| precision | thresholds | mAP, node minus training | interval of 95 % over scenes |\n|---|---|---|---|\n"
    )
    for model in result["models"]:
        for item in model["decodes"]:
            lost = item["published"]["total"][-1] - model["training"]["total"][-1]
            low, high = item["difference_interval"]
            interval = "–" if low is None else f"{low:+.4f} to {high:+.4f}"
            text += f"| {model['precision']} | {item['thresholds']} | {lost:+.4f} | {interval} |\n"
    text += (
        "\n| precision | thresholds | class | recall | right within 2 m | false a frame |\n|---|---|---|---|---|---|\n"
    )
    for model in result["models"]:
        for item in model["decodes"]:
            for point in item["operating_point_2m"]:
                values = f"{_text(point['recall'])} | {_text(point['precision'])} | {point['false_per_frame']:.2f}"
                text += f"| {model['precision']} | {item['thresholds']} | {point['class']} | {values} |\n"
    return text


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    run_main(main)
