"""Variants on a GPU: every frame to all of them, refusals kept; choices of layers, plans of them, and judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError, ExportError
from benchmarks.int8_accuracy_device import Engines, score_on_device
from benchmarks.int8_accuracy_judged import Judged, main, write_judged
from benchmarks.int8_accuracy_results import StoredRun, write_results
from benchmarks.int8_accuracy_variants import Variant, file_name, is_choice_of_layers, parse_variant
from benchmarks.int8_plans import layer_rows, plans
from datasets.frames import Frame
from eval.metrics import FrameResult
from models.spec import ModelSpec
from runtime.counts import VoxelCounts
from runtime.decoders import TRAINING_DECODER
from runtime.detector import Detector, Inference

CLASSES = ("car", "pedestrian")


def made(count: int, seed: int) -> Boxes3D:
    rng = np.random.default_rng(seed)
    values = np.zeros((count, 9), np.float32)
    values[:, :2] = rng.uniform(-36, 36, (count, 2))
    values[:, 3:6] = (4.0, 2.0, 1.5)
    scores = np.sort(rng.uniform(0.1, 1.0, count).astype(np.float32))[::-1]
    return Boxes3D(values, scores, rng.integers(0, 2, count))


class Counting(Detector):
    """As many boxes as a cloud has points; its time is the cloud's first number."""

    def __init__(self) -> None:
        super().__init__(None, "counting", "cpu", TRAINING_DECODER)  # type: ignore[arg-type]
        self.is_released = False

    def detect(self, points: NDArray[np.float32]) -> Inference:
        stages = {"backbone_neck_head": float(points[0, 0])}
        return Inference(made(len(points), len(points)), None, stages, 1.0, VoxelCounts())

    def _release(self) -> None:
        self.is_released = True


def frames(count: int) -> list[Frame]:
    return [
        Frame(f"f{i}", f"s{i // 2}", 0.1 * i, np.full((i + 1, 5), i + 0.5, np.float32), made(3, 100 + i))
        for i in range(count)
    ]


def refused() -> Detector:
    raise ExportError("'Conv_7' reads a map in two forms")


@pytest.mark.parametrize("workers", [1, 3])
def test_every_frame_reaches_every_variant(tmp_path: Path, workers: int) -> None:
    (tmp_path / "detections").mkdir()
    run, detector = StoredRun(tmp_path), Counting()
    score_on_device(run, {"fp16": lambda: detector, "odd": refused}, frames(7), 5, workers)  # type: ignore[arg-type]
    found = run.frames("fp16")
    assert [len(frame.detections) for frame in found] == [1, 2, 3, 4, 5]
    assert [frame.token for frame in found] == ["f0", "f1", "f2", "f3", "f4"]
    np.testing.assert_array_equal(found[3].ground_truth.boxes, made(3, 103).boxes)
    assert run.scenes() == ["s0", "s0", "s1", "s1", "s2"]
    times = run.network_ms("fp16")
    assert times is not None
    assert times.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert run.refusals() == {"odd": "'Conv_7' reads a map in two forms"}
    assert not run.has("odd")
    assert detector.is_released
    write_results(run, ["fp16"], CLASSES, 100)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["variants"][0]["network_ms"] == {"median": 2.5, "p90": 4.1}
    assert results["refused"] == run.refusals()


def test_none_that_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"None of the variants runs; .*two forms"):
        score_on_device(StoredRun(tmp_path), {"odd": refused}, frames(2), 2, 1)  # type: ignore[arg-type]


def test_a_gpu_by_name(demo_spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="--gpu is 'cpu'"):
        Engines(demo_spec, "cpu", 1000)


@pytest.fixture
def demo_spec() -> ModelSpec:
    from models.config import load_model_config

    return ModelSpec.from_config(load_model_config(Path("configs/model/centerpoint_t4_demo.py")))


def test_choices_of_layers() -> None:
    assert parse_variant("mse:float=a.b,c") == Variant("mse", "mse", floating=("a.b", "c"))
    assert parse_variant("mse-even:only=a") == Variant("mse", "mse", half="even", only=("a",))
    chosen = parse_variant("bias_correction-percentile:float=a.*")
    assert chosen == Variant("bias_correction", "percentile", floating=("a.*",))
    assert is_choice_of_layers("mse:only=a")
    assert not is_choice_of_layers("bias_correction:float=a")
    assert not is_choice_of_layers("mse")
    for name in ("mse:", "mse:float=", "mse:float=a,,b", "mse:without=a"):
        with pytest.raises(ConfigError, match="behind the colon"):
            parse_variant(name)
    for name in ("bias_correction:only=a", "fp16:float=a", "qat:only=a"):
        with pytest.raises(ConfigError, match=":only=… for a calibration"):
            parse_variant(name)


