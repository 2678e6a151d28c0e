"""The captured step without a GPU: what a CUDA graph may not hold, and that fixed buffers change nothing.

The graph itself is CUDA's. What it asks of a step is tested here: nothing in it waits for the device or has a size that
data decide, and a training that reads inputs, outputs and gradients from buffers which every iteration overwrites (as
`torch.cuda.make_graphed_callables` has them) is the training without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from models.build import build_model
from models.config import load_model_config
from models.spec import ModelSpec
from training.on_device import loop
from training.on_device.augmentation import Augmentation
from training.on_device.batches import Batch, make_batch
from training.on_device.dense import Dense, captured
from training.on_device.frames import FrameStore, PackedFrame
from training.on_device.losses import batch_losses

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "model" / "centerpoint_t4_demo.py"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The demo's, 25.6 m wide: 80 × 80 pillars."""
    text = CONFIG.read_text()
    assert "point_cloud_range = [-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]" in text
    text = text.replace("[-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]", "[-12.8, -12.8, -3.0, 12.8, 12.8, 5.0]")
    text = text.replace("320, 320", "80, 80")
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(text.replace('"./', f'"{CONFIG.parent}/'))
    return load_model_config(path)


@pytest.fixture(scope="module")
def spec(cfg: Any) -> ModelSpec:
    found = ModelSpec.from_config(cfg)
    assert found.grid_size == (80, 80)
    return found


