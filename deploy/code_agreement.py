"""Fake-quantized PyTorch against the exported Q/DQ graph, in quantization steps.

End to end the two cannot be held closely together: a sum on the border of two codes may be rounded either way,
and each such choice moves others behind it. So each layer is compared by itself: while PyTorch runs, the input of every
quantized layer is compared with the codes that ONNX Runtime computed there, and replaced by them. What is left is one
layer's arithmetic, FP32 sums in another order, which moves less than one code in a thousand, by one step.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ExportError
from base.int8 import scale_of_amax
from base.lazy import require
from base.onnx_files import read_onnx
from export.qdq.view import DEQUANTIZE, INTEGER_OPS, QUANTIZE, GraphView, module_path
from models.spec import BACKBONE_NECK_HEAD

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from runtime.detector import InspectableDetector

__all__ = ["MAX_STEPS", "MIN_EQUAL_SHARE", "CodeAgreement", "compare_codes", "compare_exported", "disagreements"]

# Of a layer's input codes, from equal codes one layer before. Measured on the demo model: at least 0.9999, one step.
MIN_EQUAL_SHARE = 0.999
# Of codes made from FP16: 127 steps have a rounding error of 127 · 2**-12 = 0.03 steps, ten steps of 0.002.
MIN_EQUAL_SHARE_FP16 = 0.98
MAX_STEPS = 1
# Frames whose codes are compared; millions of codes each.
_FRAMES = 2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodeAgreement:
    """One quantized tensor, or one output of the network, over all compared canvases.

    Attributes:
        name: First layer that reads the tensor; or the output's name.
        elements: Elements compared.
        equal_share: Share of elements with equal codes.
        max_steps: Largest difference in quantization steps. An output that is not quantized is measured in 1/127 of its
            largest magnitude, and counts as equal within half a step.
        is_output: Whether it is an output of the network.
        from_fp16: Whether values were rounded to FP16 before they became codes.
    """

    name: str
    elements: int
    equal_share: float
    max_steps: float
    is_output: bool = False
    from_fp16: bool = False

    @property
    def required_share(self) -> float:
        """Least share of equal codes of a layer-by-layer comparison."""
        return MIN_EQUAL_SHARE_FP16 if self.from_fp16 else MIN_EQUAL_SHARE


def compare_exported(
    model: nn.Module, onnx_dir: Path, detector: InspectableDetector, frames: Iterable[Any]
) -> tuple[CodeAgreement, ...]:
    """Compares a quantized model with its export on the first frames that have points in its range.

    Args:
        model: The exported mmdet3d model; it stays as it is.
        onnx_dir: Folder of its export.
        detector: Of that export: its voxel encoder fills the canvases.
        frames: Not all are needed.
    """
    from models.components import extract_components

    network = extract_components(copy.deepcopy(model), detector.spec)[BACKBONE_NECK_HEAD]
    chosen = islice(_canvases(detector, frames), _FRAMES)
    return compare_codes(network, onnx_dir / f"{BACKBONE_NECK_HEAD}.onnx", chosen)


def _canvases(detector: InspectableDetector, frames: Iterable[Any]) -> Iterator[npt.NDArray[np.float32]]:
    """The canvas (1, C, H, W) of each frame that has points in the model's range, by a detector's voxel encoder."""
    from runtime.scatter import scatter

    for frame in frames:
        pillars = detector.encode(frame.points)
        if pillars.counts.voxels:
            yield scatter(pillars.features, pillars.coords, detector.spec)


def compare_codes(
    network: nn.Module,
    onnx_path: str | Path,
    canvases: Iterable[npt.NDArray[np.float32]],
    *,
    layer_by_layer: bool = True,
    threads: int = 0,
) -> tuple[CodeAgreement, ...]:
    """Compares the codes of every quantized tensor, and the outputs.

    Args:
        network: The exported `BackboneNeckHead` with quantized layers, on the CPU, in evaluation mode.
        onnx_path: Its INT8 export.
        canvases: (1, C, H, W) float32 each.
        layer_by_layer: Start every layer from ONNX Runtime's codes; False lets differences travel.
        threads: Of ONNX Runtime; 0: its own choice.

    Returns:
        Tensors in the order of the graph, then outputs.

    Raises:
        ExportError: the graph has no quantized layer, or is of another network.
    """
    import numpy as np
    import torch

    model = read_onnx(onnx_path)
    outputs = [value.name for value in model.graph.output]
    names = [value.name for value in model.graph.input]
    if len(names) != 1:
        raise ExportError(f"'{onnx_path}' has the inputs {names}; the quantized network has one, the canvas.")
    canvas_name = names[0]
    view = GraphView.of(model)
    tensors = _quantized_inputs(view)
    from_fp16 = {name for name in tensors if _is_from_fp16(view, name)}
    if not tensors:
        raise ExportError(f"'{onnx_path}' has no quantized layer; its codes cannot be compared.")
    session = _session(model, tensors, threads)
    tallies = {name: _Tally() for name in (*tensors, *outputs)}
    for canvas in canvases:
        values = dict(zip((*outputs, *tensors), session.run(None, {canvas_name: canvas}), strict=True))
        seen: set[str] = set()
        hooks = []
        for tensor, paths in tensors.items():
            for path in paths:
                layer = _layer(network, path, onnx_path)
                hook = _Comparison(tensor, values[tensor], tallies[tensor], seen, replace=layer_by_layer)
                hooks.append(layer.register_forward_pre_hook(hook))
        try:
            with torch.no_grad():
                results = network(torch.from_numpy(canvas))
        finally:
            for handle in hooks:
                handle.remove()
        for name, result in zip(outputs, results, strict=True):
            expected = result.numpy()
            step = scale_of_amax(float(np.abs(expected).max())) or 1.0
            tallies[name].add(np.abs(values[name] - expected) / step, 0.5)
    return tuple(
        tallies[name].result(paths[0], from_fp16=name in from_fp16) for name, paths in tensors.items()
    ) + tuple(tallies[name].result(name, is_output=True) for name in outputs)


def disagreements(found: Iterable[CodeAgreement]) -> tuple[str, ...]:
    """What of a layer-by-layer comparison is beyond the limits, in words."""
    return tuple(
        f"{item.name}: {item.equal_share:.4%} of {item.elements} codes are equal (at least {item.required_share:.1%}), "
        f"the largest difference is {item.max_steps:.3g} steps (at most {MAX_STEPS})"
        for item in found
        if not item.equal_share >= item.required_share or not item.max_steps <= MAX_STEPS
    )


class _Tally:
    def __init__(self) -> None:
        self.elements, self.equal, self.max_steps = 0, 0, 0.0

    def add(self, steps: npt.NDArray[Any], tolerance: float = 0.0) -> None:
        import numpy as np

        self.elements += steps.size
        self.equal += int(np.count_nonzero(steps <= tolerance))
        # NaN must not vanish in a maximum.
        self.max_steps = float(np.max([self.max_steps, steps.max(initial=0.0)]))

    def result(self, name: str, *, is_output: bool = False, from_fp16: bool = False) -> CodeAgreement:
        share = self.equal / self.elements if self.elements else float("nan")
        return CodeAgreement(name, self.elements, share, self.max_steps, is_output, from_fp16)


class _Comparison:
    """Compares a layer's input with given codes, once for all layers that read it, and hands the codes on."""

    def __init__(
        self, tensor: str, codes: npt.NDArray[np.int8], tally: _Tally, seen: set[str], *, replace: bool
    ) -> None:
        self.tensor, self.codes, self.tally, self.seen, self.replace = tensor, codes, tally, seen, replace

    def __call__(self, layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        import numpy as np
        import torch

        scale = layer.input_quantizer.scale
        if self.tensor not in self.seen:
            self.seen.add(self.tensor)
            own = torch.clamp(torch.round(args[0] / scale), -128, 127).numpy()
            self.tally.add(np.abs(own - self.codes.astype(np.float32)))
        return (torch.from_numpy(self.codes.astype(np.float32)) * scale, *args[1:]) if self.replace else None


def _quantized_inputs(view: GraphView) -> dict[str, list[str]]:
    """Tensor of codes -> the modules of the integer layers that read it."""
    found: dict[str, list[str]] = {}
    for quantize in view.nodes(QUANTIZE):
        for dequantize in view.readers(quantize.output[0]):
            if dequantize.op_type != DEQUANTIZE:
                continue
            for node in view.readers(dequantize.output[0]):
                if node.op_type in INTEGER_OPS:
                    found.setdefault(quantize.output[0], []).append(module_path(node.name))
    return found


def _is_from_fp16(view: GraphView, codes: str) -> bool:
    """Whether the quantizer of these codes, or one in front of the concatenation that it follows, reads FP16."""
    quantize = view.producers[codes]
    scale = view.scale(quantize)
    if scale is not None and scale.dtype.itemsize == 2:
        return True
    concat = view.producer(quantize.input[0], "Concat")
    before = [view.producer(name, DEQUANTIZE) for name in concat.input] if concat is not None else []
    return any(_is_from_fp16(view, node.input[0]) for node in before if node is not None)


def _session(model: Any, tensors: Iterable[str], threads: int) -> Any:
    import onnx

    onnxruntime = require("onnxruntime", "to compare codes")
    for name in tensors:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _layer(network: nn.Module, path: str, onnx_path: str | Path) -> nn.Module:
    try:
        layer = network.get_submodule(path)
    except AttributeError as error:
        raise ExportError(f"'{onnx_path}' quantizes '{path}', a layer that the model does not have.") from error
    if not hasattr(layer, "input_quantizer"):
        raise ExportError(f"'{onnx_path}' quantizes '{path}', which is in floating point in the model.")
    return layer
