"""Sections of other packages, and the plots they are made of."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from base.checks import CheckResult
from eval.report import Figure, ReportSection, render_report
from eval.report.plots import bar_list, heat_map, line_chart
from eval.results import RunResults, StepResult

RESULTS = RunResults("m", {}, (StepResult("quantize", "PASSED", seconds=1.0),))


def test_a_section_is_placed_and_escaped() -> None:
    figure = Figure(bar_list([("backbone.0 <first>", 0.25, "drop & gain")]), caption="Drop <of> mAP", wide=True)
    item = ReportSection(
        "Sensitivity & more",
        "int8-sensitivity",
        "First <paragraph>.\n\nSecond.",
        (figure,),
        ("layer", "precision"),
        (("backbone.0", "int8 <>"),),
    )
    page = render_report(RESULTS, more=[item])
    assert '<section id="int8-sensitivity"><h2>Sensitivity &amp; more</h2>' in page
    for text in (
        "First &lt;paragraph&gt;.</p>",
        ">Second.</p>",
        "Drop &lt;of&gt; mAP",
        "backbone.<wbr>0 &lt;first&gt;",
    ):
        assert text in page, text
    assert "<td>int8 &lt;&gt;</td>" in page
    assert "drop &amp; gain" in page


def test_what_checks_found_has_a_section_errors_first() -> None:
    found = (
        CheckResult("sweep-count", "warning", 1, ("a <b>",)),
        CheckResult("sweep-times", "accepted", 12, ("first", "second")),
        CheckResult("range-filter", "error", 1, ("broken",)),
    )
    page = render_report(dataclasses.replace(RESULTS, checks=found))
    assert '<section id="checks"><h2>Checks</h2>' in page
    assert page.index("range-filter") < page.index("sweep-times") < page.index("sweep-count")
    assert "a &lt;b&gt;" in page
    assert page.index("first") < page.index("second")
    assert 'id="checks"' not in render_report(RESULTS)


@pytest.mark.parametrize(
    "markup",
    [
        "<script>alert(1)</script>",
        '<svg onload="x()"></svg>',
        '<image href="https://example.org/a.png"/>',
        '<a href="//example.org">x</a>',
        "<style>@import url(a.css)</style>",
        '<a href="javascript:x()">x</a>',
    ],
)
def test_figures_load_and_run_nothing(markup: str) -> None:
    with pytest.raises(ValueError, match="the report loads and runs nothing"):
        Figure(markup, "layers")


def test_harmless_figures_pass() -> None:
    # Base64 may hold two slashes in a row; a namespace is an address that nobody fetches.
    Figure('<svg xmlns="http://www.w3.org/2000/svg"><image href="data:image/png;base64,ab+//cd="/></svg>')
    Figure("<p>the condition = 3</p>")


def test_wrong_sections_are_refused() -> None:
    with pytest.raises(ValueError, match="anchor 'My Section' of section 'S' needs the form"):
        ReportSection("S", "My Section")
    with pytest.raises(ValueError, match=r"row \('a',\) does not fit the columns \('x', 'y'\)"):
        ReportSection("S", "s", head=("x", "y"), rows=(("a",),))
    with pytest.raises(ValueError, match="figure 'big' has 600000 bytes; at most 500000"):
        Figure("x" * 600_000, "big")
    with pytest.raises(ValueError, match="share an anchor"):
        render_report(RESULTS, more=[ReportSection("A", "a"), ReportSection("B", "a")])


def test_bars_start_at_zero() -> None:
    html = bar_list([("a", 3.0, ""), ("b", -1.0, ""), ("c", math.nan, "")], unit=" ms")
    bars = re.findall(r"left:([\d.]+)%;width:([\d.]+)%", html)
    assert bars == [("25.00", "75.00"), ("0.00", "25.00")]
    assert re.findall(r"<b>(.*?)</b>", html) == ["3 ms", "-1 ms", "–"]


def test_heat_map_shades_by_sign_and_size() -> None:
    html = heat_map(["r"], ["a", "b", "c", "d"], [[0.2, -0.1, 0.0, math.nan]], [["+0.2", "-0.1", "0", "–"]])
    assert re.findall(r'class="num ?(\w*)"(?: style="--v:([\d.]+)")?>([^<]*)', html) == [
        ("gain", "1.000", "+0.2"),
        ("loss", "0.500", "-0.1"),
        ("", "", "0"),
        ("", "", "–"),
    ]


def test_lines_fill_the_plot_and_skip_what_is_not_finite() -> None:
    svg = line_chart(
        "t", [("one", [(1.0, 0.0), (10.0, math.nan), (100.0, 2.0)])], "x", "y", [("clip", 10.0)], log_x=True
    )
    points = re.search(r'points="([^"]*)"', svg)
    assert points is not None
    assert points.group(1) == "46.0,196.0 406.0,26.0"
    assert "M226.0 26v170" in svg  # Half way between 1 and 100 on a logarithmic axis.
    assert "clip: 10" in svg
    with pytest.raises(ValueError, match="'t' has no finite point"):
        line_chart("t", [("one", [(math.nan, 0.0)])], "x", "y")
    with pytest.raises(ValueError, match="'t' has 8 series"):
        line_chart("t", [("s", [(0.0, 0.0)])] * 8, "x", "y")
