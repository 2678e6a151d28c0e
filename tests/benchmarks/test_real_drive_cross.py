"""A drive in parts: folds, fine-tuning and scores of each, what they come to together, and the choice of a recipe."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import ConfigError
from benchmarks import real_drive_cross
from benchmarks.int8_accuracy_results import StoredRun
from benchmarks.int8_accuracy_variants import parse_variant
from benchmarks.real_drive import _parser as score_parser
from benchmarks.real_drive import summary
from benchmarks.real_drive_choose import main as choose_main
from benchmarks.real_drive_data import INFO_FILE, convert_scans
from benchmarks.real_drive_folds import main as folds_main
from benchmarks.real_drive_folds import pairs_of, parts
from benchmarks.real_drive_pool import main as pool_main
from datasets.frames import open_frames
from eval.metrics import FrameResult
from models.config import load_model_config
from tests.benchmarks.small_drive import CLASSES, CONFIG, boxes
from training.on_device.__main__ import _parser as training_parser


def test_folds_leave_neighbours_out(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = parts(10, 2, 1)
    assert split == [([6, 7, 8, 9], [0, 1, 2, 3, 4]), ([0, 1, 2, 3], [5, 6, 7, 8, 9])]
    assert sorted(index for _, test in parts(112, 5, 3) for index in test) == list(range(112))
    assert folds_main(["--data", str(drive), "--folds", "2", "--gap", "0", "--out", str(tmp_path / "folds")]) == 0
    frames = open_frames(load_model_config(CONFIG), "train", str(tmp_path / "folds" / "fold_0" / "train"), INFO_FILE)
    assert [frames[index].token for index in range(len(frames))] == ["fold0-000008"]
    again = convert_scans(tmp_path / "folds" / "fold_0" / "test", tmp_path / "again", CLASSES)
    assert [json.loads((again / "boxes.json").read_text())["frames"][0]["token"]] == ["drive-000007"]
    assert folds_main(["--data", str(drive), "--folds", "2", "--out", str(tmp_path / "few")]) == 2
    assert "cannot be 2 folds" in capsys.readouterr().err


def test_parts_are_scored_as_one_drive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = [boxes([(10, 0, 0.0)], [0]) for _ in range(40)]
    everything = StoredRun(tmp_path)
    whole = [FrameResult(str(index), item if index % 3 else Boxes3D.empty(), item) for index, item in enumerate(truth)]
    for number, part in enumerate((whole[:25], whole[25:])):
        (tmp_path / f"part_{number}" / "labelled" / "detections").mkdir(parents=True)
        run = StoredRun(tmp_path / f"part_{number}" / "labelled")
        run.save_frames(part, ["drive"] * len(part))
        for name in ("fp32", "fp16"):
            run.save_detections(name, [frame.detections for frame in part])
    arguments = ["--parts", str(tmp_path / "part_0"), str(tmp_path / "part_1"), "--resamples", "100"]
    assert pool_main([*arguments, "--output", str(tmp_path / "out")]) == 0
    (tmp_path / "detections").mkdir()
    everything.save_frames(whole, ["drive"] * 40)
    for name in ("fp32", "fp16"):
        everything.save_detections(name, [frame.detections for frame in whole])
    wanted = summary({"the labelled frames": everything}, ["fp32", "fp16"], CLASSES, 40.0, 5, 100)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == wanted
    assert pool_main(["--parts", str(tmp_path / "nothing"), "--output", str(tmp_path / "out2")]) == 2
    assert "holds no detections of 'fp32'" in capsys.readouterr().err
    twice = [
        "--parts",
        str(tmp_path / "part_0"),
        str(tmp_path / "x" / ".." / "part_0"),
        "--output",
        str(tmp_path / "o"),
    ]
    assert pool_main(twice) == 2
    assert "twice; its frames would count twice" in capsys.readouterr().err


def test_parts_are_told_in_int8_and_on_other_scans(tmp_path: Path) -> None:
    """What every part holds is pooled; what one alone holds is left out."""
    name, alone = "mse (generated)", "percentile (generated)"
    for number, count in enumerate((6, 4)):
        for kind, objects in (("labelled", 2), ("unlabelled", 0)):
            (tmp_path / f"part_{number}" / kind / "detections").mkdir(parents=True)
            run = StoredRun(tmp_path / f"part_{number}" / kind)
            found = boxes([(10, 0, 0.0), (20, 3, 0.0)], [0, 0], [0.9, 0.8])
            truth = found if objects else Boxes3D.empty()
            run.save_frames(
                [FrameResult(f"{number}-{i}", Boxes3D.empty(), truth) for i in range(count)], ["drive"] * count
            )
            for variant in ("fp32", "fp16"):
                run.save_detections(variant, [found] * count)
            run.save_detections(name, [found.select(np.array([True, number == 0]))] * count)
            if number == 0:
                run.save_detections(alone, [found] * count)
    arguments = ["--parts", str(tmp_path / "part_0"), str(tmp_path / "part_1"), "--resamples", "0"]
    assert pool_main([*arguments, "--output", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["variants"]) == {"fp32", "fp16", name}
    assert set(results["agreement"]) == {"the labelled frames", "the unlabelled scans, each by every part's model"}
    for rows in results["agreement"].values():
        assert (rows[name]["boxes"], rows[name]["matched"], rows[name]["lost"], rows[name]["gained"]) == (20, 16, 4, 0)
    assert results["against"][name]["car"]["value"] < -10.0


MODULES = {"on_device": "training.on_device", "real_drive": "benchmarks.real_drive"}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What the cross-validation starts; folds and pool are run, training and scores pretended."""
    started: list[tuple[str, list[str]]] = []

    def start(module: str, options: list[object], log: Path) -> None:
        words = [str(option) for option in options]
        started.append((module, words))
        output = Path(words[words.index("--out" if module.endswith("folds") else "--output") + 1])
        if module == "benchmarks.real_drive_folds":
            assert folds_main(words) == 0
        elif module == "training.on_device":
            understood = training_parser().parse_args(words)
            assert (len(understood.data_root), understood.share, understood.seed) == (2, [1.0, 1.0], 0)
            output.write_text("weights")
        elif module == "benchmarks.real_drive":
            understood = score_parser().parse_args(words)
            assert understood.output == output
            for name in understood.methods:
                parse_variant(name)
            (output / "labelled" / "detections").mkdir(parents=True)
            run = StoredRun(output / "labelled")
            truth = boxes([(12, 1.9, 0.0)], [0])
            run.save_frames([FrameResult(output.parent.name, Boxes3D.empty(), truth)], ["drive"])
            for name in ("fp32", "fp16"):
                run.save_detections(name, [truth])
        else:
            assert pool_main(words) == 0

    monkeypatch.setattr(real_drive_cross, "start", start)
    return started


