"""The picture of a calibration: its content, its bytes, and that the report takes it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from base.errors import ConfigError, DataError
from eval.report.extension import Figure
from quant.calibration.chart import calibration_chart
from quant.calibration.histogram import AbsHistogram
from quant.calibration.observation import ActivationStatistics


def statistics(names: tuple[str, ...]) -> ActivationStatistics:
    everything, occupied = {}, {}
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(20_000, generator=generator).mul(1 + seed / 4).exp()
        everything[name], occupied[name] = AbsHistogram(), AbsHistogram()
        everything[name].observe(torch.cat([x, torch.zeros(20_000)]))
        occupied[name].observe(x[:5000])
    return ActivationStatistics(everything, occupied, ("a", "b"))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_layers_methods_and_bytes(tmp_path: Path) -> None:
    names = tuple(f"pts_backbone.blocks.0.{index}.input_quantizer" for index in range(8))
    chart = calibration_chart(statistics(names))
    assert chart.title == "What quantizers saw in 2 calibration frames, and amax by method"
    shown = [text for text in texts(chart.svg) if text.startswith("backbone.blocks")]
    # The heavier the tail, the wider apart the methods: the last six, in the network's order.
    assert [re.sub(r" .*", "", text) for text in shown] == [f"backbone.blocks.0.{index}" for index in range(2, 8)]
    assert all("(50% exact zeros)" in text for text in shown)
    for label in ("all cells", "cells with points", "max", "percentile", "mse", "entropy", "sparse_mse"):
        assert texts(chart.svg).count(label) == 1
    assert calibration_chart(statistics(names)).svg == chart.svg
    Figure(chart.svg, chart.title)
    chart.save(str(tmp_path / "chart.svg"))
    assert (tmp_path / "chart.svg").read_text() == chart.svg


def test_chosen_layers() -> None:
    chart = calibration_chart(statistics(("a", "b", "c")), ["b"])
    assert [text for text in texts(chart.svg) if "exact zeros" in text] == ["b   (50% exact zeros)"]


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"No histogram of \['x'\]; there are a, b"):
        calibration_chart(statistics(("a", "b")), ["a", "x"])
    empty = ActivationStatistics({"a": AbsHistogram()}, {"a": AbsHistogram()}, ("t",))
    with pytest.raises(DataError, match="no value other than zero"):
        calibration_chart(empty)
