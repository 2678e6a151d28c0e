"""Calibration on a GPU: histograms equal the processor's, and the peers' own CUDA path gives our amax."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quant.calibration.amax import amax_entropy, amax_mse
from quant.calibration.calibrator import CalibrationManager
from quant.calibration.histogram import AbsHistogram
from quant.modules.quant_conv import QuantConv2d
from tests.quant.first_batch import FirstBatchHistogram

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def values(seed: int, count: int = 3_000_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, torch.zeros(()), x.exp().clamp_max(40.0))


def test_histograms_equal_the_processors() -> None:
    host, device = AbsHistogram(), AbsHistogram()
    for seed in range(3):
        host.observe(values(seed) * (seed + 1))
        device.observe((values(seed) * (seed + 1)).cuda())
    assert (host.exponent, host.zeros, host.max) == (device.exponent, device.zeros, device.max)
    np.testing.assert_array_equal(host.counts, device.counts)


def test_mse_and_entropy_equal_the_cuda_path_of_pytorch_quantization() -> None:
    calib = pytest.importorskip("pytorch_quantization.calib")
    for num_bins, method, ours in ((2048, "mse", amax_mse), (320, "entropy", amax_entropy)):
        peer = calib.HistogramCalibrator(8, None, False, num_bins=num_bins)
        histogram = FirstBatchHistogram(num_bins)
        for seed in range(2):
            # Below 2**24 values: the peer counts in float32.
            x = values(seed, 1_000_003).cuda()
            peer.collect(x.clone())
            histogram.observe(x)
        assert ours(histogram.counts, histogram.edges) == float(peer.compute_amax(method))


def test_a_model_on_the_gpu() -> None:
    torch.manual_seed(0)
    model = QuantConv2d.from_float(torch.nn.Conv2d(3, 4, 3))
    frames = [torch.randn(1, 3, 32, 32) for _ in range(2)]
    CalibrationManager(model).calibrate(frames, workers=1, progress=False)
    on_host = model.input_quantizer.scale.clone()
    model.cuda()
    CalibrationManager(model).calibrate(frames, progress=False)
    assert model.input_quantizer.scale.is_cuda
    assert torch.equal(model.input_quantizer.scale.cpu(), on_host)
