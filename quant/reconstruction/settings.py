"""How long and on how much data a reconstruction works."""

from __future__ import annotations

from dataclasses import dataclass

from base.errors import ConfigError

__all__ = ["ReconstructionSettings"]


@dataclass(frozen=True)
class ReconstructionSettings:
    """Settings of `quant.reconstruction.reconstruct`.

    Attributes:
        frames: Calibration frames that windows are cut from; others only calibrate.
        windows_per_frame: Windows of the canvas per frame.
        window_cells: Side of a window in heatmap cells, a multiple of 32.
        held_out: Share of the windows that is not trained on; a block must get better on them to be kept.
        iterations: Steps per block.
        batch_size: Windows per step.
        rounding_lr: Adam's step of the rounding variables.
        bias_lr: Adam's step of the biases, in units of the scale of the layer's output.
        scale_lr: Adam's step of log(scale) of the activations; 0 leaves the calibrated scales.
        rounding_weight: Weight of the term that drives every rounding variable to 0 or 1.
        task_weight: Weight of the task loss against the block's own.
        task_interval: The task loss, which runs the rest of the network, is added every so many steps.
        background_weight: Weight of a cell without points, where one with points weighs 1.
        foreground_weight: Weight of a cell at a detection of the float model.
        threads: Of torch; sums depend on how they are split, so that a fixed number keeps the result the same.
        seed: Of the choice of windows and of the order of steps.
    """

    frames: int = 32
    windows_per_frame: int = 2
    window_cells: int = 64
    held_out: float = 0.125
    iterations: int = 300
    batch_size: int = 1
    rounding_lr: float = 5e-2
    bias_lr: float = 2e-3
    scale_lr: float = 2e-4
    rounding_weight: float = 300.0
    task_weight: float = 1.0
    task_interval: int = 4
    background_weight: float = 0.1
    foreground_weight: float = 4.0
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("frames", "windows_per_frame", "iterations", "batch_size", "task_interval", "threads")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"reconstruction: {name} is {getattr(self, name)}; give 1 or more.")
        if self.window_cells < 32 or self.window_cells % 32:
            raise ConfigError(f"reconstruction: window_cells is {self.window_cells}; give a multiple of 32.")
        if not 0.0 < self.held_out < 1.0:
            raise ConfigError(f"reconstruction: held_out is {self.held_out}; give a share between 0 and 1.")