def store() -> FrameStore:
    """Three frames of points on and around two boxes."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(3):
        codes = np.zeros((3000, 5), np.int16)
        codes[:, :3] = rng.uniform((-4000, -4000, -400), (4000, 4000, 800), (3000, 3))
        codes[:, 3] = rng.integers(0, 1000, 3000)
        boxes = np.zeros((2, 9), np.float32)
        boxes[:, :2], boxes[:, 3:6] = rng.uniform(-8, 8, (2, 2)), (4.0, 2.0, 1.5)
        frames.append(PackedFrame(codes, boxes, np.array([0, 3], np.int64)))
    return FrameStore([frames], [1.0], CPU, 0)


class WaitsError(AssertionError):
    """An operation that a graph cannot hold."""


_BY_NUMBERS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose")
_BY_SIZES = ("nonzero", "masked_select", "unique_consecutive", "_unique", "_unique2", "unique_dim", "bincount")
_REFUSED = {f"aten::{name}" for name in (*_BY_NUMBERS, *_BY_SIZES, "repeat_interleave")}
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what makes the host wait for numbers, or a size depend on them."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().partition(".")[0]
        indices = args[1] if name in _INDEXED else ()
        if name in _REFUSED or any(isinstance(item, torch.Tensor) and item.dtype == torch.bool for item in indices):
            raise WaitsError(name)
        return func(*args, **(kwargs or {}))


class NoReading(TorchFunctionMode):
    """Refuses what reads a processor's memory without any operation."""

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__):
            raise WaitsError(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    with NoReading(), NoWaiting():  # type: ignore[no-untyped-call]
        yield


@pytest.mark.parametrize(
    "what",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: x.masked_select(x > 0),
        lambda x: x.sum().tolist(),
        lambda x: torch.unique(x),
        lambda x: x.__setitem__(x > 0, 0.0),
        lambda x: float(x.max()),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: x.cpu(),
    ],
)
def test_what_waits_is_refused(what: Callable[[torch.Tensor], Any]) -> None:
    with no_waiting(), pytest.raises(WaitsError):
        what(torch.arange(4.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_in_the_step_waits(cfg: Any, spec: ModelSpec, dtype: torch.dtype) -> None:
    model: Any = build_model(cfg, 0).train()
    head = model.pts_bbox_head
    batch: Batch = make_batch(
        store(), 2, np.random.default_rng(0), Augmentation(), spec, head.train_cfg, model.pts_voxel_encoder
    )
    weights = torch.tensor(head.train_cfg["code_weights"])
    with no_waiting():
        canvas = loop.canvas_of(model, batch, spec).to(dtype)
        heads = Dense(model)(canvas)
        heatmap_loss, box_loss = batch_losses(heads, batch.targets, weights, 0.25)
        (heatmap_loss + box_loss).backward()  # type: ignore[no-untyped-call]
    missing = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    # Biases in front of a batch normalization learn nothing; everything else does.
    assert all(name.endswith("bias") for name in missing), missing


class Overwritten(torch.autograd.Function):
    """One run of a module on its fixed input; outputs and gradients go to fixed memory, too."""

    @staticmethod
    def forward(ctx: Any, buffers: Any, canvas: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert (canvas.shape, canvas.dtype) == (buffers.canvas.shape, buffers.canvas.dtype)
        assert canvas.stride() == buffers.canvas.stride(), "a copy between layouts would be made in every iteration"
        ctx.buffers = buffers
        buffers.canvas.data.copy_(canvas)
        with torch.enable_grad():
            buffers.found = buffers.module(buffers.canvas)
        for fixed, value in zip(buffers.outputs, buffers.found, strict=True):
            fixed.copy_(value.detach())
        return tuple(fixed.detach() for fixed in buffers.outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        buffers = ctx.buffers
        found = torch.autograd.grad(buffers.found, (buffers.canvas, *buffers.parameters), grads)
        for fixed, value in zip(buffers.grads, found, strict=True):
            fixed.copy_(value)
        return (None, *(fixed.detach() for fixed in buffers.grads))


class Fixed:
    """`torch.cuda.make_graphed_callables` with buffers in place of graphs; as there, three runs warm it up."""

    def __init__(self, module: nn.Module, sample: tuple[torch.Tensor]) -> None:
        self.module, (self.canvas,) = module, sample
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for _ in range(3):
            found = module(self.canvas)
            torch.autograd.grad(found, (self.canvas, *self.parameters), [torch.ones_like(value) for value in found])
        self.found = found
        self.outputs = [torch.full_like(value, torch.nan).detach() for value in found]
        self.grads = [torch.full_like(value, torch.nan).detach() for value in (self.canvas, *self.parameters)]

    def __call__(self, canvas: torch.Tensor) -> Any:
        return Overwritten.apply(self, canvas, *self.parameters)  # type: ignore[no-untyped-call]


def trained(cfg: Any, spec: ModelSpec, capture: bool) -> tuple[nn.Module, list[loop.Progress]]:
    model = build_model(cfg, 0)
    reports: list[loop.Progress] = []
    schedule = loop.Schedule(3, 1.0, batch_size=2, rot_weight=4.0, capture=capture, log_interval=1)
    assert loop.train(model, spec, store(), schedule, Augmentation(), reports.append) == 3
    return model, reports


def test_fixed_buffers_change_nothing(cfg: Any, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, wanted = trained(cfg, spec, False)
    made: list[Fixed] = []

    def make(module: nn.Module, sample: tuple[torch.Tensor]) -> Fixed:
        made.append(Fixed(module, sample))
        return made[-1]

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    monkeypatch.setattr(loop, "can_capture", lambda device: True)
    graphed, found = trained(cfg, spec, True)
    assert len(made) == 1
    for one, other in zip(wanted, found, strict=True):
        for field in ("heatmap_loss", "box_loss", "rot_loss", "grad_norm", "rate"):
            assert getattr(one, field) == getattr(other, field), field
    assert wanted[0].heatmap_loss != wanted[-1].heatmap_loss
    state = graphed.state_dict()
    for name, value in eager.state_dict().items():
        assert torch.equal(value, state[name]), name  # running statistics too: the warm-up left nothing behind


def test_capture_needs_a_device_with_graphs(cfg: Any, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(module: nn.Module, sample: tuple[torch.Tensor]) -> Fixed:
        raise AssertionError("captured on a processor")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    trained(cfg, spec, True)


def test_captured_heads_have_their_names(cfg: Any, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", Fixed)
    dense = Dense(build_model(cfg, 0).train())
    canvas = torch.randn(1, spec.canvas_shape[1], 80, 80)
    before = {name: value.clone() for name, value in dense.named_buffers()}
    heads = captured(dense, canvas)
    for name, value in dense.named_buffers():
        assert torch.equal(value, before[name]), name
    first = {name: value.clone() for name, value in heads(canvas).items()}
    assert set(first) == {head.name for head in spec.heads}
    for head in spec.heads:
        assert first[head.name].shape[1] == head.channels
