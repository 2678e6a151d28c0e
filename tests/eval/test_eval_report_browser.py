"""The report in a real browser, on a desktop and on a phone: it fits, it shows its pictures, it loads nothing."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eval.evaluator import BackendEvaluation, evaluate
from eval.gates import GateLimits, judge_gates
from eval.panels import select_panels
from eval.report import Figure, ReportSection, write_report
from eval.report.plots import bar_list, heat_map, line_chart
from eval.results import ArtifactRecord, RunResults, StepResult
from eval.significance import compare_evaluations
from eval.statistics import BootstrapComparison
from eval.vehicle import DecodeStep, ScoreThresholdRow, VehicleSummary
from eval.verification import verify
from tests.eval.toy_detector import Toy

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)")

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
)

# A page that shows the report in a frame of the given width and writes down what it measured.
PROBE = """<!DOCTYPE html><html><body style="margin:0"><iframe id="f" src="report.html"
style="border:0;width:{width}px;height:900px"></iframe><pre id="out"></pre><script>
document.getElementById("f").onload = () => {{
  const page = document.getElementById("f").contentDocument, root = page.documentElement;
  const inScroll = (e) => e.closest(".scroll, svg") !== null;
  const wide = [...page.querySelectorAll("body *")].filter(
    (e) => !inScroll(e) && e.getBoundingClientRect().right > {width} + 0.5).map((e) => e.outerHTML.slice(0, 120));
  const pictures = [...page.querySelectorAll("svg.bev")].map((e) => e.getBoundingClientRect().width);
  const small = [...page.querySelectorAll("p, td, th, li, h2")].filter(
    (e) => parseFloat(page.defaultView.getComputedStyle(e).fontSize) < 12).length;
  document.getElementById("out").textContent = JSON.stringify({{
    scrollWidth: root.scrollWidth, wide, pictures, small, height: root.scrollHeight,
    lefts: [...page.querySelectorAll("figure .bev")].map((e) => Math.round(e.getBoundingClientRect().left)),
    resources: page.defaultView.performance.getEntriesByType("resource").map((e) => e.name.slice(0, 40)),
    sections: [...page.querySelectorAll("section h2")].map((e) => e.textContent)}});
}};</script></body></html>"""


def vehicle_of(evaluation: BackendEvaluation, comparison: BootstrapComparison) -> VehicleSummary:
    """As a bundle of five bins would be shown."""
    metrics = evaluation.metrics
    classes, ranges = (tuple(0.5 for _ in part) for part in (metrics.class_names, metrics.ranges))
    steps = tuple(
        DecodeStep(name, 0.5, classes, ranges, 12.5)
        for name in ("training framework", "node, any score", "with classes by area: as published")
    )
    rows = tuple(ScoreThresholdRow(name, (0.35,) * 5) for name in metrics.class_names)
    source = f"bundle {'a_long_name_' * 6}, sha256 c70ad99f2bda"
    bins = (50.0, 90.0, 121.0, 160.0, 200.0)
    return VehicleSummary(evaluation.summary.label, metrics, steps, bins, rows, source, comparison)


@pytest.fixture(scope="module")
def report(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it and names as long as real ones."""
    frames = toy.frames(6)
    reference = evaluate(toy.pipeline("pytorch"), frames, show_progress=False)
    other = evaluate(toy.pipeline("tensorrt", shift_m=0.7), frames, show_progress=False)
    summary = dataclasses.replace(other.summary, precision="int8", device="cuda:0")
    evaluations = (reference, BackendEvaluation(summary, other.frames))
    comparisons = compare_evaluations(evaluations, num_resamples=100)
    checked = verify(
        toy.pipeline("pytorch"),
        toy.pipeline("onnx", noise={"reg": 1e-2}),
        frames,
        num_frames=2,
        show_progress=False,
    )
    reason = "car 0.2500 is 0.7500 below pytorch fp32 (cpu); evaluation.gates.max_drop_per_class is 0.01"
    results = RunResults(
        "centerpoint_second_secfpn_4xb16_121m_base_amp",
        {"mode": "both", "checkpoint_sha256": "ab" * 32, "dataset": "data/" + "long_folder_name/" * 8},
        (
            StepResult("verify onnx against pytorch", "FAILED", "; ".join(checked.reasons), 12.0, 900.0),
            StepResult("verify tensorrt against onnx", "SKIPPED", "no NVIDIA driver, or no GPU visible", 0.1, 900.0),
            StepResult("evaluate tensorrt", "FAILED", f"{reason}; {reason}", 12.0, 900.0),
        ),
        (checked,),
        tuple(item.summary for item in evaluations),
        comparisons,
        judge_gates(comparisons[0], GateLimits(0.01, 0.01, 0.01)),
        (ArtifactRecord("tensorrt/pts_backbone_neck_head.engine", "engine", "int8", "9c" * 32, 5_412_345),),
        versions={"tensorrt-rtx-cu13-bindings": "1.7.1.116"},
        vehicle=(vehicle_of(evaluations[1], comparisons[0]),),
    )
    names = [f"pts_bbox_head.task_heads.0.heatmap.{index}.conv" for index in range(20)]
    section = ReportSection(
        "Sensitivity",
        "sensitivity",
        "One layer at a time.",
        (
            Figure(bar_list([(name, 0.01 * index, name) for index, name in enumerate(names)]), "Loss", wide=True),
            Figure(line_chart("Activation", [("count", [(1.0, 5e5), (2.0, 3.0)])], "value", "count", [("amax", 1.5)])),
            Figure(heat_map(names[:2], ["0-50 m"], [[0.1], [-0.1]], [["+0.1"], ["-0.1"]])),
        ),
    )
    folder = tmp_path_factory.mktemp("report")
    panels = select_panels(evaluations, frames, 2)
    write_report(results, panels, folder / "report.html", [section])
    # With the pictures at the top, for screenshots.
    write_report(RunResults("m", {}, ()), panels, folder / "pictures.html")
    return folder


