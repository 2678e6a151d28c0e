"""How a float model becomes a quantized one: the words for it, and one value that holds all choices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from quant.reconstruction.settings import ReconstructionSettings

__all__ = [
    "ACTIVATION_METHODS",
    "DEFAULT_ENGINE",
    "ENGINES",
    "PTQ_METHODS",
    "WEIGHT_METHODS",
    "ActivationMethod",
    "Engine",
    "PtqMethod",
    "PtqSettings",
    "WeightMethod",
]

Engine = Literal["pytorch_quantization", "modelopt"]
ActivationMethod = Literal["max", "percentile", "mse", "entropy", "sparse_mse"]
WeightMethod = Literal["max", "mse"]
PtqMethod = Literal["calibrate", "bias_correction", "lidar_ptq"]

ENGINES: tuple[Engine, ...] = get_args(Engine)
ACTIVATION_METHODS: tuple[ActivationMethod, ...] = get_args(ActivationMethod)
WEIGHT_METHODS: tuple[WeightMethod, ...] = get_args(WeightMethod)
PTQ_METHODS: tuple[PtqMethod, ...] = get_args(PtqMethod)
DEFAULT_ENGINE: Engine = "pytorch_quantization"


@dataclass(frozen=True)
class PtqSettings:
    """Every choice of a post-training quantization. `quant.ptq.run_ptq` checks the words; here they are as given.

    Attributes:
        num_batches: Calibration batches at most; all but a data loader's are one frame each.
        amax_method: How activations' ranges are chosen (`ACTIVATION_METHODS`; `quant.calibration.amax`).
        weight_method: How weights' ranges are chosen (`WEIGHT_METHODS`).
        fuse_bn: Fold BatchNorm into the convolutions; the integer graph has none. Off for training afterwards.
        skip_layers: Module paths and patterns of layers that stay in floating point.
        method: "calibrate"; "bias_correction": then make every channel's mean right; "lidar_ptq": then also learn
            roundings, biases and activation scales block by block (`quant.reconstruction`).
        engine: Of the quantizers (`ENGINES`).
        equalize: Bring the channels of each activation to one range first (`quant.equalization`); None: with
            "lidar_ptq" alone.
        calib_cache: File of scales: used where it exists, else written.
        any_cache: Take the scales of `calib_cache`, which must exist, whatever methods it was made with.
        reconstruction: Settings of "lidar_ptq".
    """

    num_batches: int = 100
    amax_method: str = "mse"
    weight_method: str = "mse"
    fuse_bn: bool = True
    skip_layers: tuple[str, ...] = ()
    method: str = "calibrate"
    engine: str = DEFAULT_ENGINE
    equalize: bool | None = None
    calib_cache: Path | None = None
    any_cache: bool = False
    reconstruction: ReconstructionSettings | None = None

    @property
    def equalizes(self) -> bool:
        """Whether channels are brought to one range first."""
        return self.method == "lidar_ptq" if self.equalize is None else self.equalize
