"""The sections of `benchmarks.gpu`: each measures something and adds it to the results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import BackendUnavailable, UserError
from base.lazy import require
from benchmarks.gpu_cloud import lidar_cloud
from benchmarks.gpu_end_to_end import Mmdet3dPredict, OurFrame, points_to_boxes
from benchmarks.gpu_engine import CachingDevice, Engine, layer_times, relative_errors, throughput
from benchmarks.gpu_frames import FrameEngine, frames_section, kinds_of_frames
from benchmarks.gpu_layers import device_of, layer_rows
from benchmarks.gpu_peers import PEERS, PeerInputs, exact_outputs, prepare_peer
from benchmarks.gpu_timing import Contender, EventClock, Timing, host_clock, interleave, ratio
from eval.codec import to_json
from eval.machine import MachineInfo
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.plan import NetworkPlan

__all__ = ["OURS", "PREDICTORS", "SECTIONS", "Bench", "Settings", "benchmark_canvas"]

OURS = {"int8": "ours, INT8", "fp16": "ours, FP16"}
PREDICTORS = {"mmdet3d": "mmdet3d predict, TF32", "mmdet3d-amp": "mmdet3d predict, FP16 autocast"}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        rounds: Turns of every contender.
        runs: Timed runs of the network in a turn.
        frames: Timed frames of a turn from points to boxes.
        points: Of the cloud.
        peer_limit_s: Seconds in which a peer must be ready, and that it may be timed for.
        streams: Numbers of networks at a time.
        peers: Keys of `PEERS` and `PREDICTORS`.
    """

    rounds: int
    runs: int
    frames: int
    points: int
    peer_limit_s: float
    streams: tuple[int, ...]
    peers: tuple[str, ...]


@dataclass(eq=False)
class Bench:
    """What the sections share.

    Attributes:
        spec: The model.
        settings: How much is measured.
        folders: Precision -> folder of its ONNX files.
        model: The stock model, on the GPU.
        cloud: (N, C) float32 points.
        device: Ours.
        stream: Everything but the points-to-boxes section runs on it.
        index: Of the device.
        skipped: Contender -> why it did not run; sections add to it.
    """

    spec: ModelSpec
    settings: Settings
    folders: Mapping[str, Path]
    model: nn.Module
    cloud: NDArray[np.float32]
    device: CudaDevice
    stream: int
    index: int
    skipped: dict[str, str] = field(default_factory=dict)
    _plans: dict[str, NetworkPlan] = field(default_factory=dict)
    _engines: dict[str, Engine] = field(default_factory=dict)
    _canvas: Any = None

    @classmethod
    def open(
        cls, model_config: Path, checkpoint: str | None, folders: Mapping[str, Path], settings: Settings, device: str
    ) -> Bench:
        """Builds the model and brings it to the GPU.

        Raises:
            BackendUnavailable: there is no GPU, or torch has none.
            UserError: wrong files.
        """
        from models.build import build_model, load_checkpoint
        from models.config import load_model_config
        from models.spec import ModelSpec
        from runtime.backends.base import device_index

        model_cfg = load_model_config(model_config)
        spec = ModelSpec.from_config(model_cfg)
        index = device_index(device)
        if index is None:
            raise BackendUnavailable("--device is 'cpu', and this measures GPUs.")
        gpu = CachingDevice.open(index)
        torch = require("torch", "to run the PyTorch peers")
        if not torch.cuda.is_available():
            raise BackendUnavailable(f"torch {torch.__version__} finds no CUDA device.")
        model = build_model(model_cfg)
        if checkpoint:
            load_checkpoint(model, checkpoint)
        # The fastest that torch has by its own settings: algorithms chosen by timing, TF32 in every product.
        # `build_model` asks for the opposite, for the sake of repeatable artifacts.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = True
        cloud = lidar_cloud(settings.points, spec.point_columns)
        return cls(spec, settings, folders, model.cuda(index), cloud, gpu, gpu.create_stream(), index)

    @contextmanager
    def torch_stream(self) -> Iterator[Any]:
        """torch with our stream as its current one, so that one clock serves all."""
        torch = require("torch", "to run the PyTorch peers")
        with torch.cuda.stream(torch.cuda.ExternalStream(self.stream, device=f"cuda:{self.index}")):
            yield torch
            torch.cuda.synchronize()

    @property
    def canvas(self) -> Any:
        """(1, C, H, W) float32 tensor on the GPU: the cloud's pillars, encoded by the stock model."""
        if self._canvas is None:
            self._canvas, pillars = benchmark_canvas(self.model, self.spec, self.cloud)
            _logger.info("%d points make %d pillars", len(self.cloud), pillars)
        return self._canvas

    def plan(self, precision: str) -> NetworkPlan:
        """Of the ONNX file."""
        if precision not in self._plans:
            from runtime.cuda_engine.from_onnx import plan_from_onnx

            path = self.folders[precision] / f"{BACKBONE_NECK_HEAD}.onnx"
            self._plans[precision] = plan_from_onnx(path, self.spec)
        return self._plans[precision]

    def engines(self) -> dict[str, Engine]:
        """Precision -> engine, without those that do not run here (see `skipped`)."""
        with self.torch_stream():
            canvas = self.canvas[0].cpu().numpy()
        for precision in OURS:
            if precision in self._engines or f"cuda-{precision}" in self.skipped:
                continue
            try:
                self._engines[precision] = Engine.load(self.device, self.stream, self.plan(precision), canvas)
            except (BackendUnavailable, UserError) as reason:
                self.skip(f"cuda-{precision}", reason)
        return self._engines

    def frame_engines(self) -> dict[str, FrameEngine]:
        """Precision -> the same engine, skipping empty tiles, on frames of several kinds."""
        height, width = self.canvas.shape[2:]
        frames = kinds_of_frames((height, width), float(self.spec.voxel_size[0]))
        canvas = self.canvas[0].cpu().numpy()
        return {
            precision: FrameEngine.load(self.device, self.stream, self.plan(precision), canvas, frames)
            for precision in self.engines()
        }

    def skip(self, key: str, reason: BaseException) -> None:
        """Notes why a contender does not run."""
        _logger.info("%s: SKIPPED, %s", key, reason)
        self.skipped[key] = str(reason)


