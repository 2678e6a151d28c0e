"""Whether the engine takes a model's files, found out by everything that refuses them, without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.arguments import DEFAULT_POINTS
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER
from runtime.backends.base import component_paths
from runtime.cuda_engine.decode_parameters import DECODE_SIZES, DecodeModel
from runtime.cuda_engine.from_onnx import plan_from_onnx
from runtime.cuda_engine.heads_tiling import heads_tilings
from runtime.cuda_engine.pillar_parameters import PillarModel
from runtime.cuda_engine.tiling import conv_tilings
from runtime.pillar_weights import PillarWeights

if TYPE_CHECKING:
    from pathlib import Path

    from models.spec import ModelSpec

__all__ = ["check_taken"]


def check_taken(spec: ModelSpec, onnx_dir: Path) -> None:
    """Raises what opening the files on a GPU would raise of them.

    Args:
        spec: The model.
        onnx_dir: Folder of `<component>.onnx`.

    Raises:
        ConfigError: the kernels do not take the model.
        DataError, ExportError: a file holds what the engine does not run; the message names the node.
    """
    DecodeModel.from_spec(spec, DECODE_SIZES)
    paths = component_paths(spec, onnx_dir, ".onnx", None, "Export it with --mode=onnx.")
    weights = PillarWeights.from_onnx(paths[VOXEL_ENCODER])
    PillarModel.from_spec(spec, weights, DEFAULT_POINTS, scale=None, is_dense=False)
    plan = plan_from_onnx(paths[BACKBONE_NECK_HEAD], spec)
    for conv in plan.convs:
        conv_tilings(conv, plan.maps[conv.source], plan.target(conv))
    for heads in plan.heads:
        heads_tilings(heads, plan.maps[heads.source])
