"""`//eval:score` from its command line: forms of the input, presets, and every kind of broken input."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eval.score_run
from eval.score import main

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden"
Frames = list[dict[str, Any]]


def box(**changes: Any) -> dict[str, Any]:
    values = {
        "label": "car",
        "x": 10.0,
        "y": 1.0,
        "z": 0.0,
        "l": 4.0,
        "w": 2.0,
        "h": 1.5,
        "yaw": 0.1,
        "vx": 1.0,
        "vy": 0,
    }
    return {**values, **changes}


def frames(count: int = 3) -> Frames:
    return [{"token": f"t{index}", "gt": [box(num_points=5)], "est": [box(score=0.9)]} for index in range(count)]


def as_lines(content: Frames) -> str:
    return "".join(json.dumps(frame) + "\n" for frame in content)


def run(folder: Path, source: Path | Any, *options: str) -> dict[str, Any]:
    """Scores a file, or an object written to one; returns what the command wrote."""
    if not isinstance(source, Path):
        path = folder / "frames.json"
        path.write_text(json.dumps(source))
        source = path
    out = folder / "scores.json"
    assert main(["--frames", str(source), "--out", str(out), "--log-level", "ERROR", *options]) == 0
    return dict(json.loads(out.read_text()))


def complaint(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> str:
    """What the command says when it refuses a file; it must leave no result."""
    out = path.parent / "scores.json"
    assert main(["--frames", str(path), "--out", str(out), "--log-level", "ERROR", *options]) == 2
    assert not out.exists()
    text = capsys.readouterr().err
    assert text.startswith("error (")
    assert "Traceback" not in text
    return text


def test_as_a_command_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "frames.json").write_text(json.dumps({"frames": frames()}))
    command = [sys.executable, "-m", "eval.score", "--frames", "frames.json", "--out", "out/scores.json"]
    # Relative paths start where the command was typed, which `bazel run` tells by this variable.
    environment = {**os.environ, "BUILD_WORKING_DIRECTORY": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "awml CENTERDISTANCEBEV: mAP 1.0, mAPH 1.0" in result.stderr
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["results"]["awml"]["num_frames"] == 3
    assert scores["nuscenes"]["filtered"]["labels"]["car"]["num_gt"] == 3


def test_all_forms_of_a_file_give_the_same_scores(tmp_path: Path) -> None:
    data = json.loads((GOLDEN / "l_multi.json").read_text())
    for index, frame in enumerate(data["frames"]):
        frame["token"] = index
    plain = run(tmp_path, {"frames": data["frames"], "configs": data["configs"]})  # configurations last
    header = json.dumps({"configs": data["configs"]}) + "\n"
    lines = tmp_path / "frames.jsonl"
    lines.write_text(header + as_lines(data["frames"]))
    assert run(tmp_path, lines) == plain
    packed = tmp_path / "frames.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    assert run(tmp_path, packed) == plain
    (tmp_path / "truth.jsonl").write_text(
        header + as_lines([{key: frame[key] for key in ("token", "gt")} for frame in data["frames"]])
    )
    found = tmp_path / "found.jsonl"
    found.write_text(as_lines([{key: frame[key] for key in ("token", "est")} for frame in data["frames"]]))
    assert run(tmp_path, tmp_path / "truth.jsonl", "--detections", str(found)) == plain
    assert plain["results"]["base"]["num_frames"] == 20


def test_chunks_do_not_change_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, GOLDEN / "l_multi.json")
    expected = (tmp_path / "scores.json").read_bytes()
    monkeypatch.setattr(eval.score_run, "FRAMES_AT_ONCE", 3)
    run(tmp_path, GOLDEN / "l_multi.json")
    assert (tmp_path / "scores.json").read_bytes() == expected


def test_configurations_are_chosen_by_name(tmp_path: Path) -> None:
    source = GOLDEN / "l_multi.json"
    assert list(run(tmp_path, source)["results"]) == ["base", "ring"]
    assert list(run(tmp_path, source, "--config", "ring", "overlap")["results"]) == ["overlap", "ring"]
    awml = ["awml", "awml/0-50m", "awml/50-90m", "awml/90-121m"]
    assert sorted(run(tmp_path, source, "--config", "awml")["results"]) == awml
    only_nuscenes = run(tmp_path, source, "--config", "nuscenes")
    assert only_nuscenes["results"] == {}
    assert only_nuscenes["nuscenes"] == run(tmp_path, source)["nuscenes"]


def test_presets_take_true_headings_unless_told_otherwise(tmp_path: Path) -> None:
    content = {"frames": [{"gt": [box(yaw=0.5, num_points=5)], "est": [box(yaw=-0.5, score=0.9)]}]}

    def weighted(*options: str) -> float:
        results = run(tmp_path, content, *options)["results"]
        return float(next(iter(results.values()))["modes"]["CENTERDISTANCEBEV"]["mAPH"])

    assert weighted() < 0.7
    assert weighted("--config", "awml_compat") == pytest.approx(1.0)
    assert weighted("--config", "awml", "--compat") == pytest.approx(1.0)


def test_precision_recall_curves(tmp_path: Path) -> None:
    first = {"gt": [box(num_points=5), box(x=40.0, num_points=5)], "est": [box(score=0.9), box(x=-30.0, score=0.5)]}
    modes = run(tmp_path, {"frames": [first]}, "--curves")["results"]["awml"]["modes"]
    curve = modes["CENTERDISTANCEBEV"]["labels"]["car"]["thresholds"]["2"]["precision"]
    # One of two is found, and the false one has the lower score: precision 1 up to recall 0.5, where it falls to 1/2.
    assert curve[:50] == [1.0] * 50
    assert curve[50] == pytest.approx(0.5)
    assert curve[51:] == [0.0] * 50


def test_unstable_ties_are_said_to_be_so(tmp_path: Path) -> None:
    scores = run(tmp_path, GOLDEN / "i_ties.json", "--unstable-ties")["results"]["base"]
    assert scores["policy"]["ties"] == "unstable"


def test_classes_of_the_nuscenes_score(tmp_path: Path) -> None:
    labels = run(tmp_path, {"frames": frames()}, "--classes", "car", "barrier")["nuscenes"]["filtered"]["labels"]
    assert sorted(labels) == ["barrier", "car"]
    assert labels["barrier"]["tp_errors"]["vel_err"] is None


def test_scores_of_single_frames_only_for_short_files(tmp_path: Path) -> None:
    assert len(run(tmp_path, {"frames": frames(100)})["results"]["awml"]["frame_mAP_mAPH"]["PLANEDISTANCE"]) == 100
    assert "frame_mAP_mAPH" not in run(tmp_path, {"frames": frames(101)})["results"]["awml"]


def test_missing_velocity_and_points_are_unknown(tmp_path: Path) -> None:
    bare = [{key: value for key, value in box().items() if key not in ("vx", "vy")}]
    content = {"frames": [{"gt": bare, "est": [{**bare[0], "score": 0.9, "vx": None}]}]}
    car = run(tmp_path, content)["nuscenes"]["filtered"]["labels"]["car"]
    assert (car["num_gt"], car["mean_ap"], car["tp_errors"]["vel_err"]) == (1, 1.0, 1.0)


Change = Callable[[Frames], Any]
BROKEN_BOXES: list[tuple[str, Change, str]] = [
    ("nan", lambda f: f[1]["est"][0].update(x=float("nan")), "est[0]: x is nan; every box needs finite numbers"),
    ("infinite", lambda f: f[1]["gt"][0].update(yaw=float("inf")), "gt[0]: yaw is inf; every box needs finite"),
    ("square without a float", lambda f: f[1]["gt"][0].update(x=1e200), "gt[0]: x is 1e+200; every box needs finite"),
    ("null", lambda f: f[1]["gt"][0].update(z=None), "gt[0]: z is None; every box needs finite numbers"),
    (
        "negative",
        lambda f: f[1]["est"][0].update(l=-4.2),
        "est[0]: l is -4.2; length, width and height must be above 0",
    ),
    ("zero", lambda f: f[1]["gt"][0].update(w=0), "gt[0]: w is 0; length, width and height must be above 0"),
    ("text", lambda f: f[1]["est"][0].update(x="12"), "est[0]: x is '12'; it must be a number"),
    ("truth value", lambda f: f[1]["est"].append(box(score=True, x=None)), "est[1]: x is None"),
    ("missing", lambda f: f[1]["est"][0].pop("h"), "est[0] has no 'h'; its keys are ['l', 'label'"),
    ("score", lambda f: f[1]["est"][0].update(score=3.2), "est[0]: score is 3.2; it must lie in [0, 1]"),
    ("score nan", lambda f: f[1]["est"][0].update(score=float("nan")), "est[0]: score is nan; it must lie in [0, 1]"),
    ("no score", lambda f: f[1]["est"][0].pop("score"), "est[0] has no 'score'"),
    ("points", lambda f: f[1]["gt"][0].update(num_points=-3), "gt[0]: num_points is -3; it must be a whole number"),
    ("velocity", lambda f: f[1]["est"][0].update(vx=float("inf")), "est[0]: the velocity is infinite"),
    ("label", lambda f: f[1]["est"][0].update(label="cra"), "est[0]: unknown label 'cra'; did you mean 'car'?"),
    ("label type", lambda f: f[1]["gt"][0].update(label=3), "gt[0]: label is 3; it must be the name of a class"),
    ("task", lambda f: f[1]["gt"][0].update(label="false_positive"), "belongs to the false-positive validation task"),
    ("true", lambda f: f[1]["gt"][0].update(w=True), "gt[0]: w is True; it must be a number"),
    ("long label", lambda f: f[1]["gt"][0].update(label="x" * 9999), "(9999 characters)"),
    ("no list", lambda f: f[1].pop("est"), "has no 'est': its detections are missing"),
    ("no truth", lambda f: f[1].pop("gt"), "has no 'gt': its ground truths are missing"),
    ("object", lambda f: f[1].update(est={}), "'est' is dict; it must be a list of boxes"),
    ("number", lambda f: f[1]["est"].append(5), "est[1] is int; a box is an object"),
    ("pose", lambda f: f[1].update(ego2map={"x": 1, "y": 2, "z": 3}), "ego2map has no 'yaw'"),
    ("pose nan", lambda f: f[1].update(ego2map=dict.fromkeys("xyz", 0.0) | {"yaw": None}), "it needs finite numbers"),
]


@pytest.mark.parametrize("lines", [False, True], ids=["json", "jsonl"])
@pytest.mark.parametrize(
    ("change", "words"), [item[1:] for item in BROKEN_BOXES], ids=[item[0] for item in BROKEN_BOXES]
)
def test_broken_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, words: str, lines: bool
) -> None:
    content = frames()
    change(content)
    path = tmp_path / ("frames.jsonl" if lines else "frames.json")
    path.write_text(as_lines(content) if lines else json.dumps({"frames": content}))
    text = complaint(capsys, path)
    assert words in text
    # The message says where: file, frame by number and token, and in JSON Lines the line.
    assert f"'{path}' line 2 (frame 1), token 't1'" in text if lines else f"'{path}' frame 1, token 't1'" in text


def test_frames_that_are_no_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "frames.json"
    twice = frames()
    twice[2]["token"] = "t0"
    for content, words in (
        ({"frames": twice}, "frame 2, token 't0': this token has come before; every frame is scored once"),
        ({"frames": [[]]}, "frame 0 is list; a frame is an object with the lists 'gt' and 'est'"),
        ({"frames": [{"token": {}, "gt": [], "est": []}]}, "token is {}; it must be a string or a whole number"),
        ({"frames": []}, "has no frames to score"),
        ({"frmaes": []}, "has no 'frames'; its keys are ['frmaes']"),
        (frames(1)[0], "It looks like JSON Lines: name it .jsonl."),
        ({"frames": {}}, "'{' stands where '[' must come: 'frames' must be a list"),
        ({"frames": frames(), "configs": []}, "'configs' is list; it must be an object"),
    ):
        path.write_text(json.dumps(content))
        assert words in complaint(capsys, path)


def test_mismatched_frame_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, found = tmp_path / "truth.json", tmp_path / "found.jsonl"
    truth.write_text(json.dumps({"frames": frames(3)}))
    found.write_text(as_lines(frames(2)))
    text = complaint(capsys, truth, "--detections", str(found))
    assert f"'{found}' ends after 2 frames, '{truth}' goes on; both files must list the same frames" in text
    found.write_text(as_lines(frames(4)))
    assert f"'{truth}' ends after 3 frames" in complaint(capsys, truth, "--detections", str(found))
    found.write_text(as_lines([frames(3)[index] for index in (0, 2, 1)]))
    text = complaint(capsys, truth, "--detections", str(found))
    assert "frame 1, token 't1'" in text
    assert "are not the same frame: tokens 't1' and 't2'" in text


def test_point_limits_need_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((GOLDEN / "h_range_points.json").read_text())["configs"]["points"]
    path = tmp_path / "frames.json"
    content = frames()
    del content[1]["gt"][0]["num_points"]
    path.write_text(json.dumps({"configs": {"points": config}, "frames": content}))
    assert "configuration 'points' limits the number of LiDAR points, but" in complaint(capsys, path)


def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "frames.json"
    assert f"'{path}' does not exist" in complaint(capsys, path)
    path.write_text(json.dumps({"frames": frames()}))
    text = complaint(capsys, path, "--config", "nope")
    assert "there is no configuration 'nope'" in text
    assert "the presets are awml, awml_compat, overlap, nuscenes" in text
    assert "cannot be read: Is a directory" in complaint(capsys, tmp_path)
    assert main(["--frames", str(path), "--out", str(path / "below" / "a_file.json")]) == 2
    assert "error (system): " in capsys.readouterr().err
    assert main(["--frames", str(path), "--out", str(tmp_path)]) == 2
    assert "is a folder; name the file to write" in capsys.readouterr().err


def peak_memory_mb(path: Path, out: Path) -> tuple[int, str, float]:
    """Exit code, standard error and peak resident memory of the command, in a process of its own."""
    # Not getrusage: there a process starts with the peak of the one that it was forked from, here pytest's.
    code = (
        "import re, sys; from eval.score import main; code = main(sys.argv[1:]);"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "--frames", str(path), "--out", str(out), "--log-level", "ERROR"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return result.returncode, result.stderr, float(result.stdout)


@pytest.mark.parametrize(
    ("name", "start", "words"),
    [
        ("zeros.json", "", r"line 1 column 1 is not valid JSON: '\x00' stands where '{' must come"),
        ("zeros.jsonl", "", "line 1 is longer than 32 MB; JSON Lines hold one frame a line"),
        ("string.json", '{"frames": [{"token": "', "frames[0]: Invalid control character"),
        ("after.json", '{"frames": []}', r"'\x00' follows the end of the object"),
    ],
)
def test_a_gigabyte_of_nonsense_is_refused_at_once(tmp_path: Path, name: str, start: str, words: str) -> None:
    path = tmp_path / name
    with path.open("w") as stream:
        stream.write(start)
        stream.truncate(1 << 30)  # a hole: no disk is used
    code, text, memory = peak_memory_mb(path, tmp_path / "scores.json")
    assert code == 2
    assert words in text
    assert memory < 400


def test_a_quarter_of_a_gigabyte_is_read_in_little_memory(tmp_path: Path) -> None:
    # Spaces between the frames stand in for more boxes, to keep the test short.
    path = tmp_path / "frames.json"
    gap = " " * (1 << 20)
    with path.open("w") as stream:
        stream.write('{"frames": [')
        for index, frame in enumerate(frames(3)):
            stream.write("," * bool(index) + json.dumps(frame))
            for _ in range(80):
                stream.write(gap)
        stream.write("]}")
    code, text, memory = peak_memory_mb(path, tmp_path / "scores.json")
    assert code == 0, text
    assert memory < 250
