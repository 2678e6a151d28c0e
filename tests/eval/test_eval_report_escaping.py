"""Names from elsewhere (classes, layers, files, frames, backends) stay text in the report, wherever they stand."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import eval.report as report_package
from eval.divergence import Divergence, WeightDifference
from eval.evaluator import BackendEvaluation, evaluate
from eval.gates import GateLimits, judge_gates
from eval.metrics.detection_results import TOTAL
from eval.panels import FramePanel, select_panels
from eval.report import Figure, ReportSection, render_report
from eval.report.plots import bar_list, heat_map, line_chart
from eval.report.templating import render
from eval.results import ArtifactRecord, RunResults, StepResult
from eval.significance import compare_pair
from eval.vehicle import DecodeStep, ScoreThresholdRow, VehicleSummary
from eval.verification import verify
from export.qdq.precision_map import LayerPrecision, PrecisionMap
from export.qdq.precision_picture import draw_precision_map
from tests.eval.toy_detector import Toy

HOSTILE = "\"'><script>alert(1)</script><img/src=x/onerror=alert(2)>&lt;</style></title>{{7*7}}"
# As many places where a long name may break, and nothing else in it.
HARMLESS = re.sub(r"[^./_]", "x", HOSTILE)
# Words of the program rather than of its user: they choose what the report does.
FIXED = {
    *("PASSED", "FAILED", "SKIPPED", "better", "worse", "indistinguishable", "undefined"),
    *("difference", "worst_bound", "best_bound", "value", "total", "", TOTAL),
}


def marked(value: Any, mark: str) -> Any:
    """The value with the mark at the end of every text in it, however deep."""
    if isinstance(value, str):
        return value if value in FIXED else value + mark
    if isinstance(value, tuple):
        return tuple(marked(item, mark) for item in value)
    if isinstance(value, dict):
        return {marked(key, mark): marked(item, mark) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        texts = {
            field.name: marked(getattr(value, field.name), mark) for field in dataclasses.fields(value) if field.init
        }
        return type(value)(**texts)
    return value


class Structure(HTMLParser):
    """Elements with the names of their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.text += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def vehicle_of(evaluation: BackendEvaluation) -> VehicleSummary:
    metrics = evaluation.metrics
    classes, ranges = (tuple(0.5 for _ in items) for items in (metrics.class_names, metrics.ranges))
    rows = tuple(ScoreThresholdRow(name, (0.35,)) for name in metrics.class_names)
    return VehicleSummary("onnx", metrics, (DecodeStep("a step", 0.5, classes, ranges, 1.0),), (50.0,), rows, "b", None)


@pytest.fixture(scope="module")
def parts(toy: Toy) -> tuple[RunResults, list[FramePanel]]:
    """Results and panels of a run with everything in it."""
    frames = toy.frames()
    pytorch = evaluate(toy.pipeline("pytorch"), frames, show_progress=False)
    other = evaluate(toy.pipeline("onnx", shift_m=2.5), frames, show_progress=False)
    checked = verify(
        toy.pipeline("pytorch"), toy.pipeline("onnx", noise={"reg": 1e-2}), frames, num_frames=2, show_progress=False
    )
    weight = WeightDifference("conv.weight", "the sign is turned")
    origin = Divergence("net", ("reg",), "conv", "Conv", "t", 0.03, 0.1, 2e-5, (), ("x",), (weight,), 7)
    comparison = compare_pair(pytorch, other, num_resamples=40)
    results = RunResults(
        "toy",
        {"mode": "both", "checkpoint": "a.pth"},
        (
            StepResult("verify onnx against pytorch", "FAILED", "reg", 1.0, 2.0),
            StepResult("verify tensorrt against onnx", "SKIPPED", "no device"),
        ),
        (dataclasses.replace(checked, divergences=(origin,)),),
        (pytorch.summary, other.summary),
        (comparison, dataclasses.replace(comparison, label_a="b", label_b="c")),
        judge_gates(comparison, GateLimits(0.9, {"car": 0.5}, 0.9, judge="worst_bound")),
        (ArtifactRecord("a.onnx", "onnx", "fp32", "ab" * 32, 12),),
        {"numpy": "2.2.6"},
        vehicle=(vehicle_of(pytorch), vehicle_of(other)),
        driving=tuple(item.driving for item in (pytorch, other) if item.driving is not None),
    )
    return results, list(select_panels([pytorch, other], frames, 1))