def test_files_of_long_names() -> None:
    assert file_name("mse:float=a") == "mse:float=a"
    long = [f"mse:float={','.join(f'layer.{i}' for i in range(count))}" for count in (40, 41)]
    short = [file_name(name) for name in long]
    assert max(map(len, short)) <= 120
    assert short[0] != short[1]
    assert short[0].startswith("mse:float=layer.0,")


def row(method: str, points: float, ms: float) -> dict[str, Any]:
    return {"method": method, "map": {"total": points}, "network_ms": {"median": ms}}


def test_plans_by_hand() -> None:
    """Three layers: one costs most accuracy, one most time, one is refused in FP16."""
    results = {
        "variants": [
            row("fp16", 90.0, 1.0),
            row("mse", 88.0, 0.5),
            row("mse:only=a", 89.0, 0.9),
            row("mse:float=a", 89.0, 0.52),
            row("mse:only=b", 89.7, 0.9),
            row("mse:float=b", 88.1, 0.8),
            row("mse:only=c", 90.2, 0.9),
            row("mse:float=all", 90.0, 0.51),  # of somebody's own choice: no layer
            row("mse:float=a,b", 90.0, 0.51),
        ],
        "refused": {"mse:float=c": "no"},
    }
    rows = layer_rows(results, "mse")
    assert [(one["layer"], one["alone"], one["without"]) for one in rows] == [
        ("a", pytest.approx(1.0), pytest.approx(1.0)),
        ("b", pytest.approx(0.3), pytest.approx(0.1)),
        ("c", pytest.approx(-0.2), None),
    ]
    assert rows[0]["ms"] == pytest.approx(0.02)
    assert rows[2]["refused"] == "no"
    # Losses 1.0 and 0.2: half of them may stay only where a is in FP16; a twentieth only where both are.
    assert plans(rows, (0.5, 0.2, 0.05)) == [("a",), ("a", "b")]
    with pytest.raises(DataError, match="--each-layer"):
        layer_rows(results, "percentile")


def test_judgements_give_the_same_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = StoredRun(tmp_path)
    truth = [made(12, i) for i in range(30)]
    run.save_frames(
        [FrameResult(f"f{i}", Boxes3D.empty(), t) for i, t in enumerate(truth)], [str(i) for i in range(30)]
    )
    for name, error in (("fp16", 0.3), ("mse", 0.9)):
        moved = []
        for i, boxes in enumerate(truth):
            rng = np.random.default_rng([i, int(10 * error)])
            values = boxes.boxes.copy()
            values[:, :2] += rng.normal(0, error, (12, 2)).astype(np.float32)
            moved.append(Boxes3D(values, np.round(boxes.scores, 1), boxes.labels))
        run.save_detections(name, moved)
    write_results(run, ["fp16", "mse"], CLASSES, 100)
    (_, results) = json.loads((tmp_path / "results.json").read_text())["variants"]
    path = tmp_path / "judged.npz.xz"
    write_judged(run, ["fp16", "mse"], CLASSES, path)
    judged = Judged.read(path)
    assert judged.scenes == tuple(run.scenes())
    assert main([str(path), "--resamples", "100"]) == 0
    table = capsys.readouterr().out
    cells = [line.split("|")[2:5] for line in table.splitlines() if " m |" in line or "| total |" in line]
    for cell, part in zip(cells, ("0-20 m", "20-35 m", "35-51 m", "total"), strict=True):
        wanted = [
            results["difference"][part],
            *(results["cells"].get(part, results["difference_by_class"])[c] for c in CLASSES),
        ]
        for text, want in zip(cell, wanted, strict=True):
            numbers = [float(number) for number in text.replace("[", "").replace("]", "").replace(",", "").split()]
            assert numbers == pytest.approx([want["difference"], want["low"], want["high"]], abs=6e-4)
    assert main([str(path), "--pair", "fp16", "max"]) == 2
    assert "There is no variant 'max'" in capsys.readouterr().err


def test_no_judgements(tmp_path: Path) -> None:
    path = tmp_path / "judged.npz.xz"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="holds no judgements"):
        Judged.read(path)


LAYERS = ("pts_backbone.blocks.0.3", "pts_backbone.blocks.1.0", "pts_neck.deblocks.2.0")
# Points of AP lost and milliseconds won with each of them in INT8, as the pretended engine has them.
LOST = dict(zip(LAYERS, (0.5, 0.25, 0.0), strict=True))
SAVED_MS = dict(zip(LAYERS, (0.1, 0.3, 0.2), strict=True))


class Pretended(Detector):
    """Finds the objects, of which it misses the share that its layers in INT8 cost."""

    def __init__(self, quantized: set[str], truth: Boxes3D) -> None:
        super().__init__(None, "pretended", "cpu", TRAINING_DECODER)  # type: ignore[arg-type]
        self._lost, self._truth = sum(LOST[layer] for layer in quantized), truth
        self._ms = 1.0 - sum(SAVED_MS[layer] for layer in quantized)

    def detect(self, points: NDArray[np.float32]) -> Inference:
        kept = np.arange(len(self._truth)) >= self._lost * len(self._truth)
        found = self._truth.select(kept)
        boxes = Boxes3D(found.boxes, np.linspace(0.9, 0.8, len(found), dtype=np.float32), found.labels)
        return Inference(boxes, None, {"backbone_neck_head": self._ms}, 1.0, VoxelCounts())

    def _release(self) -> None:
        pass


