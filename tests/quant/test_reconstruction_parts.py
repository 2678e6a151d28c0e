"""The parts of a reconstruction: rounding variables, learned scales, losses, windows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from base.errors import ConfigError, DataError
from quant.reconstruction.activation import LearnedScale
from quant.reconstruction.losses import cell_weights, local_loss, task_loss
from quant.reconstruction.rounding import AdaptiveRounding, sharpness
from quant.reconstruction.settings import ReconstructionSettings
from quant.reconstruction.windows import WindowSampler


def test_rounding_starts_at_the_weight() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    scale = weight.abs().amax(dim=(1, 2, 3)) / 127
    rounding = AdaptiveRounding(weight, scale, 0)
    torch.testing.assert_close(rounding(weight), weight, rtol=0, atol=2e-4 * float(scale.max()))


@pytest.mark.parametrize("axis", [0, 1])
def test_rounded_weights_are_neighbours_on_the_grid(axis: int) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 5, 3, 3, generator=generator)
    other = tuple(d for d in range(4) if d != axis)
    # A range that clips the largest weights.
    scale = 0.7 * weight.abs().amax(dim=other) / 127
    rounding = AdaptiveRounding(weight, scale, axis)
    with torch.no_grad():
        rounding.logits.copy_(torch.randn(weight.shape, generator=generator) * 5)
    shape = [1] * 4
    shape[axis] = -1
    codes = rounding.rounded() / scale.reshape(shape)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    assert codes.round().min() >= -128
    assert codes.round().max() <= 127
    inside = (weight / scale.reshape(shape)).clamp(-128, 127)
    assert ((codes - inside).abs() < 1 + 1e-4).all()
    assert ((codes - inside).abs() > 0.5).any()  # some took the farther neighbour


def test_a_fresh_rounding_is_to_nearest() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).reshape(6, 4, 1, 1)
    scale = weight.abs().amax(dim=(1, 2, 3)) / 127
    nearest = (weight / scale.reshape(-1, 1, 1, 1)).round() * scale.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(AdaptiveRounding(weight, scale, 0).rounded(), nearest, rtol=0, atol=1e-7)


def test_learned_rounding_finds_the_best_of_all_choices() -> None:
    """Inputs that go together make errors add up; rounding to nearest knows nothing of that, all choices can be
    tried."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randn(200, 1, generator=generator)
    x = common + 0.3 * torch.randn(200, 6, generator=generator)
    weight = torch.tensor([[0.34, 0.37, 0.41, 0.33, -0.36, 0.42]]).reshape(1, 6, 1, 1)
    scale = torch.tensor([1.0])

    def error(choice: torch.Tensor) -> float:
        return float((x @ (choice - weight.reshape(6))).square().mean())

    lower = weight.reshape(6).floor()
    every = [error(lower + torch.tensor(up)) for up in itertools.product((0.0, 1.0), repeat=6)]
    rounding = AdaptiveRounding(weight, scale, 0)
    nearest = error(rounding.rounded().reshape(6))
    optimizer = torch.optim.Adam([rounding.logits], lr=0.02)
    for step in range(600):
        loss = (x @ (rounding(weight).reshape(6) - weight.reshape(6))).square().mean()
        exponent = sharpness(step / 600)
        if exponent is not None:
            loss = loss + rounding.undecided(exponent)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = error(rounding.rounded().reshape(6))
    assert learned <= sorted(every)[8]  # of 64
    assert learned < 0.2 * nearest


def test_undecided_is_one_in_the_middle_and_zero_at_the_ends() -> None:
    rounding = AdaptiveRounding(torch.zeros(1, 2, 1, 1), torch.ones(1), 0)
    with torch.no_grad():
        rounding.logits.copy_(torch.tensor([0.0, 50.0]).reshape(1, 2, 1, 1))
    # h = 1/2 counts 1, h = 1 counts 0.
    assert float(rounding.undecided(2.0).detach()) == pytest.approx(0.5)


def test_sharpness_falls_from_20_to_2_after_the_warm_up() -> None:
    assert sharpness(0.1) is None
    values = [value for p in range(20, 101) if (value := sharpness(p / 100)) is not None]
    assert len(values) == 81
    assert values[0] == pytest.approx(20.0)
    assert values[-1] == pytest.approx(2.0)
    assert values[40] == pytest.approx(11.0)
    assert values == sorted(values, reverse=True)


def test_learned_scale_gradients() -> None:
    x = torch.tensor([0.26, -0.61, 0.04, 80.0, -90.0], requires_grad=True)
    learned = LearnedScale(torch.tensor(0.5))
    y = learned(x)
    torch.testing.assert_close(y, torch.tensor([0.5, -0.5, 0.0, 63.5, -64.0]))
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (y * weights).sum().backward()
    # Within the range the derivative by x is 1; by s it is round(x / s) - x / s, and the code itself beyond the range.
    by_scale = torch.tensor([1 - 0.52, -1 + 1.22, 0 - 0.08, 127.0, -128.0])
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0]))
    assert learned.log_ratio.grad is not None
    assert float(learned.log_ratio.grad) == pytest.approx(0.5 * float((weights * by_scale).sum()), rel=1e-5)


