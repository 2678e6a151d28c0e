"""One block: its roundings, biases and activation scales learned together, then fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from base.progress import progress
from quant.quantizer.base import Quantizer
from quant.reconstruction.activation import LearnedScale
from quant.reconstruction.blocks import Block, quantized_layers
from quant.reconstruction.rounding import AdaptiveRounding, sharpness

if TYPE_CHECKING:
    from torch import Tensor

    from quant.reconstruction.settings import ReconstructionSettings

__all__ = ["BlockTraining", "Objective"]

_DECIDED = 0.4

# (windows, step) -> the loss of the block on these windows; with the task's part where the step asks for it.
Objective = Callable[["Tensor", bool], "Tensor"]


@dataclass(frozen=True, eq=False)
class _Layer:
    layer: Any
    quantizer: Quantizer
    rounding: AdaptiveRounding


class BlockTraining:
    """Puts learnable stand-ins in the place of a block's quantizers; `commit` or `revert` takes them out again."""

    def __init__(self, block: Block, settings: ReconstructionSettings, fixed: set[int]) -> None:
        """Starts from the block's present weights and scales.

        Args:
            block: Of the quantized model, calibrated.
            settings: Steps and learning rates.
            fixed: `id` of the quantizers that belong to earlier blocks; their scales stay. This block's are added.
        """
        self.block = block
        self._settings = settings
        self._layers = [
            _Layer(
                layer,
                layer.weight_quantizer,
                AdaptiveRounding(layer.weight, layer.weight_quantizer.scale, layer.weight_axis),
            )
            for _, layer in quantized_layers(block.module)
        ]
        self._biases = [item.layer.bias for item in self._layers if item.layer.bias is not None]
        self._saved = [(bias, bias.detach().clone()) for bias in self._biases]
        self._inputs: dict[int, tuple[Quantizer, LearnedScale]] = {}
        self._places: list[tuple[Any, Quantizer]] = []
        for module in block.module.modules():
            quantizer = getattr(module, "input_quantizer", None)
            if isinstance(quantizer, Quantizer) and getattr(module, "quantized", True):
                trainable = id(quantizer) not in fixed and settings.scale_lr > 0
                self._inputs.setdefault(id(quantizer), (quantizer, LearnedScale(quantizer.scale, trainable=trainable)))
                self._places.append((module, quantizer))
        fixed.update(self._inputs)

    @property
    def is_empty(self) -> bool:
        """Whether nothing in the block is quantized."""
        return not self._layers

    def train(self, objective: Objective, windows: int, label: str) -> None:
        """Learns; the stand-ins are in place afterwards, with soft roundings."""
        settings = self._settings
        self._insert()
        scales = [item.log_ratio for _, item in self._inputs.values() if item.log_ratio.requires_grad]
        roundings = [item.rounding.logits for item in self._layers]
        for bias in self._biases:
            bias.requires_grad_(True)
        groups = [{"params": roundings, "lr": settings.rounding_lr}]
        # A bias moves in units of its layer's output, whose size its weights' and inputs' scales tell.
        groups += [
            {"params": [bias], "lr": settings.bias_lr * float(bias.detach().abs().mean().clamp_min(1e-3))}
            for bias in self._biases
        ]
        groups += [{"params": scales, "lr": settings.scale_lr}] if scales else []
        optimizer = torch.optim.Adam(groups)
        generator = torch.Generator().manual_seed(settings.seed)
        for step in progress(range(settings.iterations), label, unit="step"):
            share = step / settings.iterations
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * (1.0 if share < 0.5 else max(2.0 * (1.0 - share), 0.05))
            chosen = torch.randperm(windows, generator=generator)[: settings.batch_size]
            loss = objective(chosen, step % settings.task_interval == 0)
            exponent = sharpness(share)
            if exponent is not None:
                undecided = torch.stack([item.rounding.undecided(exponent) for item in self._layers]).mean()
                loss = loss + settings.rounding_weight * undecided
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()

    def undecided_share(self) -> float:
        """Share of the weights whose soft rounding is not within a tenth of a choice: what `commit` will change."""
        with torch.no_grad():
            open_ = [(item.rounding.choice() - 0.5).abs().flatten() < _DECIDED for item in self._layers]
            return float(torch.cat(open_).double().mean())

    def commit(self) -> None:
        """Makes every choice and writes weights and scales into the block; its quantizers are back in place."""
        self._remove()
        with torch.no_grad():
            for item in self._layers:
                item.layer.weight.copy_(item.rounding.rounded())
            for quantizer, learned in self._inputs.values():
                if learned.log_ratio.requires_grad:
                    quantizer.set_scale(learned.scale.detach())

    def revert(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `commit` did; `state` is the block's state dict of before."""
        self.block.module.load_state_dict(dict(state))

    def _insert(self) -> None:
        for item in self._layers:
            item.layer.weight_quantizer = item.rounding
        for module, quantizer in self._places:
            module.input_quantizer = self._inputs[id(quantizer)][1]

    def _remove(self) -> None:
        for item in self._layers:
            item.layer.weight_quantizer = item.quantizer
        for module, quantizer in self._places:
            module.input_quantizer = quantizer
        for bias in self._biases:
            bias.requires_grad_(False)
            bias.grad = None
