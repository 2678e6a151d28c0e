"""The node's decode and the folded convention on 50 frames: outputs of the trained demo model on generated scans."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.spec import ModelSpec
from runtime.autoware_params import AutowareDecodeParams
from runtime.autoware_postprocess import decode_autoware
from runtime.decode import decode
from tests.runtime.autoware_transcription import Outputs, assert_same, in_node_convention, transcribed

CONFIG = "configs/model/centerpoint_t4_demo.py"
CHECKPOINT = "models/zoo/centerpoint_t4_demo/checkpoint.pth"
NUM_FRAMES = 50
# Every so many frames the folded model runs from the points on; on the others it shares the features of the plain one.
WHOLE_EVERY = 10
HEADS = "pts_bbox_head.task_heads."


@dataclasses.dataclass(frozen=True)
class Detector:
    """The trained model with its frames, and the outputs of each: as trained, and with the convention folded in."""

    spec: ModelSpec
    node_spec: ModelSpec
    frames: list[Any]
    pipelines: tuple[Any, Any]
    models: tuple[Any, Any]

    def outputs(self) -> Iterator[tuple[Outputs, Outputs]]:
        """Frame by frame."""
        import torch

        features: list[Any] = []
        heads, folded_heads = (model.pts_bbox_head.task_heads[0] for model in self.models)
        heads.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        for index, frame in enumerate(self.frames):
            plain = dict(self.pipelines[0](frame.points).outputs)
            with torch.no_grad():
                folded = {name: value.numpy() for name, value in folded_heads(features.pop()).items()}
            assert not features
            if index % WHOLE_EVERY == 0:
                whole = self.pipelines[1](frame.points).outputs
                assert folded.keys() == whole.keys()
                assert all(np.array_equal(folded[name], value) for name, value in whole.items())
            yield plain, folded


def narrow(cfg: Any) -> None:
    """A strip, 102.4 m long and half as wide: half of the network's time, and the node's limit of 50 m within."""
    old, limits = list(cfg.point_cloud_range), [-51.2, -25.6, -3.0, 51.2, 25.6, 5.0]
    model = cfg.model
    for part in (model.data_preprocessor.voxel_layer, model.pts_voxel_encoder, model.train_cfg.pts):
        assert part.point_cloud_range == old
        part.point_cloud_range = limits
    model.pts_middle_encoder.output_shape = [160, 320]
    model.train_cfg.pts.grid_size = [320, 160, 1]
    model.pts_bbox_head.bbox_coder.pc_range = limits
    model.test_cfg.pts.pc_range = limits[:2]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    import torch

    from datasets.frames import open_frames
    from datasets.synthetic.dataset_writer import DatasetConfig, generate
    from export.rotation import fold_rot_y_axis_reference
    from models.build import build_model, load_checkpoint
    from models.components import extract_components
    from models.config import load_model_config
    from runtime.backends import open_backend
    from runtime.pipeline import Pipeline

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("scans") / "data"
    generate(DatasetConfig({"val": NUM_FRAMES // 5}, 5, 3), root, 1)  # a frame is the next one's sweep
    cfg = load_model_config(Path(CONFIG))
    narrow(cfg)
    spec = ModelSpec.from_config(cfg)
    model = build_model(cfg)
    load_checkpoint(model, Path(CHECKPOINT))
    folded, node_spec = fold_rot_y_axis_reference(copy.deepcopy(model), spec)
    trained, turned = model.state_dict(), folded.state_dict()
    assert trained.keys() == turned.keys()
    assert {name[: len(HEADS)] for name in trained if not torch.equal(trained[name], turned[name])} == {HEADS}
    frames = open_frames(cfg, "val", str(root))
    with (
        open_backend("pytorch", spec=spec, device="cpu", components=extract_components(model, spec)) as plain,
        open_backend("pytorch", spec=node_spec, device="cpu", components=extract_components(folded, spec)) as other,
    ):
        pipelines = Pipeline(spec, plain), Pipeline(node_spec, other)
        yield Detector(spec, node_spec, [frames[index] for index in range(NUM_FRAMES)], pipelines, (model, folded))


def test_both_decodes_on_50_frames(detector: Detector) -> None:
    """Against the transcription: the same boxes to the bit. Folded or not: the same boxes, in both decodes."""
    usual = AutowareDecodeParams.from_spec(detector.spec)
    assert len(detector.frames) == NUM_FRAMES
    counts = {"usual": 0, "any": 0, "training": 0}
    labels: set[int] = set()
    worst: dict[str, float] = {}
    fold = 0.0
    for plain, folded in detector.outputs():
        converted = in_node_convention(plain)
        for name, params in (("usual", usual), ("any", usual.with_score_threshold(detector.spec.score_threshold))):
            expected = transcribed(converted, detector.spec, params)
            ours = decode_autoware(plain, detector.spec, params)
            found = assert_same(ours, expected)
            worst = {kind: max(value, worst.get(kind, 0.0)) for kind, value in found.items()}
            node = decode_autoware(folded, detector.node_spec, params)
            assert node.labels.tolist() == ours.labels.tolist()
            if len(ours):
                fold = max(fold, float(np.abs(node.boxes - ours.boxes).max()))
            counts[name] += len(ours)
            labels |= set(ours.labels.tolist())
        trained, turned = decode(plain, detector.spec), decode(folded, detector.node_spec)
        assert turned.labels.tolist() == trained.labels.tolist()
        fold = max(fold, float(np.abs(turned.boxes - trained.boxes).max()) if len(trained) else 0.0)
        counts["training"] += len(trained)
    print(f"boxes {counts}, largest differences {worst}, with and without folding {fold:g}")  # noqa: T201
    assert counts["usual"] > 500
    assert labels >= {1, 2, 3, 6, 7}
    assert fold == 0.0
