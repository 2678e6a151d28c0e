"""Two versions of a model beside each other: what became of a checkpoint, as `bazel query` tells it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

ANSWERS = Path(__file__).parent


def became_of(version: str) -> dict[str, str]:
    """Name of a target -> its rule; the checkpoint itself and what makes it left out."""
    path = ANSWERS / f"became_of_urban_{version}"
    if not path.is_file():
        pytest.skip(f"{path.name} is Bazel's answer to a query; run ./bazelw test //tests/bazel")
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, _, label = line.rpartition(" ")
        found[label.removeprefix("//tests/bazel:")] = kind.removesuffix(" rule")
    checkpoint = found.pop(f"urban_{version}.pth")
    assert checkpoint == "generated file"
    return found


@pytest.mark.parametrize("version", ["1", "2"])
def test_everything_of_a_checkpoint_is_found_by_its_name(version: str) -> None:
    found = became_of(version)
    assert Counter(found.values()) == {
        "onnx_model": 3,  # FP32, FP16, INT8
        "trt_engines": 3,
        "calibration": 1,
        "autoware_bundle": 2,
        "deployment_report": 2,
        "evaluation": 2,
        "sensitivity": 1,
        "provenance": 1,
        "filegroup": 1,
    }
    assert found[f"urban_{version}_int8_engines"] == "trt_engines"
    assert all(name.startswith(f"urban_{version}") for name in found)


def test_of_one_version_nothing_is_the_others() -> None:
    assert not set(became_of("1")) & set(became_of("2"))