def benchmark_canvas(model: nn.Module, spec: ModelSpec, cloud: NDArray[np.float32]) -> tuple[Any, int]:
    """(1, C, H, W) float32 tensor on the model's device, and the number of pillars on it."""
    from models.components import extract_components
    from runtime.preprocess import preprocess
    from runtime.scatter import scatter

    torch = require("torch", "to encode the cloud's pillars")
    frame = preprocess(cloud, spec)
    device = next(model.parameters()).device
    with torch.inference_mode():
        features, cells = (torch.from_numpy(value).to(device) for value in (frame.features, frame.coords))
        encoded = extract_components(model, spec)[VOXEL_ENCODER](features)
        return scatter(encoded, cells, spec), len(frame)


def measure_networks(bench: Bench, results: dict[str, Any]) -> None:
    """Backbone, neck and head of everyone, the canvas in device memory, the outputs too."""
    from models.components import extract_components

    settings = bench.settings
    engines = bench.engines()
    with bench.torch_stream():
        module = extract_components(bench.model, bench.spec)[BACKBONE_NECK_HEAD]
        inputs = PeerInputs(module, bench.canvas, bench.spec, bench.folders["fp16"], bench.stream)
        exact = {name: tensor.cpu().numpy()[0] for name, tensor in exact_outputs(inputs).items()}
        contenders = [Contender(f"cuda-{name}", OURS[name], engine.run) for name, engine in engines.items()]
        errors = {}
        for name, engine in engines.items():
            engine.run()
            errors[f"cuda-{name}"] = relative_errors(engine.outputs(), exact)
        for key in (key for key in PEERS if key in settings.peers):
            try:
                run = prepare_peer(key, inputs, settings.peer_limit_s)
                tensors = zip(bench.spec.heads, run(), strict=True)
                found = {head.name: tensor.float().cpu().numpy()[0] for head, tensor in tensors}
                errors[key] = relative_errors(found, exact)
            except (BackendUnavailable, UserError, ValueError) as reason:
                bench.skip(key, reason)
                continue
            contenders.append(Contender(key, PEERS[key].label, run))
            _logger.info("%s is ready", key)
        frames = bench.frame_engines()
        skipping = [item for key, engine in frames.items() for item in engine.contenders(key, OURS[key])]
        clock = EventClock(bench.device, bench.stream, settings.runs)
        timings = interleave(
            [*contenders, *skipping], clock, rounds=settings.rounds, runs=settings.runs, limit_s=settings.peer_limit_s
        )
    results["machine"] = to_json(MachineInfo.current())
    every = {contender.key: timings[contender.key] for contender in contenders}
    results["networks"] = {**_timed(every), "relative_errors": errors}
    results["frames"] = frames_section(frames, timings)