def test_a_search_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer both ways, then the plans by what was measured; a second run does nothing again."""
    from benchmarks import int8_accuracy, int8_accuracy_prepared
    from benchmarks.int8_accuracy_variants import Variants
    from datasets.frames import open_frames
    from datasets.synthetic.dataset_writer import DatasetConfig, generate
    from models.config import load_model_config

    data, out = tmp_path / "t4", tmp_path / "out"
    generate(DatasetConfig({"train": 1, "val": 1}, frames_per_scene=1, seed=5, sweeps=1), data, workers=1)
    frame = open_frames(load_model_config(Path("configs/model/centerpoint_t4_demo.py")), "val", str(data))[0]
    seen = frame.ground_truth.labels >= 0
    near = np.hypot(frame.ground_truth.boxes[:, 0], frame.ground_truth.boxes[:, 1]) < 50.0
    truth = frame.ground_truth.select(seen & near)
    asked: list[str] = []

    def layers(_variants: Variants) -> tuple[str, ...]:
        asked.append("layers")
        return LAYERS

    def export(_prepared: object, names: list[str]) -> None:
        asked.extend(names)
        for name in names:
            (out / "models" / file_name(name)).mkdir(parents=True)

    def opened(_engines: Engines, folder: Path) -> Detector:
        if folder.name == "percentile:only=pts_backbone.blocks.1.0":
            raise ExportError("no kernel")
        if folder.name == block:
            return Pretended(set(LAYERS[1:]), truth)
        variant = parse_variant(folder.name) if folder.name != "fp16" else None
        quantized = set(variant.only or set(LAYERS) - set(variant.floating)) if variant else set()
        return Pretended(quantized, truth)

    monkeypatch.setattr(Variants, "layers", layers)
    monkeypatch.setattr(int8_accuracy_prepared.Prepared, "export_all", export)
    monkeypatch.setattr(Engines, "open", opened)
    options = ["--data-root", str(data), "--calibrate-batches", "1", "--resamples", "100", "--backend", "cuda"]
    block = "percentile:float=pts_backbone.blocks.0"
    options += ["--methods", "percentile", block, "--each-layer", "percentile", "--plans", "0.5", "0.4", "0", "1"]
    options += ["--workers", "1", "--output", str(out)]
    assert int8_accuracy.main(options) == 0
    rows = {row["layer"]: row for row in json.loads((out / "layers.json").read_text())["layers"]}
    assert tuple(rows) == LAYERS
    assert rows[LAYERS[1]]["refused"] == "no kernel"
    assert rows[LAYERS[1]]["alone"] is None
    for layer in LAYERS:
        assert rows[layer]["ms"] == pytest.approx(SAVED_MS[layer], abs=1e-4)
    assert rows[LAYERS[0]]["alone"] > 20.0
    assert rows[LAYERS[2]]["alone"] == pytest.approx(0.0)
    results = json.loads((out / "results.json").read_text())
    found = {row["method"]: row for row in results["variants"]}
    # The dear layer first; where less may stay, the second one, too. All of the loss may stay: no layer, no plan.
    first, both = f"percentile:float={LAYERS[0]}", f"percentile:float={LAYERS[0]},{LAYERS[1]}"
    assert set(found) == {"fp16", "percentile", block, both, *(f"percentile:float={layer}" for layer in LAYERS)} | {
        f"percentile:only={layer}" for layer in (LAYERS[0], LAYERS[2])
    }
    assert found[both]["network_ms"]["median"] == pytest.approx(0.8, abs=1e-4)
    assert found[both]["difference"]["total"]["difference"] == pytest.approx(0.0)
    assert found[first]["difference"]["total"]["difference"] < -5.0
    before = len(asked)
    assert int8_accuracy.main(options) == 0
    assert asked[before:] == []
    assert json.loads((out / "results.json").read_text()) == results


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "mse", "--plans", "0.5"], "give both"),
        (["--methods", "mse", "--each-layer", "mse", "--plans", "0.5", "--stages", "report"], "give both"),
        (["--methods", "mse", "--each-layer", "mse", "--plans", "0.5"], "which --backend cuda takes; it is 'onnx'"),
        (
            ["--methods", "max", "--each-layer", "mse", "--plans", "0.5", "--backend", "cuda"],
            "name 'mse' in --methods, too",
        ),
    ],
)
def test_plans_that_cannot_be_chosen(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import int8_accuracy

    assert int8_accuracy.main(["--data-root", str(tmp_path), "--output", str(tmp_path / "out"), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
