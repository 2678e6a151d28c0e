"""The search against every plan there is, and against networks whose losses are not what was predicted."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import ConfigError
from models.config import load_model_config
from models.spec import ModelSpec
from quant import search
from quant.plans import Item, PlanTimes, fastest_plan
from quant.roofline import DEVICES, ConvLayer, LayerTimes, conv_layers, plan_time_s
from quant.search import search_plan
from quant.sensitivity.profile import AnalysisCost, Effect, LayerSensitivity, SensitivityProfile

DEMO = Path(__file__).parents[2] / "configs/model/centerpoint_t4_demo.py"


def network(rng: np.random.Generator) -> tuple[ConvLayer, ...]:
    """A trunk of three levels, three branches that are concatenated, two heads; sizes at random."""
    edges = {
        "a": (),
        "b": ("a",),
        "c": ("b",),
        "up_a": ("a",),
        "up_b": ("b",),
        "up_c": ("c",),
        "shared": ("up_a", "up_b", "up_c"),
        "x": ("shared",),
        "y": ("shared",),
    }

    def layer(path: str, inputs: tuple[str, ...]) -> ConvLayer:
        wide, out, kernel, size = rng.integers(1, 200), rng.integers(1, 200), rng.integers(1, 4), rng.integers(8, 128)
        return ConvLayer(path, inputs, int(wide), int(out), int(kernel), (int(size),) * 2, (int(size),) * 2)

    return tuple(layer(path, inputs) for path, inputs in edges.items())


def by_trying_all(items: list[Item], layers: tuple[ConvLayer, ...], device: Any, budget: float) -> float:
    """The least time of all plans within the budget, by the roofline itself."""
    best = math.inf
    for chosen in itertools.product((False, True), repeat=len(items)):
        quantized = {path for item, on in zip(items, chosen, strict=True) if on for path in item.layers}
        if sum(item.loss for item, on in zip(items, chosen, strict=True) if on) <= budget + 1e-12:
            best = min(best, plan_time_s(layers, device, quantized))
    return best


def skipped_to_quantized(items: list[Item], skipped: Collection[str]) -> set[str]:
    return {path for item in items if item.name not in skipped for path in item.layers}


@pytest.mark.parametrize("seed", range(12))
def test_fastest_plan_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = network(rng)
    device = list(DEVICES.values())[seed % 3]
    times = PlanTimes.from_roofline(layers, device)
    # "y" is in no item, and so in FP16; "b" and "c" are one stage.
    names = [("a", ("a",)), ("bc", ("b", "c")), *((n, (n,)) for n in ("up_a", "up_b", "up_c", "shared", "x"))]
    losses = rng.exponential(1.0, len(names)) * (rng.random(len(names)) < 0.8)
    items = [Item(name, paths, float(loss)) for (name, paths), loss in zip(names, losses, strict=True)]
    for share in (0.0, 0.1, 0.35, 0.6, 0.9, 1.0):
        budget = share * float(losses.sum())
        plan = fastest_plan(items, times, budget)
        quantized = skipped_to_quantized(items, plan)
        assert sum(item.loss for item in items if item.name not in plan) <= budget + 1e-9
        assert times.time_s(quantized) == pytest.approx(plan_time_s(layers, device, quantized), rel=1e-12)
        assert times.time_s(quantized) == pytest.approx(by_trying_all(items, layers, device, budget), rel=1e-9), share


@pytest.mark.parametrize("seed", range(6))
def test_measured_times_may_favour_fp16(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seconds: Any = {
        n: {"int8": float(a), "fp16": float(b)} for n, a, b in zip("abcdefgh", *rng.random((2, 8)), strict=True)
    }
    items = [Item(name, (name,), float(rng.random())) for name in seconds]
    times = PlanTimes.from_layers(LayerTimes("a file", seconds))
    for budget in (0.0, 0.5, 1.5, 8.0):
        best = min(
            sum(seconds[i.name]["int8" if on else "fp16"] for i, on in zip(items, chosen, strict=True))
            for chosen in itertools.product((False, True), repeat=len(items))
            if sum(i.loss for i, on in zip(items, chosen, strict=True) if on) <= budget
        )
        plan = fastest_plan(items, times, budget)
        assert times.time_s(skipped_to_quantized(items, plan)) == pytest.approx(best)
        assert not [name for name in seconds if name not in plan and seconds[name]["fp16"] < seconds[name]["int8"]]


def test_both_readers_of_a_tensor_are_cheaper_than_one() -> None:
    """Left in FP16, b alone makes a write its output twice; with c as well, once."""

    def layer(path: str, inputs: tuple[str, ...]) -> ConvLayer:
        return ConvLayer(path, inputs, 1, 1, 1, (64, 64), (64, 64))

    layers = (layer("a", ()), layer("b", ("a",)), layer("c", ("a",)))
    times = PlanTimes.from_roofline(layers, DEVICES["h100"])
    items = [Item(name, (name,), 1.0) for name in "abc"]
    assert times.time_s({"a"}) - times.time_s({"a", "b"}) < times.time_s({"a", "b"}) - times.time_s({"a", "b", "c"})
    assert fastest_plan(items, times, 1.0) in ({"b", "c"}, {"a", "b"}, {"a", "c"})
    assert times.time_s({"a"}) == pytest.approx(by_trying_all(items[:1] + items[1:], layers, DEVICES["h100"], 1.0))


def test_plans_of_a_real_network_are_found_quickly() -> None:
    """24 layers have 17 million plans."""
    cfg = load_model_config(DEMO)
    layers = conv_layers(cfg)
    times = PlanTimes.from_roofline(layers, DEVICES["orin-agx-64"])
    rng = np.random.default_rng(1)
    items = [Item(n.path, (n.path,), float(rng.exponential())) for n in layers if not n.path.endswith(".1")]
    assert len(items) == 24
    total = sum(item.loss for item in items)
    seconds = [
        times.time_s(skipped_to_quantized(items, fastest_plan(items, times, s * total))) for s in (1, 0.6, 0.3, 0)
    ]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


def test_bad_plans() -> None:
    times = PlanTimes.from_layers(LayerTimes("a file", {"a": {"int8": 1.0, "fp16": 2.0}}))
    with pytest.raises(
        ConfigError, match=r"have no time: b \(1 in all\)\. The times are from a file, which names a \(1 in all\)"
    ):
        fastest_plan([Item("b", ("b",), 1.0)], times, 1.0)
    with pytest.raises(ConfigError, match="budget of a plan is -1"):
        fastest_plan([Item("a", ("a",), 1.0)], times, -1.0)


def effect(difference: float, width: float = 0.0) -> Effect:
    return Effect(
        {"heatmap": 30.0}, 0.7 + difference, difference, difference - width, difference + width, "indistinguishable"
    )


def profile_of(losses: dict[str, float], drop: float, fingerprint: str = "0") -> SensitivityProfile:
    layers = tuple(
        LayerSensitivity(
            name, (name,), 1, Effect({"heatmap": 30.0 - i}, 0.7, -loss, -loss, -loss, "worse"), effect(loss)
        )
        for i, (name, loss) in enumerate(losses.items())
    )
    cost = AnalysisCost(1, 2, 3)
    return SensitivityProfile(
        "toy", fingerprint, "layer", ("heatmap",), 0.7, effect(-drop), layers, 8, 8, 0.95, 1000, "1", cost
    )


LOSSES = {"a": 0.08, "b": 0.01, "c": 0.006, "d": 0.004, "e": 0.0}
TIMES = PlanTimes.from_layers(
    LayerTimes("a file", {name: {"int8": 1.0, "fp16": 2.0 + 0.01 * i} for i, name in enumerate(LOSSES)})
)


def measured(scale: float) -> Any:
    """A network whose losses are `scale` times what its profile says, and who asked."""
    asked: list[tuple[str, ...]] = []

    def evaluate(skipped: tuple[str, ...]) -> Effect:
        asked.append(skipped)
        return effect(-scale * sum(loss for name, loss in LOSSES.items() if name not in skipped), 0.002)

    return evaluate, asked


def test_a_right_prediction_is_confirmed() -> None:
    evaluate, asked = measured(1.0)
    result = search_plan(profile_of(LOSSES, 0.1), TIMES, 0.02, evaluate=evaluate)
    assert result.chosen.skip_layers == ("a",)
    assert result.chosen.predicted_map_drop == pytest.approx(0.02)
    assert result.chosen.measured == evaluate(("a",))
    assert result.verified
    assert asked[0] == ("a",)
    assert result.int8_time_s == 5.0
    assert result.chosen.predicted_time_s == 6.0
    assert result.fp16_time_s == pytest.approx(10.1)


def test_a_network_that_loses_more_gets_a_safer_plan() -> None:
    evaluate, _ = measured(1.8)
    result = search_plan(profile_of(LOSSES, 0.1), TIMES, 0.02, evaluate=evaluate)
    # Without a and b 0.018 are lost, without a alone 0.036.
    assert result.chosen.skip_layers == ("a", "b")
    assert result.steps[0].within_budget is False


def test_a_network_that_loses_less_gets_a_faster_plan() -> None:
    evaluate, _ = measured(0.15)
    result = search_plan(profile_of(LOSSES, 0.1), TIMES, 0.014, evaluate=evaluate)
    # All but b quantized lose 0.0135, all 0.015.
    assert result.chosen.measured is not None
    assert -result.chosen.measured.difference <= 0.014
    assert len(result.chosen.skip_layers) == 1
    first = result.steps[0]
    assert result.chosen.predicted_time_s <= first.predicted_time_s
    assert result.chosen.predicted_map_drop > first.predicted_map_drop


def test_interval_must_be_within_the_budget_if_asked_for() -> None:
    evaluate, _ = measured(1.0)
    result = search_plan(profile_of(LOSSES, 0.1), TIMES, 0.02, evaluate=evaluate, criterion="interval")
    assert result.chosen.measured is not None
    assert -result.chosen.measured.low <= 0.02
    assert set(result.chosen.skip_layers) > {"a"}


def test_the_interval_of_a_network_without_loss_has_a_far_end() -> None:
    """Its mAP rises by chance; what skipping buys is a narrower interval, here as wide as the noise that is left."""

    def evaluate(skipped: tuple[str, ...]) -> Effect:
        return effect(0.001, 0.006 * sum(loss for name, loss in LOSSES.items() if name not in skipped) / 0.1)

    profile = dataclasses.replace(profile_of(LOSSES, 0.1), quantized=effect(0.001, 0.006))
    result = search_plan(profile, TIMES, 0.002, evaluate=evaluate, criterion="interval")
    # All quantized: 0.006 - 0.001 are too much. Without a, a fifth of the width is left.
    assert result.chosen.skip_layers == ("a",)
    assert search_plan(profile, TIMES, 0.002, evaluate=evaluate).chosen.skip_layers == ()


def test_nothing_within_the_budget_leaves_all_in_fp16() -> None:
    result = search_plan(profile_of(LOSSES, 0.1), TIMES, 0.001, evaluate=lambda _: effect(-0.5), max_evaluations=3)
    assert result.chosen.skip_layers == tuple(LOSSES)
    assert not result.verified
    assert all(step.within_budget is False for step in result.steps[:-1])
    tried = len(result.steps) - 1
    assert f"none of {tried} evaluated plans is within the budget; raise it, or --max-evaluations" in result.summary()


def test_a_network_that_loses_nothing_is_all_int8() -> None:
    evaluate, asked = measured(0.0)
    result = search_plan(profile_of(dict.fromkeys(LOSSES, 0.0), -0.001), TIMES, 0.0, evaluate=evaluate)
    assert result.chosen.skip_layers == ()
    assert asked == [()]
    assert "nothing has to be skipped" in result.summary()


def test_prediction_alone_says_so() -> None:
    result = search_plan(profile_of(LOSSES, 0.1), TIMES, 0.02)
    assert not result.verified
    assert "not verified" in result.summary()
    assert "--skip-layers a" in result.summary()


def test_noise_as_proxy() -> None:
    """The toy's noise rises by a decibel a layer: e has most of it, and no layer alone dominates."""
    result = search_plan(profile_of(LOSSES, 0.1), TIMES, 0.09, by="sqnr")
    assert result.chosen.skip_layers in (("a",), ("b",))
    with pytest.raises(ConfigError, match="by is 'noise'; it is 'map' or 'sqnr'"):
        search_plan(profile_of(LOSSES, 0.1), TIMES, 0.09, by="noise")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": -0.1}, "The budget is -0.1"),
        ({"budget": math.nan}, "The budget is nan"),
        ({"budget": 0.1, "max_evaluations": 0}, "max_evaluations is 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search_plan(profile_of(LOSSES, 0.1), TIMES, **arguments)


def test_profile_without_map() -> None:
    with pytest.raises(ConfigError, match="its frames hold no object"):
        search_plan(profile_of(LOSSES, math.nan), TIMES, 0.1)


@pytest.fixture
def demo_profile(tmp_path: Path) -> Path:
    cfg = load_model_config(DEMO)
    rng = np.random.default_rng(3)
    losses = {n.path: float(rng.exponential(0.001)) for n in conv_layers(cfg) if not n.path.endswith(".1")}
    path = tmp_path / "profile.json"
    profile_of(losses, 0.02, ModelSpec.from_config(cfg).fingerprint()).write_json(path)
    return path


def test_command_without_a_checkpoint(demo_profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "plan.json"
    arguments = ["--profile", str(demo_profile), "--budget", "0.01", "--config", str(DEMO), "--target", "h100"]
    assert search.main([*arguments, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "roofline of H100 SXM" in printed
    plan = json.loads(output.read_text())
    first = output.read_bytes()
    assert plan["chosen"]["skip_layers"]
    assert plan["chosen"]["predicted_map_drop"] <= 0.01
    assert plan["int8_time_s"] < plan["chosen"]["predicted_time_s"] < plan["fp16_time_s"]
    assert search.main([*arguments, "--output", str(output)]) == 0
    assert output.read_bytes() == first


def test_command_names_what_is_wrong(demo_profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--profile", str(demo_profile), "--budget", "0.01"]
    other = DEMO.parent / "second_secfpn_4xb16_121m_base_amp.py"
    for arguments, message in (
        (base, "--config is missing"),
        ([*base, "--config", str(other)], "is of model 'toy', not of"),
        (
            [*base, "--config", str(DEMO), "--output", str(tmp_path / "plan.txt")],
            "give a file name that ends in '.json'",
        ),
        (
            ["--profile", str(tmp_path / "none.json"), "--budget", "1", "--config", str(DEMO)],
            "none.json' does not exist",
        ),
    ):
        assert search.main(arguments) == 2
        assert message in capsys.readouterr().err
