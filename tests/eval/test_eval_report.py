"""The report: self-contained, escaped, the same for the same results; pictures hold what they should."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import DataError
from eval.bev import box_corners, points_png, save_bev_png
from eval.divergence import Divergence, WeightDifference
from eval.evaluator import BackendEvaluation, evaluate
from eval.gates import GateLimits, judge_gates
from eval.metrics import FrameResult
from eval.panels import frame_hits, select_panels
from eval.report import render_report, write_report
from eval.report.frames import view_svg
from eval.report.table import signed
from eval.results import ArtifactRecord, RunResults, StepResult, read_results, write_results
from eval.significance import compare_pair
from eval.verification import verify
from tests.eval.toy_detector import Toy


class Balanced(HTMLParser):
    """Collects text and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def evaluations(toy: Toy) -> tuple[BackendEvaluation, BackendEvaluation]:
    frames = toy.frames()
    return (
        evaluate(toy.pipeline("pytorch"), frames, show_progress=False),
        evaluate(toy.pipeline("onnx", shift_m=2.5), frames, show_progress=False),
    )


@pytest.fixture
def results(toy: Toy, evaluations: tuple[BackendEvaluation, ...]) -> RunResults:
    checked = verify(
        toy.pipeline("pytorch"),
        toy.pipeline("onnx", noise={"reg": 1e-2}),
        toy.frames(),
        num_frames=2,
        show_progress=False,
    )
    weight = WeightDifference("/rot.0/conv/Conv.weight", "1 of 36 elements differ: the sign is turned")
    origin = Divergence("net", ("reg",), "/rot.0/conv/Conv", "Conv", "t", 0.03, 0.1, 2e-5, (), ("x",), (weight,), 7)
    checked = dataclasses.replace(checked, divergences=(origin,))
    comparison = compare_pair(*evaluations, num_resamples=100)
    limits = GateLimits(total=0.9, per_class={"car": 0.5}, per_range=0.9, judge="worst_bound")
    return RunResults(
        title="toy <script>alert(1)</script>",
        run={"mode": "both", "checkpoint": "a&b.pth"},
        steps=(
            StepResult("export onnx", "PASSED", seconds=1.5, peak_rss_mb=812.0),
            StepResult("verify onnx against pytorch", "FAILED", "reg"),
            StepResult("verify tensorrt against onnx", "SKIPPED", "no CUDA device <here>"),
        ),
        verifications=(checked,),
        evaluations=tuple(item.summary for item in evaluations),
        comparisons=(comparison,),
        gates=judge_gates(comparison, limits),
        artifacts=(ArtifactRecord("onnx/a.onnx", "onnx", "fp32", "ab" * 32, 1234567),),
        driving=tuple(item.driving for item in evaluations if item.driving is not None),
        versions={"numpy": "2.2.6"},
    )


def test_what_the_vehicle_cares_for_stands_beside_each_other(results: RunResults) -> None:
    page = render_report(results)
    section = page.split('id="driving"')[1].split("</section>")[0]
    assert len(results.driving) == 2
    for score in results.driving:
        label = score.label.replace(" ", "\N{NO-BREAK SPACE}")
        assert section.count(f"<td>{label}</td>") == 1 + len(score.classes)
    assert "The ego's motion is not known" in section or "The ego&#39;s motion is not known" in section


def test_report_says_what_happened(toy: Toy, results: RunResults, evaluations: tuple[BackendEvaluation, ...]) -> None:
    page = render_report(results, select_panels(evaluations, toy.frames(), 2))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    for text in (
        "toy <script>alert(1)</script>",
        "no CUDA device <here>",
        "a&b.pth",
        "FAILED",
        "SKIPPED",
        "reg: relative L2 difference",
        "ab" * 32,
        "1.2 MB",
        "pytorch (cpu) vs onnx (cpu)",
        "mAP -0.7500",  # shifted by 2.5 m, only the largest of four thresholds is met
        "worse",
        "evaluation.gates.max_drop_per_class",
        "largest drop in the interval",
        "rot.0/conv/Conv.weight",
        "the sign is turned",
        "2 of 3 gates kept",
        "Intervals over 4 frames are too narrow",
        "frame-0",
        "1 correct, 0 false, 0 missed of 1",
        "0 correct, 1 false, 1 missed of 1",
        "812 MB",
    ):
        assert text in parser.text, text


def test_report_loads_nothing_and_is_small(
    toy: Toy, results: RunResults, evaluations: tuple[BackendEvaluation, ...]
) -> None:
    page = render_report(results, select_panels(evaluations, toy.frames(), 4))
    parser = Balanced()
    parser.feed(page)
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in parser.tags}
    links = [value or "" for _, attrs in parser.tags for key, value in attrs.items() if key in ("href", "src")]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "@import" not in page
    assert len(page.encode()) < 5_000_000


def test_scenarios_stand_in_a_matrix(results: RunResults) -> None:
    page = render_report(results)
    matrix = page[page.index("<th>reference</th>") : page.index("</table>", page.index("<th>reference</th>"))]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", "<th>" + matrix.split("<th>", 1)[1]) == [
        "reference",
        "onnx",
        "tensorrt",
    ]
    rows = re.findall(r"<tr>(<td>.*?)</tr>", matrix)
    texts = [re.sub(r"<[^>]*>", "|", row) for row in rows]
    assert [[part for part in text.split("|") if part] for text in texts] == [
        ["pytorch", "FAILED"],
        ["onnx", "SKIPPED"],
    ]


