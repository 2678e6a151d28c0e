"""What else runs backbone, neck and head on a GPU: PyTorch in several ways, and ONNX Runtime."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from base.errors import BackendUnavailable
from base.lazy import require
from models.spec import BACKBONE_NECK_HEAD, SPATIAL_FEATURES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.spec import ModelSpec

__all__ = ["PEERS", "Peer", "PeerInputs", "exact_outputs", "half_channels_last", "prepare_peer", "time_limit"]

# What a peer gives: a call that runs the network once on the current stream and returns its outputs in graph order.
Run = Callable[[], "tuple[Tensor, ...]"]


@dataclass(frozen=True, eq=False)
class PeerInputs:
    """What the peers are made from.

    Attributes:
        module: `models.components.BackboneNeckHead` in float32, on the device of the canvas; peers copy it.
        canvas: (1, C, H, W) float32.
        spec: The model.
        onnx_dir: Folder of the FP16 files.
        stream: Address of the stream that runs are timed on, for ONNX Runtime.
    """

    module: nn.Module
    canvas: Tensor
    spec: ModelSpec
    onnx_dir: Path
    stream: int = 0


@dataclass(frozen=True)
class Peer:
    """A way to run the network.

    Attributes:
        label: Name in tables.
        prepare: Makes the call that is timed.
    """

    label: str
    prepare: Callable[[PeerInputs], Run]


class _TimeUp(BaseException):
    """No `Exception`: a compiler that survives failed candidates must not survive this."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stops what runs inside, at the next Python instruction of the main thread.

    Raises:
        BackendUnavailable: the time was up.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _TimeUp

    previous = signal.signal(signal.SIGALRM, stop)
    # Again and again: where the exception is raised in a finalizer, Python drops it.
    signal.setitimer(signal.ITIMER_REAL, seconds, 2.0)
    try:
        yield
    except _TimeUp:
        raise BackendUnavailable(f"not ready after {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def prepare_peer(key: str, inputs: PeerInputs, limit_s: float) -> Run:
    """The peer's call, which has run once.

    Raises:
        BackendUnavailable: it does not run here, or was not ready in time.
        MissingDependencyError: its package is missing.
    """
    with time_limit(limit_s):
        try:
            run = PEERS[key].prepare(inputs)
            run()
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, OSError, ImportError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise BackendUnavailable(f"{type(error).__name__}: {lines[0]}") from error
    return run


def exact_outputs(inputs: PeerInputs) -> dict[str, Tensor]:
    """Output name -> float32 tensor, computed in full float32: what every result is compared with."""
    torch = require("torch", "to run the PyTorch peers")
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        outputs = inputs.module(inputs.canvas)
    return {head.name: tensor.float() for head, tensor in zip(inputs.spec.heads, outputs, strict=True)}


def half_channels_last(inputs: PeerInputs, *, fold: bool = False) -> tuple[nn.Module, Tensor]:
    """Copies of network and canvas in float16 and channels-last memory.

    Args:
        fold: Fold every batch normalization into its convolution first.
    """
    torch = require("torch", "to run the PyTorch peers")
    module = copy.deepcopy(inputs.module)
    if fold:
        from quant.fusion import fuse_model_bn

        module = fuse_model_bn(module)
    half: nn.Module = module.half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return half, inputs.canvas.half().to(memory_format=torch.channels_last)


def _caller(module: nn.Module, canvas: Tensor) -> Run:
    torch = require("torch", "to run the PyTorch peers")

    def run() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            outputs: tuple[Tensor, ...] = module(canvas)
        return outputs

    return run


def _eager_tf32(inputs: PeerInputs) -> Run:
    return _caller(inputs.module, inputs.canvas)


def _eager_fp16(inputs: PeerInputs) -> Run:
    return _caller(*half_channels_last(inputs))


def _graph_fp16(inputs: PeerInputs) -> Run:
    return _captured(_caller(*half_channels_last(inputs)))


def _graph_folded(inputs: PeerInputs) -> Run:
    return _captured(_caller(*half_channels_last(inputs, fold=True)))


def _compiled(mode: str | None) -> Callable[[PeerInputs], Run]:
    def prepare(inputs: PeerInputs) -> Run:
        torch = require("torch", "to run the PyTorch peers")
        module, canvas = half_channels_last(inputs)
        compiled = torch.compile(module, mode=mode, fullgraph=False, dynamic=False)
        return _captured(_caller(compiled, canvas))

    return prepare


def _captured(run: Run) -> Run:
    """The call as a replay of one CUDA graph: neither Python nor the copy of its input is in the measured time."""
    torch = require("torch", "to run the PyTorch peers")
    if not torch.cuda.is_available():
        raise BackendUnavailable("a CUDA graph needs a CUDA device")
    for _ in range(3):  # compiles, chooses algorithms
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    # The capture ran on a stream of its own; the replays go to the current one.
    torch.cuda.synchronize()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return replay


def _onnxruntime(inputs: PeerInputs) -> Run:
    ort = require("onnxruntime", "to run the ONNX Runtime peer")
    torch = require("torch", "to run the PyTorch peers")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise BackendUnavailable(f"onnxruntime {ort.__version__} here has no CUDA provider (onnxruntime-gpu has)")
    index = inputs.canvas.device.index or 0
    options = {"device_id": index, "user_compute_stream": str(inputs.stream), "cudnn_conv_algo_search": "EXHAUSTIVE"}
    session = ort.InferenceSession(
        str(inputs.onnx_dir / f"{BACKBONE_NECK_HEAD}.onnx"), providers=[("CUDAExecutionProvider", options)]
    )
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise BackendUnavailable("onnxruntime's CUDA provider did not load")
    binding, outputs = session.io_binding(), []
    canvas = inputs.canvas.contiguous()
    float32 = require("numpy", "to run the ONNX Runtime peer").float32
    binding.bind_input(SPATIAL_FEATURES, "cuda", index, float32, tuple(canvas.shape), canvas.data_ptr())
    for head in inputs.spec.heads:
        output = torch.empty(inputs.spec.head_shape(head), device=canvas.device)
        binding.bind_output(head.name, "cuda", index, float32, tuple(output.shape), output.data_ptr())
        outputs.append(output)
    run_options = ort.RunOptions()
    run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run() -> tuple[Tensor, ...]:
        assert canvas.is_contiguous()  # and alive: the binding holds its address alone
        session.run_with_iobinding(binding, run_options)
        return tuple(outputs)

    return run


PEERS = {
    "torch-tf32": Peer("torch eager, TF32", _eager_tf32),
    "torch-fp16": Peer("torch eager, FP16 channels-last", _eager_fp16),
    "torch-fp16-graph": Peer("torch FP16 channels-last, CUDA graph", _graph_fp16),
    "torch-fp16-folded-graph": Peer("torch FP16 channels-last, BatchNorm folded, CUDA graph", _graph_folded),
    # "reduce-overhead" is the default mode in a CUDA graph that copies its input; this one has its input in place.
    "torch-compile": Peer("torch.compile FP16, default mode, CUDA graph", _compiled(None)),
    "torch-compile-autotune": Peer(
        "torch.compile FP16, max-autotune, CUDA graph", _compiled("max-autotune-no-cudagraphs")
    ),
    "onnxruntime": Peer("ONNX Runtime CUDA, FP16 file", _onnxruntime),
}
