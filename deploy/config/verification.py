"""Keys of `verification` in a deploy configuration; part of `deploy.config.schema`."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from base.parsing import Items, NonEmptyStr, NonNegativeFloat, PositiveInt, Share, Text
from deploy.config.names import Backend
from deploy.config.settings import STRICT, Section, setting

__all__ = ["BoxLimitsConfig", "Scenario", "ScenariosConfig", "VerificationConfig"]

Tolerance = NonNegativeFloat | dict[NonEmptyStr, NonNegativeFloat] | None


@dataclass(frozen=True, config=STRICT)
class Scenario(Section):
    """One comparison: a backend under test against its reference."""

    ref_backend: Backend = setting(..., "Reference.")
    test_backend: Backend = setting(..., "Backend under test.")
    ref_device: Text = setting("cpu", "Device of the reference.")
    test_device: Text = setting("cpu", "Device of the backend under test.")


_TORCH_ONNX = Scenario("pytorch", "onnx", "cpu", "cpu")
_ONNX_TENSORRT = Scenario("onnx", "tensorrt", "cpu", "cuda")


@dataclass(frozen=True, config=STRICT)
class ScenariosConfig(Section):
    """The comparisons of each mode."""

    both: Items[Scenario] = setting((_TORCH_ONNX, _ONNX_TENSORRT), "Comparisons in mode `both`.")
    onnx: Items[Scenario] = setting((_TORCH_ONNX,), "Comparisons in mode `onnx`.")
    trt: Items[Scenario] = setting((_ONNX_TENSORRT,), "Comparisons in mode `trt`.")
    none: Items[Scenario] = setting((), "Comparisons in mode `none`.")


@dataclass(frozen=True, config=STRICT)
class BoxLimitsConfig(Section):
    """When the boxes of two backends agree; unset values are the defaults of the precision."""

    min_score: Share | None = setting(None, "Boxes below it on both sides are not judged.")
    max_center_m: NonNegativeFloat | None = setting(None, "Farthest that the centres of a matched pair lie apart.")
    search_radius_m: NonNegativeFloat | None = setting(
        None, "A box without a partner of its class within this distance is lost or gained."
    )
    min_matched_share: NonNegativeFloat | None = setting(
        None, "Least share of matched boxes among matched, moved, lost and gained; at most 1."
    )


@dataclass(frozen=True, config=STRICT)
class VerificationConfig(Section):
    """Backends against their reference, on real frames."""

    enabled: bool = setting(True, "Run the comparisons of the mode.")
    tolerance: Tolerance = setting(
        None,
        "Largest absolute difference allowed: a number for every output, or a table output -> number. Unset: the "
        "defaults per output and precision, whose reasons stand in `eval/`.",
    )
    relative_l2: Tolerance = setting(
        None,
        "Largest relative L2 difference allowed, in place of that default: a number for every output, or a table "
        "output -> number.",
    )
    boxes: BoxLimitsConfig = setting(BoxLimitsConfig, "When decoded boxes agree.")
    debug_divergence: bool = setting(
        False,
        "After a failed comparison, find by bisection the node at which each output begins to differ, and name its "
        "weights (`--debug-divergence`).",
    )
    num_verify_samples: PositiveInt = setting(5, "Frames to compare.")
    devices: dict[NonEmptyStr, Text] = setting(
        dict, "Device names for the scenarios, over those of the top-level `devices`."
    )
    scenarios: ScenariosConfig = setting(ScenariosConfig, "Comparisons by export mode.")
