"""The small model and its network, built once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.spec import ModelSpec
from tests.runtime.small_model import export_onnx, small_network, small_spec


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return small_spec()


@pytest.fixture(scope="session")
def network(spec: ModelSpec) -> Any:
    return small_network(spec)


@pytest.fixture(scope="session")
def components(network: Any, spec: ModelSpec) -> dict[str, Any]:
    from models.components import extract_components

    return dict(extract_components(network, spec))


@pytest.fixture(scope="session")
def onnx_dir(components: dict[str, Any], spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx(components, spec, folder)
    return folder
