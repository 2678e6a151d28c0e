"""How far apart two backends' tensors are, and how far is too far.

Where the default tolerances come from. A convolution sums K products (K = 9 × 256 = 2304 in the largest layer here).
Rounding to a format with unit roundoff u, errors of a sum behave like a random walk: relative to the sum's size they
are about sqrt(K) · u when every partial sum is rounded, and about u when only operands are. Over L (about 20) layers in
a row they add like sqrt(L).

* fp32: u = 2^-24, partial sums rounded in another order: 6e-8 · sqrt(2304) · sqrt(20) = 1.3e-5. Measured between
  PyTorch and ONNX Runtime on a CPU: 1.3e-6, since both sum in blocks. Limit 2e-5. The sign of one single weight of a
  backbone convolution, turned, gives 1e-3.
* fp32_tf32 and fp16: operands have 11 significant bits, u = 2^-11, sums are kept in FP32: 4.9e-4 · sqrt(20) = 2.2e-3;
  weights and activations are both rounded, which is sqrt(2) more, 3.1e-3. Measured between PyTorch in
  FP32 and ONNX Runtime in FP16: 1.8e-3. Limit 1e-2, three times the estimate.

* int8: the same quantized network on two engines, on equal inputs. Sums of integers are exact; what differs is the
  rounding of an activation that lies on the border of two codes, an error of a whole step, for the share p of
  activations that lie that close. With float parts in FP16 an activation of typical size (25 steps) errs by 25 · 4.9e-4
  = 0.012 steps, so p is about 0.02, and the error relative to the activation sqrt(0.02) / 25 = 6e-3 a layer; over 20
  layers 2.5e-2. Measured between fake-quantized PyTorch and ONNX Runtime: 0.01 to 0.02. Limit 8e-2. `rot` and `vel`
  hold noise around zero where there is no object; measured 0.1 and 0.13, limit 0.25. A wrong scale of one layer gives
  0.5 and more. The voxel encoder stays in floating point. A quantized network against the float one is a question of
  accuracy, for the gates.

The limits on single elements are shares of the reference's range, about ten standard deviations of the same estimate.
The heatmap is judged on scores, sigmoid(logit), rather than logits: far below the score threshold an error of a logit
changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base.errors import ConfigError
from models.spec import PILLAR_FEATURES, branch_of

__all__ = ["HEATMAP", "PRECISIONS", "TensorComparator", "TensorComparison", "Tolerance", "default_tolerances"]

HEATMAP = "heatmap"


@dataclass(frozen=True)
class Tolerance:
    """Limits for one output; None does not limit. Values at a limit pass.

    Attributes:
        relative_l2: |test − reference| over |reference|, both as Euclidean norms over all compared elements.
        max_abs_share: Largest difference of an element, as a share of the reference's range.
        max_score_error: Largest difference of a score, for the heatmap.
        max_abs: Largest difference of an element in the output's own unit.
    """

    relative_l2: float | None = None
    max_abs_share: float | None = None
    max_score_error: float | None = None
    max_abs: float | None = None


_TENSOR = {
    "fp32": Tolerance(relative_l2=2e-5, max_abs_share=2e-4),
    "fp32_tf32": Tolerance(relative_l2=1e-2, max_abs_share=3e-2),
    "fp16": Tolerance(relative_l2=1e-2, max_abs_share=3e-2),
    "int8": Tolerance(relative_l2=8e-2, max_abs_share=2.5e-1),
}
_HEATMAP = {
    "fp32": Tolerance(relative_l2=2e-5, max_score_error=1e-4),
    "fp32_tf32": Tolerance(relative_l2=1e-2, max_score_error=3e-2),
    "fp16": Tolerance(relative_l2=1e-2, max_score_error=3e-2),
    "int8": Tolerance(relative_l2=8e-2, max_score_error=2.5e-1),
}
# Outputs with limits of their own.
_OF_OUTPUT = {
    ("int8", PILLAR_FEATURES): _TENSOR["fp16"],
    ("int8", "rot"): Tolerance(relative_l2=2.5e-1, max_abs_share=5e-1),
    ("int8", "vel"): Tolerance(relative_l2=2.5e-1, max_abs_share=5e-1),
}
PRECISIONS = tuple(_TENSOR)


def default_tolerances(
    precision: str,
    outputs: Iterable[str],
    absolute: float | Mapping[str, float] | None = None,
    relative_l2: float | Mapping[str, float] | None = None,
) -> dict[str, Tolerance]:
    """Limits for every output.

    Args:
        precision: Of the backend under test; one of `PRECISIONS`.
        outputs: Names of the outputs to judge.
        absolute: Limits on the largest absolute difference that take the place of the defaults: for all outputs, or
            for those named.
        relative_l2: Limits on the relative L2 difference that take the place of that default, in the same two forms;
            the default on single elements stays.

    Raises:
        ConfigError: an unknown output, a limit that is not positive, or a precision without defaults where some are
            needed.
    """
    names = list(outputs)
    own = _limits(absolute, names, "tolerance")
    relative = _limits(relative_l2, names, "relative_l2")
    if precision not in PRECISIONS and len(own) < len(names):
        raise ConfigError(
            f"there are no default tolerances for precision '{precision}', only for {', '.join(PRECISIONS)}; "
            "set verification.tolerance"
        )
    result = {}
    for name in names:
        if name in own:
            result[name] = Tolerance(max_abs=own[name])
        else:
            table = _HEATMAP if branch_of(name) == HEATMAP else _TENSOR
            result[name] = _OF_OUTPUT.get((precision, branch_of(name)), table[precision])
        if name in relative:
            result[name] = dataclasses.replace(result[name], relative_l2=relative[name])
    return result


def _limits(value: float | Mapping[str, float] | None, names: list[str], what: str) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        limits = dict.fromkeys(names, float(value))
    else:
        unknown = sorted(set(value) - set(names))
        if unknown:
            raise ConfigError(f"{what} names unknown outputs {unknown}; the outputs are {names}")
        limits = {name: float(limit) for name, limit in value.items()}
    for name, limit in limits.items():
        if not limit > 0.0:
            raise ConfigError(f"{what} of output '{name}' is {limit}; it must be above 0")
    return limits


@dataclass(frozen=True)
class TensorComparison:
    """Differences of one output over all compared frames. Elements that are not finite on a side enter only the counts.

    Attributes:
        name: The output.
        elements: Elements compared.
        max_abs: Largest absolute difference.
        mean_abs: Mean absolute difference.
        relative_l2: |test − reference| over |reference|; infinite where only the reference is zero.
        cosine: Of the angle between both, 1 for equal directions.
        reference_min: Smallest value of the reference.
        reference_max: Largest value of the reference.
        nonfinite_reference: NaN and infinite elements of the reference.
        nonfinite_test: NaN and infinite elements of the backend under test.
        max_score_error: Largest difference of sigmoid(logit), for the heatmap.
        worst_frame: Token of the frame with `max_abs`.
    """

    name: str
    elements: int
    max_abs: float
    mean_abs: float
    relative_l2: float
    cosine: float
    reference_min: float
    reference_max: float
    nonfinite_reference: int
    nonfinite_test: int
    max_score_error: float | None
    worst_frame: str

    @property
    def reference_range(self) -> float:
        """Span of the reference, or its largest magnitude where that is larger (a constant output)."""
        low, high = self.reference_min, self.reference_max
        return max(high - low, abs(low), abs(high))

    def violations(self, tolerance: Tolerance) -> tuple[str, ...]:
        """What is beyond the tolerance, in words; empty if all is well."""
        found = []
        if self.elements == 0:
            found.append(f"{self.name}: no element was compared")
        for count, side in ((self.nonfinite_reference, "reference"), (self.nonfinite_test, "tested backend")):
            if count:
                found.append(f"{self.name}: {count} values of the {side} are NaN or infinite")
        share = tolerance.max_abs_share
        limits = (
            ("relative L2 difference", self.relative_l2, tolerance.relative_l2, ""),
            (
                "largest difference",
                self.max_abs,
                None if share is None else max(share * self.reference_range, 1e-6),
                f" ({share:g} of the reference's range)" if share is not None else "",
            ),
            ("largest score difference", self.max_score_error, tolerance.max_score_error, ""),
            ("largest difference", self.max_abs, tolerance.max_abs, ""),
        )
        for what, value, limit, note in limits:
            if limit is not None and (value is None or not value <= limit):
                shown = "not measured" if value is None else f"{value:.3g}"
                found.append(
                    f"{self.name}: {what} {shown} is above {limit:.3g}{note}, worst in frame '{self.worst_frame}'"
                )
        return tuple(found)


class TensorComparator:
    """Compares one output frame by frame without keeping the tensors."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._elements = 0
        self._sums = np.zeros(4)  # |reference|², |test|², |difference|², reference · test
        self._sum_abs = 0.0
        self._max_abs = 0.0
        self._range = (math.inf, -math.inf)
        self._nonfinite = [0, 0]
        self._max_score_error: float | None = None
        self._worst = ""

    def add(self, reference: NDArray[np.float32], test: NDArray[np.float32], frame: str) -> None:
        """Adds one frame.

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != test.shape:
            raise ValueError(f"{self.name}: shape {test.shape} of the tested backend differs from {reference.shape}")
        a, b = reference.astype(np.float64).ravel(), test.astype(np.float64).ravel()
        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        self._nonfinite[0] += int((~finite_a).sum())
        self._nonfinite[1] += int((~finite_b).sum())
        both = finite_a & finite_b
        a, b = a[both], b[both]
        if not a.size:
            return
        difference = np.abs(b - a)
        self._elements += a.size
        self._sums += [a @ a, b @ b, difference @ difference, a @ b]
        self._sum_abs += float(difference.sum())
        self._range = (min(self._range[0], float(a.min())), max(self._range[1], float(a.max())))
        if self._worst == "" or difference.max() > self._max_abs:
            self._max_abs, self._worst = float(difference.max()), frame
        if branch_of(self.name) == HEATMAP:
            error = float(np.abs(_sigmoid(b) - _sigmoid(a)).max())
            self._max_score_error = max(error, self._max_score_error or 0.0)

    def result(self) -> TensorComparison:
        """The comparison over all frames so far."""
        reference, test, difference, dot = (float(value) for value in self._sums)
        scale = math.sqrt(reference)
        relative = math.sqrt(difference) / scale if scale else (math.inf if difference else 0.0)
        norms = scale * math.sqrt(test)
        cosine = dot / norms if norms > 0 else (1.0 if reference == test else 0.0)
        low, high = self._range if self._elements else (math.nan, math.nan)
        return TensorComparison(
            self.name,
            self._elements,
            self._max_abs,
            self._sum_abs / self._elements if self._elements else math.nan,
            relative if self._elements else math.nan,
            cosine if self._elements else math.nan,
            low,
            high,
            self._nonfinite[0],
            self._nonfinite[1],
            self._max_score_error,
            self._worst,
        )


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = 1.0 / (1.0 + np.exp(-np.abs(logits)))
    return np.where(logits >= 0, positive, 1.0 - positive)
