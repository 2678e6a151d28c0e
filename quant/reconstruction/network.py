"""Block by block, the quantized network is made to follow the float one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from base.errors import DataError
from quant.bias_correction import correct_block
from quant.fixed_threads import fixed_threads
from quant.reconstruction.blocks import CANVAS, Block, partition, quantized_layers, run_blocks
from quant.reconstruction.losses import TaskLoss, cell_weights, joined_heatmaps, local_loss, task_loss
from quant.reconstruction.settings import ReconstructionSettings
from quant.reconstruction.training import BlockTraining

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BlockError", "BlockResult", "reconstruct"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockError:
    """Error of a quantized block on the windows that were not trained on.

    Attributes:
        local: Weighted squared error of its outputs over their variance.
        heatmap: Squared error of the scores when the rest of the network is float.
        regression: Absolute error of the regressed values at detections, likewise.
    """

    local: float
    heatmap: float
    regression: float

    def relative_to(self, other: BlockError, task_weight: float) -> float:
        """The objective, in which `other` has 1 + `task_weight`."""
        task = (self.heatmap / max(other.heatmap, 1e-12) + self.regression / max(other.regression, 1e-12)) / 2.0
        return self.local / max(other.local, 1e-12) + task_weight * task


@dataclass(frozen=True)
class BlockResult:
    """What became of a block.

    Attributes:
        path: Module path.
        before: Its error with weights rounded to nearest.
        after: With learned roundings, biases and scales.
        undecided: Share of the weights whose rounding training left between the choices.
        kept: Whether the learned ones were kept: only where they lower the objective.
        seconds: Time it took.
    """

    path: str
    before: BlockError
    after: BlockError
    undecided: float
    kept: bool
    seconds: float


def reconstruct(
    model: nn.Module, reference: nn.Module, windows: Tensor, threshold: float, settings: ReconstructionSettings
) -> tuple[BlockResult, ...]:
    """Learns roundings, biases and activation scales of a calibrated model, in place, on windows of canvases.

    Block by block from the input on: a block's inputs come from the quantized blocks before it, its targets from the
    float network, and the task loss runs the rest of the network in floating point. Afterwards the weights lie
    on the grids of their scales.

    Args:
        model: Quantized and calibrated.
        reference: The same model in floating point, BatchNorm folded as in `model`.
        windows: (N, C, cells, cells), as `quant.reconstruction.windows` cuts them.
        threshold: Score above which the float model's heatmap cells are detections.
        settings: How long, and with which weights.

    Returns:
        One result per block that has quantized layers.

    Raises:
        DataError: too few windows to train on some and judge by others.
    """
    held_out = max(1, round(len(windows) * settings.held_out))
    if len(windows) - held_out < 1:
        raise DataError(
            f"{len(windows)} windows are too few to reconstruct on: some are trained on, others judge. Give "
            "more frames."
        )
    with fixed_threads(settings.threads), _frozen(model), _frozen(reference):
        run = _Run(model, reference, windows, threshold, settings, len(windows) - held_out)
        return tuple(run.blocks())


class _Run:
    """Activations of all windows at the present block, float and quantized."""

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        windows: Tensor,
        threshold: float,
        settings: ReconstructionSettings,
        num_train: int,
    ) -> None:
        self._settings = settings
        self._threshold = threshold
        self._device = next(model.parameters()).device
        self._quantized, self._float = partition(model), partition(reference)
        self._train = num_train
        self._all = torch.arange(len(windows))
        self._fixed: set[int] = set()
        self._tensors_q: dict[str, Tensor] = {CANVAS: windows}
        self._tensors_f: dict[str, Tensor] = {CANVAS: windows}
        self._heads = self._forward(self._float, self._tensors_f)
        heatmaps = joined_heatmaps(self._heads)
        self._weights = torch.cat(
            [
                cell_weights(
                    windows[batch],
                    heatmaps[batch],
                    threshold,
                    settings.background_weight,
                    settings.foreground_weight,
                )
                for batch in torch.split(self._all, settings.batch_size)
            ]
        )

    def blocks(self) -> Iterator[BlockResult]:
        for index, (block, twin) in enumerate(zip(self._quantized, self._float, strict=True)):
            targets = self._forward([twin], self._tensors_f)
            started = time.monotonic()
            training = BlockTraining(block, self._settings, self._fixed)
            if not training.is_empty:
                result = self._reconstruct(index, block, training, targets, started)
                _logger.info(
                    "%s: error %.4g -> %.4g, scores %.4g -> %.4g, boxes %.4g -> %.4g%s, %.1f %% undecided, %.0f s",
                    *(
                        result.path,
                        result.before.local,
                        result.after.local,
                        result.before.heatmap,
                        result.after.heatmap,
                    ),
                    *(result.before.regression, result.after.regression, "" if result.kept else " (not kept)"),
                    100.0 * result.undecided,
                    result.seconds,
                )
                yield result
            outputs = self._forward([block], self._tensors_q)
            needed = {name for later in self._quantized[index + 1 :] for name in later.inputs}
            for tensors, new in ((self._tensors_f, targets), (self._tensors_q, outputs)):
                tensors.update(new)
                for name in set(tensors) - needed:
                    del tensors[name]

    def _reconstruct(
        self, index: int, block: Block, training: BlockTraining, targets: Mapping[str, Tensor], started: float
    ) -> BlockResult:
        settings = self._settings
        judged = self._all[self._train :]
        state = {key: value.detach().clone() for key, value in block.module.state_dict().items()}
        before = self._error(index, targets, judged)
        scale = BlockError(*(max(value, 1e-12) for value in (before.local, before.heatmap, before.regression)))

        def objective(chosen: Tensor, with_task: bool) -> Tensor:
            outputs = self._outputs(index, chosen)
            loss = (
                local_loss(outputs, self._pick(targets, chosen), self._weights[chosen].to(self._device)) / scale.local
            )
            if with_task and settings.task_weight > 0:
                task = self._task(index, outputs, chosen)
                both = task.heatmap / scale.heatmap + task.regression / scale.regression
                loss = loss + settings.task_weight * both / 2.0
            return loss

        training.train(objective, self._train, f"reconstructing {block.path}")
        undecided = training.undecided_share()
        training.commit()
        if all(layer.bias is not None for _, layer in quantized_layers(block.module)):
            # Choices that were still open move the channels' means when they are made.
            correct_block(block, self._float[index], self._tensors_q, self._tensors_f)
        after = self._error(index, targets, judged)
        kept = after.relative_to(before, settings.task_weight) < 1.0 + settings.task_weight
        if not kept:
            training.revert(state)
        return BlockResult(block.path, before, after, undecided, kept, time.monotonic() - started)

    def _error(self, index: int, targets: Mapping[str, Tensor], chosen: Tensor) -> BlockError:
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in torch.split(chosen, 1):
            with torch.no_grad():
                outputs = self._outputs(index, batch)
                local = local_loss(outputs, self._pick(targets, batch), self._weights[batch].to(self._device))
                task = self._task(index, outputs, batch)
            sums += torch.stack([local, task.heatmap, task.regression]).double().cpu()
        return BlockError(*(sums / len(chosen)).tolist())

    def _outputs(self, index: int, chosen: Tensor) -> dict[str, Tensor]:
        block = self._quantized[index]
        return block.run({name: self._tensors_q[name][chosen].to(self._device) for name in block.inputs})

    def _task(self, index: int, outputs: Mapping[str, Tensor], chosen: Tensor) -> TaskLoss:
        rest = self._float[index + 1 :]
        read = {name for block in rest for name in block.inputs}
        earlier = {name: value[chosen].to(self._device) for name, value in self._tensors_q.items() if name in read}
        found = run_blocks(rest, {**earlier, **outputs})
        return task_loss(found, self._pick(self._heads, chosen), self._threshold)

    def _pick(self, tensors: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
        return {name: value[chosen].to(self._device) for name, value in tensors.items()}

    def _forward(self, blocks: Sequence[Block], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the last of `blocks` for all windows, on the host."""
        parts: dict[str, list[Tensor]] = {name: [] for name in blocks[-1].outputs}
        with torch.no_grad():
            for batch in torch.split(self._all, self._settings.batch_size):
                given = {name: tensors[name][batch].to(self._device) for name in blocks[0].inputs}
                found = run_blocks(blocks, given)
                for name, items in parts.items():
                    items.append(found[name].cpu())
        return {name: torch.cat(items) for name, items in parts.items()}


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient, and BatchNorm and the like are in evaluation mode."""
    training = model.training
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in asked:
            parameter.requires_grad_(True)
