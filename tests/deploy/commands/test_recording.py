"""`--record`: what a recording shows is what the command found, read by the formats' own readers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from base.errors import DataError
from deploy.predict import main
from deploy.recording.contract import RecordedFrame, RecordingFacts, names_of, recording
from eval.palette import CLASS_COLORS, class_color, class_rgb
from tests.deploy.commands.recordings import Boxes, read_recording
from tests.deploy.commands.small_dataset import CLASSES, frame_points, sample

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment
    from tests.deploy.commands.in_process import Deploy

Predict = Callable[..., tuple[int, str, str]]
SUFFIXES = (".rrd", ".mcap")


@pytest.fixture
def predict(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Predict:
    """`predict(*options)` in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))

    def run(*options: str | Path) -> tuple[int, str, str]:
        fixed = ("--model-config", deployment.model_config, "--checkpoint", deployment.checkpoint, "--device=cpu")
        code = main([str(word) for word in ("--out=out", "--log-level=WARNING", *fixed, *options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A folder of three scans, the second with points that are not finite, and of a file that is none."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for index in range(3):
        points = frame_points(index)
        if index == 1:
            points[:7, 1] = np.nan
        points.astype("<f4").tofile(folder / f"{index:03d}.bin")
    (folder / "notes.txt").write_text("recorded at noon")
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]


def same_boxes(seen: Boxes, found: list[dict[str, Any]]) -> None:
    """A recording's boxes are those of `detections.jsonl`, which rounds to four and six places."""
    assert seen.label == [box["class"] for box in found]
    assert len(found) > 3, "nothing was compared"
    for name, key in (("center", "center"), ("size", "size_length_width_height"), ("velocity", "velocity")):
        np.testing.assert_allclose(getattr(seen, name), [box[key] for box in found], atol=1e-4)
    np.testing.assert_allclose(seen.score, [box["score"] for box in found], atol=1e-6)
    turn = seen.yaw - np.array([box["yaw"] for box in found])
    np.testing.assert_allclose(np.cos(turn), 1.0, atol=1e-6)
    expected = [class_rgb(CLASSES.index(name)) for name in seen.label]
    np.testing.assert_allclose(seen.color, expected, atol=0.51)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_of_scans_is_recorded_as_it_was_found(
    predict: Predict, drive: Path, tmp_path: Path, suffix: str
) -> None:
    code, out, _ = predict("--points", drive, "--compare=onnx", "--record", f"seen/drive{suffix}", "--rate=5")
    assert code == 0
    assert "3 scans" in out
    assert f"drive{suffix}" in out
    written = lines(tmp_path / "out")
    seen = read_recording(tmp_path / "seen" / f"drive{suffix}")
    assert sorted(seen) == [0, 1, 2] == [line["index"] for line in written]
    for index, line in enumerate(written):
        points = frame_points(index)[7 if index == 1 else 0 :, :3]
        np.testing.assert_array_equal(seen[index].points, points)
        assert seen[index].time_ns == index * 200_000_000
        assert seen[index].name == ("" if suffix == ".mcap" else f"{index:03d}.bin")
        assert list(seen[index].boxes) == ["pytorch_fp32_cpu", "onnx_fp32_cpu"]
        for boxes, backend in zip(seen[index].boxes.values(), line["backends"], strict=True):
            same_boxes(boxes, backend["detections"])
    summary = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert (summary["scans"], summary["verification"]["passed"]) == (3, True)
    assert written[1]["scan"]["invalid_points"] == 7


def test_frames_of_a_dataset_bring_their_ground_truth(predict: Predict, deployment: Deployment, tmp_path: Path) -> None:
    assert predict("--data-root", deployment.data_root, "--record", "frames.rrd")[0] == 0
    seen = read_recording(tmp_path / "frames.rrd")
    for index, line in enumerate(lines(tmp_path / "out")):
        assert line["scan"]["sample"] == f"frame-{index}"
        truth = seen[index].boxes["ground_truth"]
        boxes = np.array([item["bbox_3d"] for item in sample(index, "")["instances"]])
        np.testing.assert_allclose(truth.center, boxes[:, :3], atol=1e-6)
        np.testing.assert_allclose(truth.size, boxes[:, 3:6], atol=1e-6)
        np.testing.assert_allclose(truth.yaw, boxes[:, 6], atol=1e-6)
        assert truth.label == CLASSES
        same_boxes(seen[index].boxes["pytorch_fp32_cpu"], line["backends"][0]["detections"])
        assert seen[index].time_ns == pytest.approx(index * 1e8, abs=1e3), "of the frames, since the first"


def test_a_deployment_records_what_it_evaluated(deploy: Deploy, deployment: Deployment, tmp_path: Path) -> None:
    code, _, err = deploy("--record", "run.mcap", "--num-samples=2")
    assert code == 0, err
    seen = read_recording(tmp_path / "run.mcap")
    assert sorted(seen) == [0, 1]
    for name, backend in (("pytorch_fp32_cpu", "pytorch"), ("onnx_fp32_cpu", "onnx")):
        stored = [
            json.loads(line) for line in (tmp_path / "out/detections" / f"{backend}.jsonl").read_text().splitlines()
        ]
        frames = [frame for frame in stored if "est" in frame]
        assert len(frames) == 2
        for index, frame in enumerate(frames):
            boxes = seen[index].boxes[name]
            assert boxes.label == [box["label"] for box in frame["est"]]
            centers = [[box[axis] for axis in "xyz"] for box in frame["est"]]
            np.testing.assert_allclose(boxes.center, centers, atol=1e-5)
            assert seen[index].boxes["ground_truth"].label == CLASSES
    assert seen[1].time_ns == 1_000_100_000_000
    code, _, err = deploy("--record", "other.mcap", "--no-evaluation")
    assert code == 2
    assert "this run evaluates no backend" in err


def test_int8_is_made_and_recorded(predict: Predict, deployment: Deployment, drive: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(deployment.data_root, data)
    shutil.copy(data / "centerpoint_infos_val.pkl", data / "centerpoint_infos_train.pkl")
    code, _, err = predict(
        *("--points", drive, "--precision=int8", "--compare=onnx", "--calibration-data-root", data),
        *("--record", "int8.mcap"),
    )
    assert code == 0, err
    first = read_recording(tmp_path / "int8.mcap")[0]
    assert list(first.boxes) == ["pytorch_int8_cpu", "onnx_int8_cpu"]
    verification = json.loads((tmp_path / "out" / "detections.json").read_text())["verification"]
    assert (verification["precision"], verification["passed"]) == ("int8", True)
    same_boxes(first.boxes["onnx_int8_cpu"], lines(tmp_path / "out")[0]["backends"][1]["detections"])


def test_the_same_scans_give_the_same_recording(predict: Predict, drive: Path, tmp_path: Path) -> None:
    from rerun.chunk import RrdReader

    for number in (1, 2):
        assert predict("--points", drive, "--record", f"{number}.mcap")[0] == 0
        assert predict("--points", drive, "--record", f"{number}.rrd")[0] == 0
    assert (tmp_path / "1.mcap").read_bytes() == (tmp_path / "2.mcap").read_bytes()
    first, second = (list(RrdReader(tmp_path / f"{number}.rrd").stream()) for number in (1, 2))
    # The axes once; of each scan its points, the boxes of one backend, and their headings.
    assert len(first) == 1 + 3 * 3
    assert [chunk.id for chunk in first] == [chunk.id for chunk in second]
    assert all(a.to_record_batch().equals(b.to_record_batch()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_scan_that_cannot_be_read_costs_no_other(predict: Predict, drive: Path, tmp_path: Path, suffix: str) -> None:
    (drive / "002.bin").write_bytes(b"12345")
    code, out, err = predict("--points", drive, "--record", f"drive{suffix}")
    assert (code, out) == (2, "")
    assert "002.bin" in err
    assert "2 scans before it are done, of 3: what was written of them stays" in err
    assert "Traceback" not in err
    assert [line["index"] for line in lines(tmp_path / "out")] == [0, 1]
    seen = read_recording(tmp_path / f"drive{suffix}")
    assert sorted(seen) == [0, 1]
    same_boxes(seen[1].boxes["pytorch_fp32_cpu"], lines(tmp_path / "out")[1]["backends"][0]["detections"])


def test_odd_folders(predict: Predict, drive: Path, tmp_path: Path) -> None:
    empty, mixed = tmp_path / "empty", tmp_path / "mixed"
    empty.mkdir()
    shutil.copytree(drive, mixed)
    shutil.copy(drive / "000.bin", mixed / "000.pcd")
    notes = tmp_path / "notes"
    notes.mkdir()
    shutil.copy(drive / "notes.txt", notes)
    cases = [
        (empty, "empty' has no scan (.bin or .pcd): no file"),
        (notes, "notes' has no scan (.bin or .pcd): 1 other file"),
        (mixed, "mixed' has 3 .bin files and 1 .pcd files: which of them are the sequence is unknown"),
    ]
    for folder, message in cases:
        code, out, err = predict("--points", folder, "--checkpoint=nowhere.pth")
        assert (code, out) == (2, "")
        assert message in err, "told before a model is read"
    code, _, err = predict("--points", drive / "000.bin", tmp_path / "nowhere.bin")
    assert code == 2
    assert "nowhere.bin' does not exist" in err


def test_scans_of_a_folder_stand_as_their_numbers_count(predict: Predict, drive: Path, tmp_path: Path) -> None:
    for name, number in (("000", 2), ("001", 10), ("002", 9)):
        (drive / f"{name}.bin").rename(drive / f"{number}.bin")
    assert predict("--points", drive, "--record", "drive.rrd")[0] == 0
    names = ["2.bin", "9.bin", "10.bin"]
    assert [line["scan"]["file"] for line in lines(tmp_path / "out")] == names
    seen = read_recording(tmp_path / "drive.rrd")
    assert [seen[index].name for index in range(3)] == names


def test_an_option_without_effect_is_refused(predict: Predict, deployment: Deployment, drive: Path) -> None:
    files, frames = ("--points", drive), ("--data-root", deployment.data_root)
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((*frames, "--lidar-height=1.7"), "--lidar-height says how the files of --points are"),
        ((*frames, "--lidar-height=0"), "--lidar-height says how the files of --points are"),
        ((*frames, "--format=t4"), "--format says how"),
        ((*frames, "--columns=5"), "--columns says how"),
        ((*frames, "--rate=10"), "--rate says how"),
        ((*files, "--calibration-data-root=d"), "--calibration-data-root is for --precision=int8; it is fp32"),
        ((*files, "--calibration-info-file=i.pkl", "--precision=fp16"), "is for --precision=int8; it is fp16"),
        ((*files, "--onnx-dir=d"), "--onnx-dir is for backends that read ONNX files; pytorch reads none"),
        ((*files, "--engine-dir=d", "--compare=onnx"), "--engine-dir is for the backend tensorrt; onnx and pytorch"),
        ((*files, "--precision=fp16"), "--precision=fp16 is of ONNX files that this command exports; pytorch runs"),
        ((*files, "--precision=fp16", "--backend=onnx", "--onnx-dir=d"), "--precision=fp16 is of ONNX files"),
    ]
    for options, message in cases:
        code, out, err = predict(*options)
        assert (code, out) == (2, "")
        assert message in err


def test_a_recording_that_cannot_be_written_is_told_first(
    predict: Predict, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there.mcap").write_bytes(b"a drive of an hour")
    (tmp_path / "file").touch()
    cases = [
        ("seen.avi", "what is recorded follows from the file's suffix: .rrd for Rerun, .mcap for Foxglove, not '.avi'"),
        ("seen", "not none"),
        ("there.mcap", "which exists; a recording replaces no file"),
    ]
    for name, message in cases:
        code, _, err = predict("--points", drive, "--record", name, "--checkpoint=nowhere.pth")
        assert code == 2
        assert message in err
        assert "nowhere.pth" not in err
    assert (tmp_path / "there.mcap").read_bytes() == b"a drive of an hour"
    code, _, err = predict("--points", drive, "--record", "/proc/seen.mcap", "--checkpoint=nowhere.pth")
    assert code == 2
    assert "/proc" in err
    assert "Another run" not in err
    assert "nowhere.pth" not in err
    code, _, err = predict("--points", drive, "--record", "file/seen.rrd", "--checkpoint=nowhere.pth")
    assert code == 2
    assert "nowhere.pth" not in err
    assert "'--record'" in err or "--record: " in err
    for name, module, remedy in (
        ("a.rrd", "rerun", "pip install rerun-sdk"),
        ("a.mcap", "mcap.writer", "pip install mcap mcap-protobuf-support foxglove-schemas-protobuf"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            code, _, err = predict("--points", drive, "--record", name, "--checkpoint=nowhere.pth")
        assert code == 2
        assert remedy in err
        assert "nowhere.pth" not in err


# In a process of its own, whose output goes through pipes: the limit holds for files of every kind.
FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from base.boxes import Boxes3D
from deploy.recording.contract import RecordedFrame, RecordingFacts, recording

points = np.random.default_rng(0).normal(size=(20_000, 5)).astype(np.float32)
try:
    with recording(Path(sys.argv[1]), RecordingFacts("tiny", ("car",), ("x", "y", "z", "a", "b"))) as recorder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        recorder.write(RecordedFrame(0, "a", 0.0, points, {"onnx": Boxes3D.empty()}))
except OSError as error:
    print(f"told: {error}")
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_cannot_grow_is_told(tmp_path: Path, child_environment: dict[str, str], suffix: str) -> None:
    """As on a full disk."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / f"disk{suffix}")]
    done = subprocess.run(command, env=child_environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("told: "), done.stderr


def test_a_time_that_no_recording_holds_is_told(tmp_path: Path) -> None:
    facts = RecordingFacts("tiny", ("car",), ("x", "y", "z"))
    for suffix, time_s in ((".rrd", -1.0), (".mcap", float("nan")), (".mcap", 1e12)):
        path = tmp_path / f"{time_s}{suffix}"
        with recording(path, facts) as recorder, pytest.raises(DataError, match="a recording cannot hold"):
            recorder.write(RecordedFrame(0, "a", time_s, np.zeros((1, 3), np.float32), {}))


def test_backends_of_one_name_stand_beside_each_other() -> None:
    names = names_of(["onnx int8 (cpu)", "onnx (int8) cpu", "onnx-int8-cpu", "?"])
    assert list(names.values()) == ["onnx_int8_cpu", "onnx_int8_cpu_2", "onnx_int8_cpu_3", "backend"]


def test_classes_have_colours_of_their_own() -> None:
    """The first by a table; class n by the hue n · (√5 - 1) / 2, saturation 0.55, value 1."""
    assert [class_color(label) for label in range(len(CLASS_COLORS))] == list(CLASS_COLORS)
    colors = [class_rgb(label) for label in range(40)]
    assert len(set(colors)) == 40
    for label in range(len(CLASS_COLORS), 40):
        red, green, blue = colors[label]
        assert max(red, green, blue) == 255
        assert min(red, green, blue) == round(255 * 0.45)
        hue = label * (5**0.5 - 1) / 2 % 1
        sector = {0: red, 1: green, 2: green, 3: blue, 4: blue, 5: red}[int(6 * hue)]
        assert sector == 255
