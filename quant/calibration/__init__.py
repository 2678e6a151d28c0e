"""Calibration: from activations and weights to scales.

Observe once, choose later: `CalibrationManager` fills one integer histogram a quantizer in a single pass over the
frames, and every method of `amax` works on the histogram. Nothing depends on the order of the frames, on threads or on
the number of processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from quant.calibration.amax import compute_amax
    from quant.calibration.batches import CalibrationFrame, CalibrationFrames, calibration_batches, dataloader_batches
    from quant.calibration.calibrator import CalibrationManager
    from quant.calibration.chart import CalibrationChart, calibration_chart
    from quant.calibration.histogram import AbsHistogram
    from quant.calibration.observation import ActivationStatistics
    from quant.calibration.result import CalibrationResult, QuantizerCalibration
    from quant.calibration.weights import weight_amax

__all__ = [
    "AbsHistogram",
    "ActivationStatistics",
    "CalibrationChart",
    "CalibrationFrame",
    "CalibrationFrames",
    "CalibrationManager",
    "CalibrationResult",
    "QuantizerCalibration",
    "calibration_batches",
    "calibration_chart",
    "compute_amax",
    "dataloader_batches",
    "weight_amax",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "AbsHistogram": "histogram",
        "ActivationStatistics": "observation",
        "CalibrationChart": "chart",
        "CalibrationFrame": "batches",
        "CalibrationFrames": "batches",
        "CalibrationManager": "calibrator",
        "CalibrationResult": "result",
        "QuantizerCalibration": "result",
        "calibration_batches": "batches",
        "calibration_chart": "chart",
        "compute_amax": "amax",
        "dataloader_batches": "batches",
        "weight_amax": "weights",
    },
)
