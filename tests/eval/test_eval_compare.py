"""Two runs against each other: the differences are those of the metrics, verdicts need the frames."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import DataError
from eval import compare, score
from eval.detections_file import read_detections, write_detections
from eval.evaluator import BackendEvaluation, EvaluationSummary, evaluate
from eval.metrics import FrameResult
from eval.results import RunResults, StepResult, read_results, write_results
from tests.eval.toy_detector import FakeFrame, Toy


def make_run(
    toy: Toy,
    folder: Path,
    shift_m: float,
    *,
    keep: bool = True,
    name: str = "onnx",
    frames: list[FakeFrame] | None = None,
) -> BackendEvaluation:
    result = evaluate(toy.pipeline(name, shift_m=shift_m), frames or toy.frames(12), show_progress=False)
    folder.mkdir()
    kept = {}
    if keep:
        write_detections(result.frames, result.metrics.class_names, folder / "onnx.jsonl")
        kept = {result.summary.label: "onnx.jsonl"}
    steps = (StepResult("evaluate onnx", "PASSED"),)
    write_results(RunResults("toy", {}, steps, evaluations=(result.summary,), detections=kept), folder / "results.json")
    return result


def files(tmp_path: Path) -> list[str]:
    return [str(tmp_path / name / "results.json") for name in "ab"]


def test_differences_with_verdicts(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run(toy, tmp_path / "a", 0.0), make_run(toy, tmp_path / "b", 0.7)
    out = tmp_path / "compare.json"
    assert compare.main([*files(tmp_path), "--resamples", "200", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    # Shifted by 0.7 m, one of four thresholds is lost in every frame: the difference is certain.
    assert a.metrics.mean_ap - b.metrics.mean_ap == pytest.approx(0.25)
    row = next(line.split() for line in text.splitlines() if line.split()[:2] == ["total", "mean"])
    assert row[2:] == ["1.0000", "0.7500", "-0.2500", "[-0.2500,", "-0.2500]", "worse"]
    assert "no intervals" not in text
    (saved,) = json.loads(out.read_text())
    assert saved["accuracy"]["num_frames"] == 12
    assert [item["name"] for item in saved["latency"]] == ["mean", "p50", "p90", "p95", "p99"]
    assert compare.main([*files(tmp_path), "--resamples", "200", "--fail-on-worse"]) == 1
    assert compare.main([*files(tmp_path)[::-1], "--resamples", "200", "--fail-on-worse"]) == 0
    assert "better" in capsys.readouterr().out


def test_without_frames_there_is_no_verdict(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(toy, tmp_path / "a", 0.0)
    make_run(toy, tmp_path / "b", 0.7, keep=False)
    assert compare.main([*files(tmp_path), "--fail-on-worse"]) == 0
    text = capsys.readouterr().out
    row = next(line.split() for line in text.splitlines() if line.split()[:2] == ["total", "mean"])
    assert row[2:] == ["1.0000", "0.7500", "-0.2500", "-", "-"]
    assert "no intervals:" in text
    assert "kept no detections of onnx fp32 (cpu)" in text


def test_other_frames_are_not_paired(toy: Toy, tmp_path: Path) -> None:
    make_run(toy, tmp_path / "a", 0.0)
    make_run(toy, tmp_path / "b", 0.7, frames=toy.frames(13)[1:])
    (found,) = compare.compare_runs(*files(tmp_path))
    assert "frame 0 is 'frame-0' of onnx fp32 (cpu) but 'frame-1'" in found.note
    assert found.accuracy.total.difference == pytest.approx(-0.25)
    assert math.isnan(found.accuracy.total.low)


def test_which_backends_are_paired(toy: Toy, tmp_path: Path) -> None:
    summary = evaluate(toy.pipeline("onnx"), toy.frames(), show_progress=False).summary
    make = dataclasses.replace

    def labels(a: list[EvaluationSummary], b: list[EvaluationSummary]) -> list[tuple[str, str]]:
        runs = [RunResults("toy", {}, (), evaluations=tuple(items)) for items in (a, b)]
        return [(first.label, second.label) for first, second in compare._pairs(*runs)]

    int8, torch = make(summary, precision="int8"), make(summary, backend="pytorch")
    assert labels([summary, torch], [torch, summary]) == [("onnx fp32 (cpu)",) * 2, ("pytorch fp32 (cpu)",) * 2]
    assert labels([torch, summary], [int8]) == [("onnx fp32 (cpu)", "onnx int8 (cpu)")]
    # Two of one backend are told apart by their precision alone.
    assert labels([summary, int8], [int8]) == [("onnx int8 (cpu)", "onnx int8 (cpu)")]
    assert labels([torch], [int8]) == [("pytorch fp32 (cpu)", "onnx int8 (cpu)")]
    assert labels([torch, summary], []) == []


def test_wrong_files(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(toy, tmp_path / "a", 0.0)
    assert compare.main([files(tmp_path)[0], str(tmp_path / "none.json")]) == 2
    assert "none.json' does not exist" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    write_results(RunResults("toy", {}, ()), tmp_path / "b" / "results.json")
    assert compare.main(files(tmp_path)) == 2
    assert "evaluated no backend in common: onnx fp32 (cpu) and none" in capsys.readouterr().err
    assert compare.main([files(tmp_path)[0]] * 2 + ["--resamples", "7"]) == 2
    assert "num_resamples is 7" in capsys.readouterr().err


def test_detections_round_trip_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 9)).astype(np.float32)
    values[:, 3:6] = np.abs(values[:, 3:6])
    values[2, 7:] = np.nan
    detections = Boxes3D(values, rng.uniform(size=5).astype(np.float32), np.array([0, 1, 1, 0, 1]))
    truth = Boxes3D(values[:2], np.ones(2, np.float32), np.array([1, 0]), np.array([3, 9]))
    frames = [FrameResult("a", detections, truth), FrameResult("b", Boxes3D.empty(), Boxes3D.empty())]
    write_detections(frames, ["car", "bus"], tmp_path / "d.jsonl")
    again = read_detections(tmp_path / "d.jsonl", ["car", "bus"])
    assert [frame.token for frame in again] == ["a", "b"]
    np.testing.assert_array_equal(again[0].detections.boxes, values)
    np.testing.assert_array_equal(again[0].detections.scores, detections.scores)
    np.testing.assert_array_equal(again[0].ground_truth.labels, truth.labels)
    np.testing.assert_array_equal(again[0].ground_truth.num_points, [3, 9])
    assert len(again[1].detections) == 0
    write_detections(again, ["car", "bus"], tmp_path / "e.jsonl")
    assert (tmp_path / "d.jsonl").read_bytes() == (tmp_path / "e.jsonl").read_bytes()


def test_broken_detections_are_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"token": "a", "est": [{"label": "car", "x": 1}], "gt": []}\n')
    with pytest.raises(DataError, match=r"line 1, est: a box is not as this program writes it \(KeyError: 'y'\)"):
        read_detections(path, ["car"])
    row = dict.fromkeys(("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy"), 1.0) | {"label": "car"}
    for change, words in (
        ({"x": "1.0"}, "'1.0' is no number of a box"),
        ({"x": True}, "True is no number of a box"),
        ({"x": 10**400}, "is no number of a box"),
        ({"x": None}, "x: None is no number of a box"),
        ({"x": math.nan}, "x: nan is no number of a box"),
        ({"l": -1.0}, "l: -1.0 is no size of a box"),
        ({"score": "high"}, "'high' is no number of a box"),
        ({"num_points": -1}, "-1 is no number of points"),
        ({"num_points": 1.5}, "1.5 is no number of points"),
        ({"label": []}, "TypeError"),
        ({"label": "tram"}, "KeyError: 'tram'"),
    ):
        path.write_text(json.dumps({"token": "a", "est": [row, row | change], "gt": []}))
        with pytest.raises(DataError, match=f"line 1, est: a box is not as this program writes it .*{words}"):
            read_detections(path, ["car"])
    for rows in ("[5]", "5", "null", '{"a": 1}'):
        path.write_text(f'{{"token": "a", "est": {rows}, "gt": []}}')
        with pytest.raises(DataError, match="line 1, est"):
            read_detections(path, ["car"])
    path.write_text('{"frame": 1}\n')
    with pytest.raises(DataError, match="line 1 is no frame"):
        read_detections(path, ["car"])
    path.write_text("")
    with pytest.raises(DataError, match=r"holds no frames|is empty"):
        read_detections(path, ["car"])


def test_kept_detections_can_be_scored_on_their_own(toy: Toy, tmp_path: Path) -> None:
    result = make_run(toy, tmp_path / "a", 0.7)
    out = tmp_path / "scores.json"
    assert score.main(["--frames", str(tmp_path / "a" / "onnx.jsonl"), "--out", str(out)]) == 0
    scored = json.loads(out.read_text())["results"]["awml"]["modes"]["CENTERDISTANCEBEV"]
    assert scored["mAP"] == pytest.approx(result.metrics.mean_ap, abs=1e-9)


def test_detections_lie_beside_their_results(toy: Toy, tmp_path: Path) -> None:
    make_run(toy, tmp_path / "a", 0.0)
    file = tmp_path / "a" / "results.json"
    for elsewhere in ("/etc/passwd", "../b/onnx.jsonl", "a\0b", ""):
        values = json.loads(file.read_text())
        values["detections"] = dict.fromkeys(values["detections"], elsewhere)
        file.write_text(json.dumps(values))
        with pytest.raises(DataError, match=r"results\.json': detections"):
            compare.compare_runs(file, file)


@pytest.mark.parametrize(("key", "value"), [("name", "all"), ("classes", [])])
def test_metrics_of_other_ranges_or_classes_are_no_metrics(toy: Toy, tmp_path: Path, key: str, value: object) -> None:
    make_run(toy, tmp_path / "a", 0.0)
    path = tmp_path / "a" / "results.json"
    content = json.loads(path.read_text())
    content["evaluations"][0]["metrics"]["ranges"][-1][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"metrics: range.* 'total'"):
        read_results(path)
