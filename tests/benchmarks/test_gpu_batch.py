"""The comparison of one run of several clouds with several networks: its table."""

from __future__ import annotations

from benchmarks.gpu_batch import table


def test_the_table_has_medians_and_ratios_of_the_same_rounds() -> None:
    times = {
        "one after another": [0.40, 0.42, 0.41],
        "networks at a time": [0.40, 0.20, 0.30],
        "one tall canvas": [0.30, 0.30, 0.30],
    }
    line = table({"rows": [{"precision": "int8", "clouds": 2, "ms": times}]}).splitlines()[-1].split()
    # 0.30 over 0.40, 0.20 and 0.30 of the same rounds, in the direction of the header.
    assert line == ["int8", "2", "0.410", "0.300", "0.300", "1.00", "[0.67,", "1.33]"]
