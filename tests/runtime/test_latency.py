"""Latency summaries against the definition of a percentile."""

from __future__ import annotations

import pytest

from runtime.latency import TOTAL, LatencyRecorder, LatencyStats


def test_percentiles_of_one_to_hundred_and_one() -> None:
    stats = LatencyStats.from_samples([float(v) for v in reversed(range(1, 102))])
    # 101 samples: the p-th percentile lies exactly on sample p + 1.
    assert (stats.count, stats.mean, stats.p50, stats.p90, stats.p95, stats.p99, stats.max) == (
        101,
        51.0,
        51.0,
        91.0,
        96.0,
        100.0,
        101.0,
    )
    assert stats.frames_per_second == pytest.approx(1000 / 51)
    # Variance of 1 ... n with n - 1 in the denominator: n (n + 1) / 12.
    assert stats.min == 1.0
    assert stats.std == pytest.approx((101 * 102 / 12) ** 0.5)
    assert LatencyStats.from_samples([4.0]).std == 0.0
    assert LatencyStats(**stats.to_dict()) == stats  # type: ignore[arg-type]


def test_warm_up_frames_do_not_count_and_stages_add_up() -> None:
    recorder = LatencyRecorder(warmup=2)
    for value in (900.0, 800.0, 10.0, 20.0):
        recorder.add({"preprocess": value, "decode": 1.0})
    recorder.add({"preprocess": 30.0}, total_ms=33.0)
    summary = recorder.summary()
    assert list(summary) == ["preprocess", "decode", TOTAL]
    assert summary[TOTAL].count == 3
    assert summary["preprocess"].mean == 20.0
    assert summary["decode"].count == 2
    assert recorder.samples_ms() == (11.0, 21.0, 33.0)


def test_nothing_measured_is_no_latency_of_zero() -> None:
    recorder = LatencyRecorder(warmup=5)
    recorder.add({"preprocess": 1.0})
    assert recorder.summary() == {}
    with pytest.raises(ValueError, match=r"No latency samples: every frame was warm-up"):
        LatencyStats.from_samples([])
    with pytest.raises(ValueError, match=r"0 or more frames, got -1"):
        LatencyRecorder(warmup=-1)