def test_cross_validation_scores_by_default_methods(
    drive: Path, tmp_path: Path, steps: list[tuple[str, list[str]]]
) -> None:
    (tmp_path / "like").mkdir()
    (tmp_path / "like" / "centerpoint_infos_train.pkl").write_text("frames")
    options = ["--data", str(drive), "--generated", str(tmp_path / "like"), "--folds", "2", "--gap", "0"]
    assert real_drive_cross.main([*options, "--resamples", "0", "--output", str(tmp_path / "cross")]) == 0
    assert [module for module, _ in steps].count("benchmarks.real_drive") == 2


def test_cross_validation_in_one_command(
    drive: Path, tmp_path: Path, steps: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cross"
    options = ["--data", str(drive), "--generated", str(tmp_path / "like"), "--folds", "2", "--gap", "0"]
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.npz").write_bytes((drive / "lidar" / "0.npz").read_bytes())
    (tmp_path / "like").mkdir()
    (tmp_path / "like" / "centerpoint_infos_train.pkl").write_text("frames")
    options += ["--methods", "mse", "mixed-mse", "--resamples", "0", "--workers", "4", "--calibration", f"real={scans}"]
    assert real_drive_cross.main([*options, "--output", str(out)]) == 0
    assert sorted(module for module, _ in steps) == sorted(
        [
            "benchmarks.real_drive_folds",
            *2 * ["training.on_device", "benchmarks.real_drive"],
            "benchmarks.real_drive_pool",
        ]
    )
    assert "| fp32 | 100.0 |" in capsys.readouterr().out
    pooled = json.loads((out / "pool" / "results.json").read_text())
    assert (pooled["frames"], pooled["objects"]) == (2, {"car": 2})
    for module, words in steps:
        if module == "training.on_device":
            fold = Path(words[words.index("--output") + 1]).parent.name
            trained = words[words.index("--data-root") + 1 : words.index("--info-file")]
            assert trained == [str(out / "folds" / fold / "train"), str(tmp_path / "like")]
            assert words[-len(real_drive_cross.RECIPE) :] == list(real_drive_cross.RECIPE)
            assert words[words.index("--workers") + 1] == "2"
        if module == "benchmarks.real_drive":
            fold = Path(words[words.index("--output") + 1]).parent.name
            assert words[words.index("--data") + 1] == str(out / "folds" / fold / "test")
            assert words[words.index("--checkpoint") + 1] == str(out / fold / "tuned.pth")
            assert words[words.index("--methods") + 1 :][:2] == ["mse", "mixed-mse"]
            assert words[words.index("--calibration") + 1] == f"real={scans}"
    # Every frame is scored by a model that was not trained on it.
    for fold in ("fold_0", "fold_1"):
        cfg = load_model_config(CONFIG)
        frames = open_frames(cfg, "train", str(out / "folds" / fold / "train"), INFO_FILE)
        scored = json.loads((out / "folds" / fold / "test" / "labels.json").read_text())
        seen = {int(frames[index].token.rpartition("-")[2]) for index in range(len(frames))}
        assert seen.isdisjoint(row["frame"] for row in scored)
    assert real_drive_cross.main([*options, "--output", str(out), "--", "--rate", "1e-3"]) == 2
    assert "recipe differ" in capsys.readouterr().err


def test_own_options_replace_the_recipe(drive: Path, tmp_path: Path, steps: list[tuple[str, list[str]]]) -> None:
    options = ["--data", str(drive), "--generated", str(tmp_path), "--folds", "2", "--gap", "0", "--resamples", "0"]
    (tmp_path / "centerpoint_infos_train.pkl").write_text("frames")
    assert (
        real_drive_cross.main([*options, "--output", str(tmp_path / "x"), "--", "--rate", "1e-3", "--fade", "0"]) == 0
    )
    trained = [words for module, words in steps if module == "training.on_device"]
    assert all(words[-4:] == ["--rate", "1e-3", "--fade", "0"] for words in trained)
    assert not any("--iterations" in words for words in trained)


def test_what_a_later_step_would_refuse_is_told_first(
    drive: Path, tmp_path: Path, steps: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(drive), "--generated", str(tmp_path), "--folds", "2", "--output", str(tmp_path / "x")]
    for more, message in (
        ((), "where there is no centerpoint_infos_train.pkl"),
        (("--methods", "percntile"), "Did you mean percentile?"),
        (("--calibration", "real=nowhere"), "nowhere' does not exist"),
        (("--unlabelled", "nowhere"), "nowhere' does not exist"),
    ):
        assert real_drive_cross.main([*options, *more]) == 2
        assert message in capsys.readouterr().err
    assert not steps
    assert not (tmp_path / "x").exists()


def test_a_step_that_fails_says_why(tmp_path: Path) -> None:

    log = tmp_path / "step.log"
    with pytest.raises(ConfigError, match=r"real_drive_folds ended with exit code 2; .*step\.log"):
        real_drive_cross.start("benchmarks.real_drive_folds", ["--data", tmp_path, "--out", tmp_path / "out"], log)
    assert "labels.json" in log.read_text()


def stored(folder: Path, numbers: list[int], yaws: list[float]) -> None:
    """A scored run of frames of one car each, found with these headings' errors; none: not found."""
    (folder / "detections").mkdir(parents=True)
    run = StoredRun(folder)
    truth = boxes([(12, 1.9, 0.0)], [0])
    run.save_frames([FrameResult(str(i), Boxes3D.empty(), truth) for i in numbers], ["drive"] * len(numbers))
    found = [boxes([(12, 1.9, yaw)], [0], [0.9]) for yaw in yaws] or [Boxes3D.empty()] * len(numbers)
    for name in ("fp32", "fp16"):
        run.save_detections(name, found)


def test_recipes_are_chosen_without_the_part_they_are_scored_on(tmp_path: Path) -> None:
    each, turned = 12, math.pi
    numbers = [list(range(part * each, part * each + each)) for part in range(3)]
    rows = [{"frame": i, "lidar": f"{i}.npz", "objects": []} for i in range(3 * each)]
    (tmp_path / "labels.json").write_text(json.dumps(rows))
    # Of recipe a the other part is turned where part 0 was left out, of b everything else is.
    for pair in ((0, 1), (0, 2), (1, 2)):
        wrong = {"a": [0 in pair and part != 0 for part in pair], "b": [not (0 in pair and part != 0) for part in pair]}
        for name, flags in wrong.items():
            yaws = [turned if flag else 0.0 for flag in flags for _ in range(each)]
            folder = tmp_path / f"{name}_pairs" / f"pair_{pair[0]}_{pair[1]}" / "score" / "labelled"
            stored(folder, numbers[pair[0]] + numbers[pair[1]], yaws)
    for name in ("a", "b"):
        (tmp_path / f"{name}_pairs" / "cross.json").write_text(json.dumps({"folds": 3, "gap": 0}))
        for fold in range(3):
            yaws = [0.0] * each if name == "a" else []
            stored(tmp_path / name / f"fold_{fold}" / "score" / "labelled", numbers[fold], yaws)
    options = ["--data", str(tmp_path), "--output", str(tmp_path / "out")]
    for option, end in (("--pairs", "_pairs"), ("--folds", "")):
        options += [option, *(f"{name}={tmp_path / (name + end)}" for name in ("a", "b"))]
    assert choose_main(options) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["chosen"] for row in results["choices"]] == ["b", "a", "a"]
    assert [row["worth"] for row in results["choices"]] == [
        {"a": pytest.approx(0.0, abs=1.0), "b": pytest.approx(100.0, abs=1.0)},
        *2 * [{"a": pytest.approx(100.0, abs=1.0), "b": pytest.approx(0.0, abs=1.0)}],
    ]
    # Part 0 is scored by b, which found nothing there.
    assert results["pooled"]["frames"] == 3 * each
    assert results["pooled"]["variants"]["fp32"]["headings"]["all"]["matched"] == 2 * each


