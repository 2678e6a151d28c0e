"""From a failed verification to the layers at which it begins to fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from eval.comparison import PRECISIONS, Tolerance, default_tolerances
from eval.divergence.bisection import Bisection, Divergence, TensorSource
from eval.divergence.onnx_graph import OnnxGraph
from eval.divergence.torch_modules import TorchModules
from eval.frames import FramesLike
from models.spec import INPUT_FEATURES, PILLAR_FEATURES, SPATIAL_FEATURES, VOXEL_ENCODER, ModelSpec
from runtime.preprocess import preprocess
from runtime.scatter import scatter

if TYPE_CHECKING:
    from torch import nn

    from eval.verification import VerificationResult

__all__ = ["find_divergences"]

Array = NDArray[np.float32]


def find_divergences(
    result: VerificationResult,
    reference: Mapping[str, nn.Module] | Path,
    tested_onnx: Path,
    spec: ModelSpec,
    frames: FramesLike,
) -> tuple[Divergence, ...]:
    """Follows every failed output of a verification back, on the frame where it was worst.

    Both networks are given the reference's inputs, component by component, so that what is wrong with one component is
    not taken for a fault of the next.

    Args:
        result: Of the verification.
        reference: Components of the PyTorch model by name, or a folder of ONNX files.
        tested_onnx: Folder of the ONNX files that are judged, or that the judged engines were built from.
        spec: The exported model.
        frames: Those of the verification.

    Returns:
        One for each node at which something begins; empty where every output agrees on these inputs.

    Raises:
        DataError: the frame or the files cannot be read.
    """
    failed = [item.comparison for item in result.outputs if not item.passed]
    found: list[Divergence] = []
    for component in spec.components:
        outputs = [item for item in failed if item.name in {tensor.name for tensor in component.outputs}]
        if not outputs:
            continue
        points = _points_of(frames, outputs[0].worst_frame, result.num_frames + result.num_empty_frames)
        inputs = _inputs(component.name, reference, points, spec)
        graph = OnnxGraph(tested_onnx / f"{component.name}.onnx")
        source, comparable = _reference(reference, component.name, graph, inputs)
        bisection = Bisection(graph, source, comparable, inputs, _tolerance(result.precision), component.name)
        found.extend(item for output in outputs if (item := bisection.first(output.name)) is not None)
    return _merged(found)


def _tolerance(precision: str) -> Tolerance:
    known = precision if precision in PRECISIONS else "fp16"
    return default_tolerances(known, ["tensor"])["tensor"]


def _points_of(frames: FramesLike, token: str, num_frames: int) -> Array:
    for index in range(num_frames):
        frame = frames[index]
        if token in ("", frame.token):
            return frame.points
    raise DataError(f"frame '{token}' is not among the first {num_frames} frames")


def _inputs(
    component: str, reference: Mapping[str, nn.Module] | Path, points: Array, spec: ModelSpec
) -> dict[str, Array]:
    frame = preprocess(points, spec)
    features: dict[str, Array] = {INPUT_FEATURES: frame.features}
    if component == VOXEL_ENCODER:
        return features
    if isinstance(reference, Path):
        graph = OnnxGraph(reference / f"{VOXEL_ENCODER}.onnx")
        pillars = graph.tensors(features, [PILLAR_FEATURES])[PILLAR_FEATURES]
    else:
        import torch

        with torch.inference_mode():
            pillars = reference[VOXEL_ENCODER].eval()(torch.from_numpy(frame.features)).numpy()
    return {SPATIAL_FEATURES: scatter(pillars, frame.coords, spec)}


def _reference(
    reference: Mapping[str, nn.Module] | Path, component: str, graph: OnnxGraph, inputs: Mapping[str, Array]
) -> tuple[TensorSource, list[str]]:
    """What gives the reference's tensors, and the tensors that both have."""
    if isinstance(reference, Path):
        other = OnnxGraph(reference / f"{component}.onnx")
        names = set(other.order)
        return other, [name for name in graph.order if name in names]
    modules = TorchModules(reference[component], graph, inputs)
    return modules, [name for name in graph.order if name in modules.names or name in graph.outputs]


def _merged(found: list[Divergence]) -> tuple[Divergence, ...]:
    """One result for each node, with all outputs that lead to it."""
    by_node: dict[tuple[str, str], Divergence] = {}
    for item in found:
        key = item.component, item.tensor
        if key in by_node:
            item = dataclasses.replace(by_node[key], outputs=(*by_node[key].outputs, *item.outputs))
        by_node[key] = item
    return tuple(by_node.values())