def test_a_fixed_scale_asks_for_no_gradient() -> None:
    learned = LearnedScale(torch.tensor(0.1), trainable=False)
    assert torch.equal(learned.scale.detach(), torch.tensor(0.1))
    x = torch.ones(3, requires_grad=True)
    learned(x).sum().backward()
    assert learned.log_ratio.grad is None
    assert x.grad is not None


def test_local_loss_is_error_over_variance_under_the_weights() -> None:
    target = torch.tensor([1.0, 3.0, 5.0, 100.0]).reshape(1, 1, 2, 2)
    output = torch.tensor([1.5, 3.0, 4.0, 0.0]).reshape(1, 1, 2, 2)
    weights = torch.tensor([1.0, 1.0, 2.0, 0.0]).reshape(1, 1, 2, 2)
    mean = (1 + 3 + 2 * 5) / 4
    variance = ((1 - mean) ** 2 + (3 - mean) ** 2 + 2 * (5 - mean) ** 2) / 4
    expected = (0.25 + 0 + 2 * 1.0) / 4 / variance
    assert float(local_loss({"x": output}, {"x": target}, weights)) == pytest.approx(expected, rel=1e-6)


def test_task_loss_counts_scores_everywhere_and_boxes_at_detections() -> None:
    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    truth = {"heatmap": torch.full((1, 1, 1, 3), logit(0.02)), "reg": torch.zeros(1, 2, 1, 3)}
    truth["heatmap"][..., 1] = logit(0.8)
    found = {"heatmap": truth["heatmap"].clone(), "reg": torch.zeros(1, 2, 1, 3)}
    found["heatmap"][..., 0] = logit(0.12)
    found["heatmap"][..., 1] = logit(0.7)
    found["reg"][0, :, 0, 1] = torch.tensor([0.1, -0.2])
    found["reg"][0, :, 0, 2] = 99.0  # no detection there
    loss = task_loss(found, truth, 0.1)
    # One detection of score 0.8, less than 1 in all: the sums are divided by 1.
    assert float(loss.heatmap) == pytest.approx(0.1**2 + 0.1**2, rel=1e-4)
    assert float(loss.regression) == pytest.approx(0.8 * 0.3, rel=1e-4)


def test_cell_weights() -> None:
    canvas = torch.zeros(1, 2, 16, 16)
    canvas[0, 1, 2, 2] = -1.0
    heatmap = torch.full((1, 3, 8, 8), -5.0)
    heatmap[0, 2, 6, 6] = 3.0
    weights = cell_weights(canvas, heatmap, 0.1, background=0.25, foreground=4.0)[0, 0]
    assert weights[7, 7] == weights[5, 6] == 4.0
    assert weights[1, 1] == weights[0, 2] == 1.0
    assert weights[4, 0] == 0.25


def test_windows_lie_inside_and_hold_what_they_were_cut_for() -> None:
    canvas = torch.zeros(1, 3, 192, 192)
    canvas[0, :, 150, 20] = 1.0
    canvas[0, :, 30, 100] = 2.0
    heatmap = torch.full((1, 2, 96, 96), -6.0)
    heatmap[0, 1, 75, 10] = 2.0

    def cut(seed: int) -> torch.Tensor:
        sampler = WindowSampler(per_frame=4, heatmap_cells=32, threshold=0.1, seed=seed)
        sampler.add(canvas, heatmap)
        return sampler.windows()

    windows = cut(0)
    assert windows.shape == (4, 3, 64, 64)
    # The first of each two windows is around a detection, the other around points.
    assert all((windows[index] == 1.0).any() for index in (0, 2))
    assert all((windows[index] != 0.0).any() for index in (1, 3))
    assert torch.equal(windows, cut(0))
    assert any(not torch.equal(windows, cut(seed)) for seed in (1, 2, 3))


def test_windows_of_empty_frames() -> None:
    sampler = WindowSampler(per_frame=2, heatmap_cells=32, threshold=0.1, seed=0)
    sampler.add(torch.zeros(1, 3, 64, 64), torch.zeros(1, 2, 32, 32))
    with pytest.raises(DataError, match="none of 1 calibration frames has a point"):
        sampler.windows()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("iterations", 0, "iterations is 0; give 1 or more"),
        ("window_cells", 48, "window_cells is 48; give a multiple of 32"),
        ("held_out", 1.0, "held_out is 1.0; give a share between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense(name: str, value: float, message: str) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=message):
        ReconstructionSettings(**settings)
