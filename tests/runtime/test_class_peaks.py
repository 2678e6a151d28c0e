"""Peaks of classes: what autoware-ml's own decode made of random outputs, and a loop over cells that says the same.

`tests/data/autoware_ml/peaks.npz` holds what `CenterHead.predict` of autoware-ml (commit 04952df, torch 2.13, CPU)
made of the outputs of `tests.runtime.peak_cases`, for a head with that case's arguments.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import ConfigError
from models.spec import HeadSpec, ModelSpec, TaskSpec
from models.validity import check_spec
from runtime.class_peaks import class_peaks, suppress_by_class
from runtime.decode import decode
from tests.runtime.peak_cases import CASES, RANGE, STRIDE, VOXEL, PeakCase, random_outputs
from tests.runtime.small_model import small_spec

GOLDEN = Path(__file__).parents[1] / "data" / "autoware_ml" / "peaks.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN) as file:
        return dict(file)


def spec_of(case: PeakCase) -> ModelSpec:
    sizes = {
        "heatmap": case.classes,
        "reg": 2,
        "height": 1,
        "dim": 3,
        "rot": 2,
        **({"vel": 2} if case.velocity else {}),
    }
    heads = tuple(HeadSpec(name, size) for name, size in sizes.items())
    names = tuple(f"class_{index}" for index in range(case.classes))
    return dataclasses.replace(
        small_spec(),
        point_cloud_range=RANGE,
        voxel_size=VOXEL,
        out_size_factor=STRIDE,
        tasks=(TaskSpec(names, heads, case.radius_m**2),),
        norm_bbox=True,
        score_threshold=case.threshold,
        max_detections_before_nms=case.most,
        post_center_range=(-1e6, -1e6, -1e6, 1e6, 1e6, 1e6),
        nms_type="circle",
        post_max_size=case.most,
        rot_y_axis_reference=False,
        decoding="class_peaks",
    )


@pytest.mark.parametrize("index", range(len(CASES)))
def test_boxes_are_those_of_autoware_ml(index: int, golden: dict[str, NDArray[Any]]) -> None:
    case = CASES[index]
    found = decode(random_outputs(case), spec_of(case))
    expected = golden[f"bboxes_3d_{index}"]
    assert len(found) == len(expected) > 0
    np.testing.assert_array_equal(found.labels, golden[f"labels_3d_{index}"])
    np.testing.assert_allclose(found.scores, golden[f"scores_3d_{index}"], rtol=0, atol=1.2e-7)
    np.testing.assert_allclose(found.boxes[:, : expected.shape[1]], expected, rtol=1e-6, atol=2e-6)


def test_the_convention_of_the_node_changes_no_box() -> None:
    """Widths and lengths exchanged and yaw as (-cos, -sin): the outputs of an export for the vehicle."""
    case = CASES[7]
    outputs = random_outputs(case)
    turned = {**outputs, "dim": outputs["dim"][:, [1, 0, 2]], "rot": -outputs["rot"][:, [1, 0]]}
    expected = decode(outputs, spec_of(case))
    found = decode(turned, dataclasses.replace(spec_of(case), rot_y_axis_reference=True))
    np.testing.assert_array_equal(found.boxes, expected.boxes)


@pytest.mark.parametrize("seed", range(30))
def test_peaks_by_a_loop_over_cells(seed: int) -> None:
    """Whole numbers for logits, so that many are equal."""
    generator = np.random.default_rng(seed)
    classes, height, width = (int(generator.integers(1, high)) for high in (4, 9, 9))
    heatmap = generator.integers(-2, 3, (classes, height, width)).astype(np.float32)
    heatmap[generator.random(heatmap.shape) < 0.1] = np.nan
    most = int(generator.integers(1, 12))
    expected = []
    for label in range(classes):
        peaks = []
        for y in range(height):
            for x in range(width):
                value = heatmap[label, y, x]
                around = heatmap[label, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                if not math.isnan(value) and not (around > value).any():
                    peaks.append((-value, (label * height + y) * width + x))
        expected += [index for _, index in sorted(peaks)[:most]]
    np.testing.assert_array_equal(class_peaks(heatmap, most), expected)


def test_suppression_is_among_a_class_alone() -> None:
    centers = np.array([[0, 0], [0.5, 0], [0.5, 0], [1.0, 0], [3, 0]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.95, 0.6], np.float32)
    labels = np.array([0, 0, 1, 0, 0])
    # Of class 0 the fourth is best; the first lies at the radius, which suppresses too.
    np.testing.assert_array_equal(suppress_by_class(centers, scores, labels, 1.0, 10), [3, 2, 4])
    np.testing.assert_array_equal(suppress_by_class(centers, scores, labels, 1.0, 1), [3])
    assert len(suppress_by_class(centers[:0], scores[:0], labels[:0], 1.0, 10)) == 0


def test_a_frame_without_a_peak_has_no_boxes() -> None:
    case = CASES[1]
    outputs = random_outputs(case)
    for value in (-20.0, np.nan, -np.inf):
        assert len(decode({**outputs, "heatmap": np.full_like(outputs["heatmap"], value)}, spec_of(case))) == 0


def test_specifications_of_other_models_do_not_mention_it() -> None:
    spec = spec_of(CASES[1])
    assert spec.to_dict()["decoding"] == "class_peaks"
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    plain = dataclasses.replace(spec, decoding="top_k")
    assert "decoding" not in plain.to_dict()
    assert ModelSpec.from_dict(plain.to_dict()) == plain


def test_overlaps_do_not_suppress_peaks() -> None:
    spec = spec_of(CASES[1])
    with pytest.raises(ConfigError, match="suppressed by the distance of centres alone"):
        check_spec(dataclasses.replace(spec, nms_type="rotate", nms_iou_threshold=0.2), "config.py")
