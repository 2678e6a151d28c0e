"""INT8 on ONNX Runtime: latency against FP32 in one run, and codes against fake-quantized PyTorch.

    python -m benchmarks.int8_onnxruntime --checkpoint models/zoo/centerpoint_t4_demo/checkpoint.pth \\
        --calibration-root data/calibration --data-root data/t4dataset [--out int8_onnxruntime.json]

Exports the backbone, neck and head in FP32 and in INT8 (FP32 elsewhere, and FP16 elsewhere), and runs them by turns on
the canvases of real frames, so that a busy machine slows all of them alike; the ratio of the medians is what counts.
`--unsigned` adds a copy of the INT8 graph for this runtime alone, in which every quantizer behind a ReLU makes unsigned
codes: ONNX Runtime has no integer kernel for a ReLU in front of a signed quantizer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import user_path, write_json
from base.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

__all__ = ["Timing", "main", "measure", "unsigned_codes"]

_MODEL_CONFIG = "configs/model/centerpoint_t4_demo.py"
_BACKBONE = "pts_backbone_neck_head"


@dataclass(frozen=True)
class Timing:
    """Latency of one graph.

    Attributes:
        name: Which graph.
        num_bytes: Size of its file.
        median_ms: Of all runs.
        p90_ms: Of all runs.
        ratio: Its median over that of FP32.
    """

    name: str
    num_bytes: int
    median_ms: float
    p90_ms: float
    ratio: float


def measure(
    graphs: dict[str, bytes], canvases: Sequence[npt.NDArray[np.float32]], *, repeats: int = 10, threads: int = 2
) -> tuple[Timing, ...]:
    """Runs graphs by turns.

    Args:
        graphs: Name -> serialized model; the first is the reference of the ratios.
        canvases: (1, C, H, W) float32, taken one after the other.
        repeats: Runs of each graph that count, after two that do not.
        threads: Of ONNX Runtime.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    sessions = {name: onnxruntime.InferenceSession(data, options, providers=providers) for name, data in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    warmup = 2
    for turn in progress(range(repeats + warmup), "running ONNX Runtime", unit="turn"):
        canvas = canvases[turn % len(canvases)]
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: canvas})
            if turn >= warmup:
                times[name].append((time.perf_counter() - started) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = next(iter(medians.values()))
    return tuple(
        Timing(
            name,
            len(graphs[name]),
            medians[name],
            sorted(values)[int(0.9 * (len(values) - 1))],
            medians[name] / reference,
        )
        for name, values in times.items()
    )


def unsigned_codes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with unsigned codes behind every ReLU: the same scale and zero point 0.

    Codes of positive values are the same, but values beyond 127 steps reach up to 255 instead of being cut, so that
    this is a yardstick of speed and not the network that is deployed.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    from export.qdq.view import DEQUANTIZE, QUANTIZE, GraphView

    result: onnx.ModelProto = onnx.ModelProto()
    result.CopyFrom(model)
    view = GraphView.of(result)

    def is_positive(tensor: str) -> bool:
        node = view.producers.get(tensor)
        if node is None:
            return False
        if node.op_type == "Concat":
            sources = [view.producer(name, DEQUANTIZE) for name in node.input]
            pairs = [view.producer(source.input[0], QUANTIZE) for source in sources if source is not None]
            return len(pairs) == len(node.input) and all(pair and is_positive(pair.input[0]) for pair in pairs)
        return node.op_type == "Relu"

    for quantize in view.nodes(QUANTIZE):
        if is_positive(quantize.input[0]):
            for node in (quantize, *view.readers(quantize.output[0])):
                tensor = view.initializers[node.input[2]]
                tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.uint8), tensor.name))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="int8_onnxruntime", description="INT8 against FP32 on ONNX Runtime.")
    parser.add_argument("--model-config", default=_MODEL_CONFIG, help="default %(default)s")
    parser.add_argument("--checkpoint", required=True, help="float weights, or a quantized checkpoint")
    parser.add_argument("--calibration-root", help="T4 dataset with a training split, for a float checkpoint")
    parser.add_argument("--num-batches", type=int, default=20, help="calibration frames (default %(default)s)")
    parser.add_argument("--data-root", required=True, help="T4 dataset with a validation split")
    parser.add_argument("--frames", type=int, default=3, help="validation frames (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="runs that count (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime (default %(default)s)")
    parser.add_argument("--unsigned", action="store_true", help="also measure a copy with unsigned codes")
    parser.add_argument("--out", help="JSON file for the numbers")
    add_log_level(parser, "WARNING")
    args = parser.parse_args(argv)
    return run_command(lambda: _measure(args), args.log_level)


def _measure(args: argparse.Namespace) -> None:
    report = _run(args)
    if args.out:
        write_json(user_path(args.out), report)
    print(_text(report))  # noqa: T201 - what the command is for


def _run(args: argparse.Namespace) -> dict[str, Any]:
    import onnx

    from deploy.code_agreement import compare_codes
    from models.components import extract_components

    models, spec, canvases = _models(args)
    graphs: dict[str, bytes] = {}
    agreements: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (precision, elsewhere) in {
            "fp32": ("fp32", "fp32"),
            "int8, fp32 elsewhere": ("int8", "fp32"),
            "int8, fp16 elsewhere": ("int8", "fp16"),
        }.items():
            path = _export(models[precision], spec, Path(folder) / name, precision, elsewhere)
            graphs[name] = path.read_bytes()
            if precision == "int8":
                network = extract_components(models["int8"], spec)[_BACKBONE]
                for mode, by_layer in (("layer by layer", True), ("end to end", False)):
                    found = compare_codes(network, path, canvases[:1], layer_by_layer=by_layer, threads=args.threads)
                    agreements[f"{name}, {mode}"] = [asdict(item) for item in found]
    if args.unsigned:
        signed = onnx.load_from_string(graphs["int8, fp32 elsewhere"])
        graphs["int8, fp32 elsewhere, unsigned codes"] = unsigned_codes(signed).SerializeToString(deterministic=True)
    timings = measure(graphs, canvases, repeats=args.repeats, threads=args.threads)
    return {"threads": args.threads, "timings": [asdict(item) for item in timings], "agreement": agreements}


def _models(args: argparse.Namespace) -> tuple[dict[str, Any], Any, list[Any]]:
    from export.quantized_model import float_twin, quantize_float_model, read_quantized_model
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from models.spec import ModelSpec
    from quant.calibration.batches import calibration_batches
    from quant.checkpoint import is_quantized_checkpoint
    from quant.settings import PtqSettings

    cfg = load_model_config(user_path(args.model_config))
    spec, model = ModelSpec.from_config(cfg), build_model(cfg)
    checkpoint = user_path(args.checkpoint)
    if is_quantized_checkpoint(checkpoint):
        read_quantized_model(model, checkpoint)
    else:
        if args.calibration_root is None:
            raise DataError("A float checkpoint needs calibration frames: give --calibration-root.")
        load_checkpoint(model, checkpoint)
        root = str(user_path(args.calibration_root))
        batches = calibration_batches(cfg, "train", root, args.num_batches, model=model)
        quantize_float_model(model, spec, batches, PtqSettings(num_batches=args.num_batches))
    frames = calibration_batches(cfg, "test", str(user_path(args.data_root)), args.frames, model=model)
    canvases = [frames[index].canvas.numpy() for index in range(len(frames))]
    return {"int8": model, "fp32": float_twin(model)}, spec, canvases


def _export(model: Any, spec: Any, folder: Path, precision: str, elsewhere: str) -> Path:
    from export.onnx_export import OnnxExportSettings, export_components
    from export.opsets import INT8_OPSET

    settings = OnnxExportSettings(opset_version=INT8_OPSET, precision=precision, float_precision=elsewhere)
    export_components(model, spec, folder, settings)
    return folder / f"{_BACKBONE}.onnx"


def _text(report: dict[str, Any]) -> str:
    lines = [f"{'graph':<40} {'MB':>7} {'median ms':>10} {'p90 ms':>9} {'of FP32':>8}"]
    lines += [
        f"{item['name']:<40} {item['num_bytes'] / 1e6:7.2f} {item['median_ms']:10.1f} {item['p90_ms']:9.1f} "
        f"{item['ratio']:8.2f}"
        for item in report["timings"]
    ]
    for name, found in report["agreement"].items():
        codes = [item for item in found if not item["is_output"]]
        total = sum(item["elements"] for item in codes)
        equal = sum(item["equal_share"] * item["elements"] for item in codes) / total
        worst = min(codes, key=lambda item: item["equal_share"])
        lines.append(
            f"{name}: {100 * equal:.4f} % of {total:,} codes equal, least in {worst['name']} "
            f"({100 * worst['equal_share']:.4f} %), largest difference {max(i['max_steps'] for i in codes):g} step(s)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