def test_differences_are_shaded_by_class_and_range(results: RunResults) -> None:
    page = render_report(results)
    part = page[page.index('id="differences"') :]
    part = part[: part.index("</section>")]
    cars = part[part.index("<th>car</th>") :]
    cells = re.findall(r'<td class="num (\w+)" style="--v:([\d.]+)"[^>]*>(?:<b>)?([^<]*)', cars[: cars.index("</tr>")])
    # Three of four thresholds are lost in every range that has cars, with certainty.
    assert cells
    assert {(side, share, text) for side, share, text in cells} == {("loss", "1.000", "-0.750")}
    buses = part[part.index("<th>bus</th>") :]
    assert "–" in buses[: buses.index("</tr>")]


def test_small_changes_have_no_sign_and_no_alarm() -> None:
    assert [signed(value, 3) for value in (0.00004, -0.00004, 0.01, math.nan)] == ["0.000", "0.000", "+0.010", "–"]


def test_boxes_by_class_and_range_can_be_opened(results: RunResults) -> None:
    page = render_report(results)
    part = page[page.index("Boxes by class and range") :]
    row = part[part.index("<td>car</td>") : part.index("</tr>", part.index("<td>car</td>"))]
    assert ">0-40 m<" in row
    assert re.findall(r'class="num[^"]*">([^<]*)', row) == ["2", "·", "·", "·"]


def test_report_is_the_same_from_the_file(
    tmp_path: Path, toy: Toy, results: RunResults, evaluations: tuple[BackendEvaluation, ...]
) -> None:
    panels = select_panels(evaluations, toy.frames(), 2)
    write_report(results, panels, tmp_path / "a.html")
    write_results(results, tmp_path / "results.json")
    write_report(read_results(tmp_path / "results.json"), panels, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_report_of_a_run_that_only_exported() -> None:
    page = render_report(RunResults("m", {}, (StepResult("export onnx", "PASSED", seconds=1.0),)))
    assert "PASSED" in page
    assert "Accuracy" not in page


def test_worst_frames_come_first(toy: Toy) -> None:
    frames = toy.frames()
    result = evaluate(toy.pipeline("onnx"), frames, show_progress=False)
    broken = list(result.frames)
    broken[2] = FrameResult("frame-2", Boxes3D.empty(), broken[2].ground_truth)
    panels = select_panels([BackendEvaluation(result.summary, tuple(broken))], frames, 2)
    assert [panel.token for panel in panels] == ["frame-2", "frame-0"]
    assert panels[0].views[0].num_errors == 1


def test_panels_refuse_other_frames(toy: Toy, evaluations: tuple[BackendEvaluation, ...]) -> None:
    other = evaluate(toy.pipeline("onnx"), toy.frames(3), show_progress=False)
    with pytest.raises(DataError, match="evaluated on different frames"):
        select_panels([evaluations[0], other], toy.frames())
    with pytest.raises(DataError, match="frame 0 is 'frame-3' in the dataset but 'frame-0' in the evaluation"):
        select_panels(evaluations[:1], toy.frames()[::-1], 4)


def test_frame_hits_use_the_nearest_free_ground_truth() -> None:
    def boxes(xs: list[float], scores: list[float]) -> Boxes3D:
        values = np.zeros((len(xs), 9), np.float32)
        values[:, 0] = xs
        return Boxes3D(values, np.array(scores, np.float32), np.zeros(len(xs), np.int64))

    correct, found = frame_hits(boxes([0.0, 0.5, 30.0], [0.5, 0.9, 0.9]), boxes([0.4, 10.0], [1, 1]), 1)
    assert correct.tolist() == [False, True, False]
    assert found.tolist() == [True, False]


def test_corners_of_a_turned_box() -> None:
    box = np.array([[10, 5, 0, 4, 2, 1.5, np.pi / 2, 0, 0]], np.float32)
    corners = box_corners(Boxes3D(box, np.ones(1, np.float32), np.zeros(1, np.int64)))
    # Length along +y: front left lies at -x, +y of the centre.
    np.testing.assert_allclose(corners[0], [[9, 7], [9, 3], [11, 3], [11, 7]], atol=1e-6)


def test_points_picture(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    points = np.array([[9.9, 0.01, 1.0], [-9.9, 9.9, 0.0], [50.0, 0.0, 0.0], [np.nan, 0, 0]], np.float32)
    path = tmp_path / "points.png"
    path.write_bytes(points_png(points, extent_m=10.0, pixels=101))
    with image.open(path) as picture:
        picture.load()
        pixels = np.array(picture.convert("RGB")).sum(axis=2)
    lit = np.argwhere(pixels != pixels[50, 50])
    # Forward is up and left is left: (9.9, 0) at the top centre, (-9.9, 9.9) at the bottom left.
    assert lit.tolist() == [[0, 50], [100, 0]]


def test_view_marks_every_box(toy: Toy, evaluations: tuple[BackendEvaluation, ...]) -> None:
    panel = select_panels(evaluations, toy.frames(), 1)[0]
    good, bad = (view_svg(panel, view, "#points") for view in panel.views)
    assert (good.count("gt-found"), good.count("det-ok"), good.count("det-bad")) == (1, 1, 0)
    assert (bad.count("gt-missed"), bad.count("det-bad"), bad.count("det-ok")) == (1, 1, 0)
    assert "false detection: car 0.80" in bad


def test_png_for_the_readme(tmp_path: Path, toy: Toy, evaluations: tuple[BackendEvaluation, ...]) -> None:
    image = pytest.importorskip("PIL.Image")
    panel = select_panels(evaluations, toy.frames(), 1)[0]
    for name in ("a.png", "b.png"):
        save_bev_png(panel, tmp_path / name, "toy")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1.5 * picture.height
