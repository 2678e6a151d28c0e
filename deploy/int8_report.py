"""The report's sections on INT8: precision of each layer, agreement with PyTorch code by code, what was calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.code_agreement import CodeAgreement
    from eval.report.extension import ReportSection
    from export.qdq.precision_map import PrecisionMap

__all__ = ["int8_sections"]


def int8_sections(
    onnx_path: Path, agreements: Sequence[CodeAgreement] = (), facts: dict[str, Any] | None = None
) -> tuple[ReportSection, ...]:
    """Sections on one INT8 graph.

    Args:
        onnx_path: The backbone's ONNX file; without it, or where it is a float graph, there is nothing to show.
        agreements: What `compare_codes` found layer by layer.
        facts: `QuantizedModel.facts`.

    Raises:
        ExportError: the file is broken.
    """
    from base.onnx_files import read_onnx
    from export.qdq.precision_map import precision_map
    from export.qdq.view import is_quantized

    if not onnx_path.is_file():
        return ()
    model = read_onnx(onnx_path)
    if not is_quantized(model):
        return ()
    sections = [_precision_section(precision_map(model))]
    if agreements:
        sections.append(_agreement_section(agreements))
    if facts:
        sections.append(_facts_section(facts))
    return tuple(sections)


def _precision_section(found: PrecisionMap) -> ReportSection:
    from eval.report.extension import Figure, ReportSection
    from export.qdq.precision_picture import draw_precision_map

    rows = []
    for precision in ("int8", "fp16", "fp32"):
        layers = [layer for layer in found.layers if layer.precision == precision]
        if layers:
            rows.append(
                (
                    precision.upper(),
                    str(len(layers)),
                    f"{sum(layer.macs for layer in layers) / 1e9:.3f} G",
                    f"{100 * found.share_of_macs(precision):.2f} %",
                    f"{sum(layer.weight_bytes for layer in layers) / 1e6:.3f} MB",
                    f"{sum(layer.input_bytes + layer.output_bytes for layer in layers) / 1e6:.1f} MB",
                )
            )
    return ReportSection(
        title="INT8: precision of each layer",
        anchor="int8-precision",
        text="The exported graph of backbone, neck and head, as the rules of the export hold it: every quantized layer "
        "has both its inputs behind DequantizeLinear, its weights are INT8 constants, and the inputs of the "
        "concatenation share one scale.",
        figures=(
            Figure(
                draw_precision_map(found),
                "Left edge: what a layer multiplies in. Lower edge: what it writes. Number: multiplications a frame.",
                wide=True,
            ),
        ),
        head=("precision", "layers", "multiplications", "share", "weights", "activations read and written"),
        rows=tuple(rows),
    )


def _agreement_section(agreements: Sequence[CodeAgreement]) -> ReportSection:
    from deploy.code_agreement import MAX_STEPS, MIN_EQUAL_SHARE, MIN_EQUAL_SHARE_FP16
    from eval.report.extension import ReportSection

    rows = tuple(
        (
            item.name + (" (output)" if item.is_output else ""),
            f"{item.elements:,}",
            f"{100 * item.equal_share:.5f} %",
            f"{item.max_steps:.3g}",
        )
        for item in agreements
    )
    return ReportSection(
        title="INT8: fake-quantized PyTorch against ONNX Runtime",
        anchor="int8-codes",
        text="Layer by layer: every layer starts from the codes that ONNX Runtime computed before it: a row shows "
        f"one layer's arithmetic. Required: at least {100 * MIN_EQUAL_SHARE:g} % equal "
        f"({100 * MIN_EQUAL_SHARE_FP16:g} % behind FP16, whose rounding comes first), at most {MAX_STEPS} step. "
        "Outputs are not quantized; a step of theirs is 1/127 of the largest value, and within half a step they count "
        "as equal.",
        head=("input of", "values", "equal codes", "largest difference in steps"),
        rows=rows,
    )


def _facts_section(facts: dict[str, Any]) -> ReportSection:
    from eval.report.extension import ReportSection

    names = {
        "method": "method",
        "amax_method": "activation ranges",
        "weight_method": "weight ranges",
        "num_frames": "calibration frames",
        "engine": "quantizers",
        "quantized_layers": "layers in INT8",
        "scales_sha256": "SHA-256 of the scales",
    }
    rows = [(text, str(facts[key])) for key, text in names.items() if key in facts]
    rows.append(("layers in floating point", ", ".join(facts.get("float_layers", ())) or "none"))
    return ReportSection(
        title="INT8: quantization", anchor="int8-quantization", head=("what", "value"), rows=tuple(rows)
    )