def measure_layers(bench: Bench, results: dict[str, Any]) -> None:
    """Each launch of ours against the roofline."""
    peaks = device_of(bench.device.name)
    sections = {}
    for precision, engine in bench.engines().items():
        rows = layer_rows(engine.network.plan, layer_times(engine), peaks)
        whole = EventClock(bench.device, bench.stream, 200)(engine.run, 200)
        rooflines = [row.roofline_us for row in rows if row.roofline_us is not None]
        sections[precision] = {
            "rows": to_json(rows),
            "in_order_us": sum(row.in_order_us for row in rows),
            "repeated_us": sum(row.repeated_us for row in rows),
            "whole_us": sorted(whole)[len(whole) // 2] * 1e3,
            "roofline_us": sum(rooflines) if peaks is not None else None,
        }
    results["layers"] = {"gpu": bench.device.name, "peaks": to_json(peaks), "precisions": sections}


def measure_end_to_end(bench: Bench, results: dict[str, Any]) -> None:
    """Points on the host to boxes on the host, by the host's clock."""
    settings = bench.settings
    frames: dict[str, OurFrame] = {}
    stages: dict[str, dict[str, float]] = {}
    contenders: list[Contender] = []
    boxes: dict[str, int] = {}
    try:
        for precision, label in OURS.items():
            try:
                frame = points_to_boxes(bench.spec, bench.folders[precision], f"cuda:{bench.index}")
            except (BackendUnavailable, UserError) as reason:
                bench.skip(f"points to boxes, {label}", reason)
                continue
            frames[precision] = frame
            found = frame.detector(bench.cloud)
            boxes[f"cuda-{precision}"] = len(found.detections)
            contenders.append(Contender(f"cuda-{precision}", label, _on_cloud(frame.detector, bench.cloud)))
        for key, label in PREDICTORS.items():
            if key not in settings.peers:
                continue
            try:
                predict = Mmdet3dPredict(bench.model, autocast=key.endswith("amp"))
                boxes[key] = len(predict(bench.cloud).scores_3d)
            except (RuntimeError, TypeError, UserError) as reason:
                bench.skip(key, reason)
                continue
            stages[key] = predict.stages_ms(bench.cloud)
            contenders.append(Contender(key, label, _on_cloud(predict, bench.cloud)))
        timings = interleave(
            contenders, host_clock, rounds=settings.rounds, runs=settings.frames, limit_s=settings.peer_limit_s
        )
        for precision, frame in frames.items():
            stages[f"cuda-{precision}"] = frame.stages_ms(bench.cloud)
    finally:
        for frame in frames.values():
            frame.detector.close()
    from runtime.preprocess import preprocess

    pillars = preprocess(bench.cloud, bench.spec)
    results["end_to_end"] = {
        **_timed(timings),
        "points": len(bench.cloud),
        "pillars": len(pillars),
        "dropped_pillars": pillars.counts.dropped_voxels,
        "boxes": boxes,
        # Pairs: a JSON object forgets their order.
        "stages_ms": [{"key": key, "stages": list(found.items())} for key, found in stages.items()],
    }


def measure_throughput(bench: Bench, results: dict[str, Any]) -> None:
    """Several networks on one GPU."""
    engines = bench.engines()
    with bench.torch_stream():
        canvas = bench.canvas[0].cpu().numpy()
    rows: list[Any] = []
    for precision in engines:
        rows += throughput(precision, bench.device, bench.plan(precision), canvas, bench.settings.streams)
    results["throughput"] = to_json(rows)


SECTIONS: dict[str, Callable[[Bench, dict[str, Any]], None]] = {
    "networks": measure_networks,
    "layers": measure_layers,
    "end-to-end": measure_end_to_end,
    "throughput": measure_throughput,
}


def _on_cloud(run: Callable[[NDArray[np.float32]], Any], cloud: NDArray[np.float32]) -> Callable[[], Any]:
    return lambda: run(cloud)


def _timed(timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Timings, and the ratio of every peer to each of ours."""
    ours: Sequence[str] = [key for key in timings if key.startswith("cuda-")]
    ratios = [ratio(timings, peer, own) for own in ours for peer in timings if peer not in ours]
    return {"timings": to_json(list(timings.values())), "ratios": to_json(ratios)}
