"""What both sides of the kernels rely on: one value in Python, and a source that does not compile without it."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import numpy as np
import pytest

from runtime.cuda_engine.activity import ActivitySizes
from runtime.cuda_engine.checks.cases import engine_spec, hard_clouds, random_weights
from runtime.cuda_engine.checks.detection_checks import DetectionBench, hard_maps
from runtime.cuda_engine.checks.pillar_checks import PillarBench
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.decode_parameters import COUNTS, DECODE_SIZES, HEADER, DecodeModel, DecodeSizes
from runtime.cuda_engine.detections import DetectionKernels
from runtime.cuda_engine.heads_tiling import heads_tilings
from runtime.cuda_engine.macros import Words, definitions, kernel_source
from runtime.cuda_engine.pillar_parameters import COUNTERS, PILLAR_SIZES, TOTALS, PillarModel, PillarSizes
from runtime.cuda_engine.tiling import conv_tilings
from tests.runtime.emulated_device import EmulatedDevice


@pytest.fixture
def device() -> Any:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return EmulatedDevice()


@pytest.mark.parametrize(
    "changes",
    [
        {"bins": 512, "bins_per_logit": np.float32(32)},
        {"bins": 8192, "collect_threads": 96, "collect_vectors": 1},
        {"prune_threads": 128, "sort": 1024},
    ],
)
def test_boxes_do_not_depend_on_the_kernels_sizes(device: Any, changes: dict[str, Any]) -> None:
    """They are one value for both sides, so that another one is only slower or faster."""
    bench = DetectionBench(device, engine_spec(24), DecodeSizes(**changes))
    for name, maps in hard_maps(engine_spec(24)):
        bench.run(maps, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"assign_threads": 64, "rank_threads": 96, "rank_items": 3, "group_threads": 512},
        {"encode_warps": 1, "encode_group": 8},
        {"encode_warps": 8, "encode_group": 2},
    ],
)
def test_pillars_do_not_depend_on_the_kernels_sizes(device: Any, changes: dict[str, Any]) -> None:
    spec = engine_spec(32, max_voxels=500)
    bench = PillarBench(device, spec, random_weights(spec, 16), 0.05, 3000, PillarSizes(**changes))
    for name, cloud_ in hard_clouds(spec, 3000):
        bench.run(cloud_)
        bench.compare(cloud_, name)


def test_sizes_that_do_not_fit_do_not_compile(device: Any, capfd: pytest.CaptureFixture[str]) -> None:
    spec = engine_spec(24)
    with pytest.raises(subprocess.CalledProcessError):
        DetectionKernels(device, spec, DecodeSizes(bins=1000))
    assert "whole bins of a thread" in capfd.readouterr().err
    with pytest.raises(subprocess.CalledProcessError):
        PillarBench(device, spec, random_weights(spec, 16), None, 100, PillarSizes(encode_group=3))
    assert "lanes of a pillar" in capfd.readouterr().err


def _macros() -> dict[str, dict[str, object]]:
    """Files of a translation unit -> what Python defines for them."""
    spec = engine_spec(64)
    plan = random_plan(Architecture((64, 64), depths=(0, 0, 0)), "int8")
    source, target = (plan.maps[name] for name in (plan.convs[0].source, plan.convs[0].target))
    pillars = PillarModel.from_spec(spec, random_weights(spec, 16), 1000, scale=None, is_dense=False)
    conv = conv_tilings(plan.convs[0], source, target)[0]
    heads = heads_tilings(plan.heads[0], plan.maps[plan.heads[0].source])[0]
    return {
        "pillars.cu decoration.cu pfn.cu encode.cu": definitions(pillars, PILLAR_SIZES, COUNTERS, TOTALS),
        "decode.cu": definitions(DecodeModel.from_spec(spec, DECODE_SIZES), DECODE_SIZES, COUNTS, HEADER),
        "canvas.cu": {"OUT_INT8": True, "CHANNELS": 32},
        "activity.cu": {
            **definitions(ActivitySizes()),
            "COUNTER_VOXELS": 0,
            "GRID_X": 64,
            "GRID_Y": 64,
            "SPANS": 1,
            "LAYERS": 3,
        },
        "blocks.cuh conv_geometry.cuh": {**conv.macros, "ARGUMENT_BYTES": 80},
        "blocks.cuh heads.cu": {**heads.macros, "ARGUMENT_BYTES": 80},
    }


def errors_of(macros: dict[str, object], *files: str) -> str:
    """What the preprocessor objects to."""
    command = ["g++", "-E", "-x", "c++", "-"]
    source = kernel_source(macros, *files)
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == ("#error" in done.stderr), done.stderr
    return done.stderr


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("files", sorted(_macros()))
def test_a_source_that_lacks_a_macro_does_not_compile(files: str) -> None:
    """Every macro that Python defines is asked for; without it the source ends in #error, not in another kernel."""
    macros = _macros()[files]
    assert errors_of(macros, *files.split()) == ""
    for name in macros:
        said = errors_of({key: value for key, value in macros.items() if key != name}, *files.split())
        assert re.search(r'#error "\w+\.cuh?: a compile-time parameter is not defined"', said), name


@pytest.mark.usefixtures("device")
def test_the_encoder_stands_behind_the_pillars() -> None:
    for before, after in (
        ("pillars.cu", "decoration.cu"), ("decoration.cu", "pfn.cu"), ("pfn.cu", "encode.cu"),
        ("conv_geometry.cuh", "conv.cu"), ("conv_geometry.cuh", "conv_rows.cu"), ("conv_geometry.cuh", "conv_ring.cuh"),
    ):  # fmt: skip
        assert f"{after}: {before} must stand before it" in errors_of({}, after)


def test_a_macro_has_one_definition() -> None:
    assert definitions(Words("WORD", ("first", "second"))) == {"WORD_FIRST": 0, "WORD_SECOND": 1, "NUM_WORD": 2}
    with pytest.raises(ValueError, match=r"\['NUM_WORD', 'WORD_A'\] are defined twice"):
        definitions(Words("WORD", ("a",)), Words("WORD", ("a",)))