def browse(folder: Path, *options: str) -> str:
    profile = folder / "profile"
    done = subprocess.run(
        [str(BROWSER), *OPTIONS, f"--user-data-dir={profile}", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout


def probe(folder: Path, width: int) -> SimpleNamespace:
    page = folder / f"probe-{width}.html"
    page.write_text(PROBE.format(width=width), encoding="utf-8")
    window = f"--window-size={max(width, 500)},900"
    dom = browse(folder, window, "--virtual-time-budget=5000", "--dump-dom", page.as_uri())
    found = re.search(r'<pre id="out">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    assert found.group(1), "the report did not load"
    return SimpleNamespace(**json.loads(unescape(found.group(1))))


@pytest.mark.parametrize(("width", "side_by_side"), [(1280, True), (390, False)])
def test_it_fits(report: Path, width: int, side_by_side: bool) -> None:
    measured = probe(report, width)
    assert measured.wide == []
    assert measured.scrollWidth <= width
    assert measured.small == 0
    # Two frames, two backends: beside each other where there is room, below each other on a phone.
    assert len(measured.pictures) == 4
    assert min(measured.pictures) > 300
    assert (len(set(measured.lefts)) == 2) == side_by_side
    for name in (
        "Backends",
        "What the vehicle sees",
        "Differences",
        "Worst frames",
        "Sensitivity",
        "Latency",
        "Artifacts",
    ):
        assert name in measured.sections
    assert all(name.startswith("data:") for name in measured.resources)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_drawn(report: Path, scheme: str) -> None:
    image = pytest.importorskip("PIL.Image")
    target = report / f"{scheme}.png"
    options = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    address = (report / "pictures.html").as_uri()
    browse(report, *options, "--window-size=1280,1200", f"--screenshot={target}", address)
    with image.open(target) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 1280
    corner = pixels[2, 2].astype(int).sum()
    assert (corner > 600) == (scheme == "light")
    # Points, boxes and text: more colours than text alone has.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    # The bird's-eye views are dark areas on both.
    dark = (np.abs(pixels.astype(int) - [16, 22, 29]).max(axis=2) <= 2).mean()
    assert dark > 0.3


def test_a_run_that_only_exported(tmp_path: Path) -> None:
    write_report(RunResults("m", {}, (StepResult("export onnx", "PASSED", seconds=1.0),)), (), tmp_path / "report.html")
    measured = probe(tmp_path, 390)
    assert measured.pictures == []
    assert measured.sections == ["Steps"]
    assert measured.scrollWidth <= 390