def test_recipes_need_both_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert choose_main([*options, "--pairs", "a=x", "--folds", "b=x"]) == 2
    assert "--pairs has a, --folds b; give both for each recipe." in " ".join(capsys.readouterr().err.split())
    assert choose_main([*options, "--pairs", "x", "--folds", "b=x"]) == 2
    assert "--pairs has 'x'; give NAME=DIR" in capsys.readouterr().err


def test_pairs_leave_two_parts_out() -> None:
    named = pairs_of(parts(40, 4, 2))
    assert list(named) == ["pair_0_1", "pair_0_2", "pair_0_3", "pair_1_2", "pair_1_3", "pair_2_3"]
    for name, (train, test) in named.items():
        i, j = (int(part) for part in name.split("_")[1:])
        assert test == [*range(10 * i, 10 * i + 10), *range(10 * j, 10 * j + 10)]
        assert train
        assert min(abs(a - b) for a in train for b in test) == 3  # two frames between


def test_a_stopped_cross_validation_leaves_nothing_running(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two folds train, two wait for their turn, when the signal comes."""
    running = tmp_path / "running"
    running.mkdir()
    sleeper = f"import os, pathlib, time; pathlib.Path({str(running)!r}, str(os.getpid())).touch(); time.sleep(600)"
    whole = real_drive_cross._command

    def command(module: str, options: list[object]) -> list[str]:
        return [sys.executable, "-c", sleeper] if module == "training.on_device" else whole(module, options)

    monkeypatch.setattr(real_drive_cross, "_command", command)

    def stop() -> None:
        while len(list(running.iterdir())) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    folds = tmp_path / "out" / "folds"
    for fold in range(4):
        (folds / f"fold_{fold}" / "train").mkdir(parents=True)
        (folds / f"fold_{fold}" / "train" / INFO_FILE).write_text("frames")
    (tmp_path / "centerpoint_infos_train.pkl").write_text("frames")
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    options = ["--data", str(drive), "--generated", str(tmp_path), "--at-once", "2", "--output", str(tmp_path / "out")]
    assert real_drive_cross.main(options) == 128 + signal.SIGTERM
    thread.join()
    started = [int(path.name) for path in running.iterdir()]
    assert len(started) == 2
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
