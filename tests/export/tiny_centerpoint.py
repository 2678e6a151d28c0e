"""A CenterPoint small enough to export and build in a test: fixtures for the conftest files of several folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from export.quantized_model import QuantizedModel
    from models.spec import ModelSpec

__all__ = [
    "BACKBONE",
    "backbone_of",
    "random_canvas",
    "run_onnx",
    "tiny",
    "tiny_canvases",
    "tiny_config_path",
    "tiny_int8",
    "tiny_int8_onnx",
    "tiny_onnx",
]

REPOSITORY = Path(__file__).parents[2]
TINY_CONFIG = REPOSITORY / "tests" / "data" / "deploy" / "tiny_centerpoint.py"
BACKBONE = "pts_backbone_neck_head"


def random_canvas(spec: ModelSpec, seed: int = 5) -> Tensor:
    """A canvas of pillars, all of it occupied."""
    import torch

    return torch.rand(spec.canvas_shape, generator=torch.Generator().manual_seed(seed))


def backbone_of(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """The component behind the canvas."""
    from models.components import extract_components

    return extract_components(model, spec)[BACKBONE]


@pytest.fixture(scope="session")
def tiny_config_path() -> Path:
    """Model config of the tiny CenterPoint."""
    return TINY_CONFIG


@pytest.fixture(scope="session")
def tiny() -> tuple[nn.Module, ModelSpec]:
    """The tiny CenterPoint with seeded weights, and its specification. Tests must not change the model."""
    import torch

    from models.build import build_model
    from models.config import load_model_config
    from models.spec import ModelSpec

    torch.set_num_threads(1)
    cfg = load_model_config(TINY_CONFIG)
    return build_model(cfg, seed=3), ModelSpec.from_config(cfg)


@pytest.fixture(scope="session")
def tiny_onnx(tiny: tuple[nn.Module, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny CenterPoint's FP32 ONNX files."""
    from export.onnx_export import export_components

    folder = tmp_path_factory.mktemp("tiny_onnx")
    export_components(*tiny, folder)
    return folder


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., list[Any]]:
    """`run_onnx(path or model, {input: array}) -> [array, …]` on ONNX Runtime, one thread."""

    def run(source: Any, inputs: dict[str, Any]) -> list[Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        data = Path(source).read_bytes() if isinstance(source, (str, Path)) else source.SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return list(session.run(None, inputs))

    return run


@pytest.fixture(scope="session")
def tiny_canvases(tiny: tuple[nn.Module, ModelSpec]) -> list[Tensor]:
    """Two seeded canvases, mostly empty, as a canvas of pillars is."""
    import torch

    shape, generator = tiny[1].canvas_shape, torch.Generator().manual_seed(0)
    return [
        torch.rand(shape, generator=generator) * (torch.rand((1, 1, *shape[2:]), generator=generator) > 0.6)
        for _ in range(2)
    ]


@pytest.fixture(scope="session")
def tiny_int8(tiny: tuple[nn.Module, ModelSpec], tiny_canvases: list[Tensor]) -> QuantizedModel:
    """The tiny CenterPoint, calibrated on two seeded canvases. Tests must not change it."""
    import copy

    from export.quantized_model import quantize_float_model
    from quant.settings import PtqSettings

    model, spec = tiny
    return quantize_float_model(copy.deepcopy(model), spec, tiny_canvases, PtqSettings(num_batches=2))


@pytest.fixture(scope="session")
def tiny_int8_onnx(
    tiny: tuple[nn.Module, ModelSpec], tiny_int8: QuantizedModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder with its INT8 export, FP16 elsewhere."""
    from export.onnx_export import OnnxExportSettings, export_components
    from export.quantized_model import planned_layers

    folder = tmp_path_factory.mktemp("tiny_int8_onnx")
    settings = OnnxExportSettings(
        opset_version=19, precision="int8", quantized_layers=planned_layers(tiny_int8.structure)
    )
    export_components(tiny_int8.model, tiny[1], folder, settings)
    return folder
