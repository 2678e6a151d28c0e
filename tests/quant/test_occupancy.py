"""Occupied cells of a layer's input, against a loop over the canvas."""

from __future__ import annotations

import pytest
import torch

from quant.calibration.occupancy import Occupancy


def by_hand(canvas: torch.Tensor, height: int, width: int) -> list[list[int]]:
    """Per sample, cells of a (height, width) map below which a pillar, or a neighbour of one, lies."""
    samples, _, rows, columns = canvas.shape
    found = []
    for sample in range(samples):
        cells = set()
        for y, x in (canvas[sample] != 0).any(dim=0).nonzero().tolist():
            for near_y in range(max(y - 1, 0), min(y + 2, rows)):
                for near_x in range(max(x - 1, 0), min(x + 2, columns)):
                    cells.add(near_y * height // rows * width + near_x * width // columns)
        found.append(sorted(cells))
    return found


@pytest.mark.parametrize(("height", "width"), [(8, 12), (4, 6), (2, 12)])
def test_values_of_occupied_cells_at_any_resolution(height: int, width: int) -> None:
    canvas = torch.zeros(2, 3, 8, 12)
    canvas[0, 1, 0, 0], canvas[0, 2, 4, 11], canvas[1, 0, 6, 5] = 1.0, -2.0, 0.5
    x = torch.arange(2 * 5 * height * width, dtype=torch.float32).reshape(2, 5, height, width)
    selected = Occupancy(canvas).select(x)
    for values, sample, cells in zip(selected, x, by_hand(canvas, height, width), strict=True):
        assert torch.equal(values, sample.flatten(1)[:, cells])


def test_what_has_no_cells_is_taken_whole() -> None:
    occupancy = Occupancy(torch.ones(2, 1, 4, 4))
    for x in (torch.ones(2, 3), torch.ones(1, 3, 4, 4)):
        assert [item is x for item in occupancy.select(x)] == [True]