def page_of(parts: tuple[RunResults, list[FramePanel]], mark: str) -> str:
    """Their report with a section of another package, every text marked."""
    results, panels = parts
    layer = LayerPrecision("backbone", "n", "Conv", (3, 3), "int8", "fp16", 10, 10, 10, 10, ("",))
    layers = (dataclasses.replace(layer, path=f"backbone{mark}"),)
    figures = (
        draw_precision_map(PrecisionMap(f"net{mark}", layers)),
        bar_list([(f"layer{mark}", 0.2, f"note{mark}"), (f"none{mark}", float("nan"), "")], unit=mark),
        heat_map([f"row{mark}"], [f"column{mark}"], [[0.1]], [[f"text{mark}"]], [[f"note{mark}"]]),
        line_chart(f"title{mark}", [(f"line{mark}", [(1.0, 2.0)])], f"x{mark}", f"y{mark}", [(f"mark{mark}", 1.0)]),
    )
    section = ReportSection(
        f"Section{mark}",
        "section",
        f"text{mark}",
        tuple(Figure(figure, f"caption{mark}") for figure in figures),
        (f"head{mark}",),
        ((f"cell{mark}",),),
    )
    shown = [
        FramePanel(
            f"frame{mark}",
            tuple(name + mark for name in panel.class_names),
            panel.points,
            panel.ground_truth,
            tuple(dataclasses.replace(view, label=view.label + mark) for view in panel.views),
            panel.extent_m,
        )
        for panel in panels
    ]
    return render_report(marked(results, mark), shown, [section])


def test_hostile_names_add_no_element_and_no_attribute(
    parts: tuple[RunResults, list[FramePanel]],
) -> None:
    hostile, harmless = Structure(page_of(parts, HOSTILE)), Structure(page_of(parts, HARMLESS))
    assert len(harmless.tags) > 500
    assert hostile.tags == harmless.tags
    # Nothing is lost either: what is shown is what was given. Long names of bars are broken into pieces.
    shown = [text.count(HOSTILE) for text in hostile.text]
    assert sum(shown) == sum(text.count(HARMLESS) for text in harmless.text) > 200


def test_a_template_escapes_what_it_is_given_and_misses_nothing() -> None:
    bars = render("bar_list.html", bars=[(["<b>"], '"', None, "&")])
    assert '<div class="hbar" title="&#34;"><span>&lt;b&gt;</span><div></div><b>&amp;</b></div>' in bars
    with pytest.raises(Exception, match="'bars' is undefined"):
        render("bar_list.html")


def test_equal_results_give_equal_bytes(parts: tuple[RunResults, list[FramePanel]]) -> None:
    first = page_of(parts, "")
    assert page_of(parts, "") == first
    # The layout of the templates is no part of the page.
    assert first.endswith("</html>\n")
    assert first.count("\n") == 1


def test_no_template_turns_escaping_off() -> None:
    folder = Path(report_package.__file__).parent
    templates = sorted((folder / "templates").iterdir())
    assert len(templates) > 10
    for path in templates:
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", path.read_text(encoding="utf-8")), path.name
    trusting = {path.name for path in folder.glob("*.py") if re.search(r"\btrusted\(|Markup\(", path.read_text())}
    assert trusting == {"templating.py", "extension.py"}


def test_cells_of_other_packages_are_escaped() -> None:
    rows = ((report_package.Cell("<b>", "num"), "<i>"),)
    page = render_report(RunResults("m", {}, ()), more=[ReportSection("S", "s", head=("a", "b"), rows=rows)])
    assert '<td class="num">&lt;b&gt;</td><td>&lt;i&gt;</td>' in page
