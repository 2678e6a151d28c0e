"""Units at walls and pavement: distances by formula, and that presets keep what their makers state."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.sensor_facts import main, unit_facts
from datasets.synthetic import Lidar


def _unit(threshold: float) -> Lidar:
    return Lidar(
        np.radians(np.linspace(-10.0, 5.0, 16)),
        np.zeros(16),
        columns=500,
        max_range_m=300.0,
        range_sigma_m=0.03,
        dropout=0.0,
        threshold=threshold,
        mount_m=(0.0, 0.0, 2.0),
    )


def test_a_unit_in_numbers() -> None:
    facts = unit_facts(_unit(0.1 / 150.0**2))
    assert facts.beams == 16
    assert (facts.lowest_deg, facts.highest_deg) == pytest.approx((-10.0, 5.0), abs=0.01)
    assert facts.points_per_s == pytest.approx(16 * 500 / 0.1, rel=0.001)
    assert facts.precision_m == pytest.approx(0.03, rel=0.05)
    assert facts.farthest_m == pytest.approx(299.5, abs=0.2)
    # Half of the beams are lost where strength / range^2 is the threshold: 0.1 / 150^2 by construction ...
    assert facts.tenth_m == pytest.approx(150.0, rel=0.02)
    # ... and on pavement 0.1 (0.1 + 0.9 h / d) / d^2, here solved as a cubic equation.
    roots = np.roots([0.1 / 150.0**2, 0.0, -0.1 * 0.1, -0.1 * 0.9 * 2.0])
    (distance,) = roots[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)].real
    assert facts.pavement_m == pytest.approx(distance, rel=0.03)


def test_what_is_seen_up_to_the_end_has_no_half() -> None:
    assert math.isinf(unit_facts(_unit(1e-9)).tenth_m)


def test_the_command_prints_stated_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    rows = {
        cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in text.splitlines()) if len(cells) > 3
    }
    for title, tolerance in (
        ("beams", 0.0),
        ("points a second, at most", 0.03),
        ("half of the beams at a wall of 10 %, m", 0.02),
        ("half of the beams at pavement of 10 %, m", 0.1),
    ):
        pairs = [[part.strip().replace(",", "") for part in cell.split("/")] for cell in rows[title]]
        known = [(float(stated), float(found)) for stated, found in pairs if stated != "–" and found != "beyond"]
        assert known
        for stated, found in known:
            assert found == pytest.approx(stated, rel=tolerance)
    for title in ("lowest beam, °", "highest beam, °"):
        for cell in rows[title]:
            stated, found = map(float, cell.split("/"))
            assert found == pytest.approx(stated, abs=0.4)
