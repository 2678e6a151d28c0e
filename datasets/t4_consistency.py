"""The tables of a raw T4 dataset against each other: times and flags of what an info file is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from base.checks import Finding
from base.messages import shown, shown_file
from datasets.sweep_times import FrameTimes, compare_times
from datasets.t4_rows import Sample, SampleData
from models.known_checks import KNOWN_CHECKS

__all__ = ["compare_tables"]

# A revolution that is merged from several sensors bears another time than its sample, by tenths of a second.
_MAX_APART_US = 1_000_000
_UNIT = "timestamp of sample.json and sample_data.json must be microseconds; here they are divided by 1e6."


def compare_tables(folder: Path, used: Sequence[tuple[Sample, Sequence[SampleData]]]) -> Iterator[Finding]:
    """What two tables say of the same frame.

    Args:
        folder: The dataset's.
        used: Key frames with their LiDAR data: the key frame's own first, then sweeps, latest first.
    """
    dataset = f"T4 dataset {shown_file(folder)}"
    yield from _apart(used, dataset)
    times = [
        FrameTimes(
            f"sample {index}",
            sample.token,
            sample.scene_token,
            sample.timestamp / 1e6,
            tuple(sweep.timestamp / 1e6 for sweep in sweeps),
        )
        for index, (sample, (_, *sweeps)) in enumerate(used)
    ]
    yield from compare_times(times, dataset, _UNIT)
    yield from _invalid(used, dataset)


def _apart(used: Sequence[tuple[Sample, Sequence[SampleData]]], dataset: str) -> Iterator[Finding]:
    apart = [(sample, data[0]) for sample, data in used if abs(sample.timestamp - data[0].timestamp) > _MAX_APART_US]
    if apart:
        sample, data = apart[0]
        yield Finding(
            KNOWN_CHECKS["key-frame-times"],
            f"{dataset}, sample.json, timestamp of sample {shown(sample.token)},",
            f"{sample.timestamp}",
            f"sample_data.json, timestamp of its LiDAR key frame {shown(data.token)},",
            f"{data.timestamp}",
            f"Both must be microseconds of one clock. So it is with {len(apart)} of {len(used)} samples.",
        )


def _invalid(used: Sequence[tuple[Sample, Sequence[SampleData]]], dataset: str) -> Iterator[Finding]:
    rows = {row.token: row for _, data in used for row in data}
    invalid = [row for row in rows.values() if not row.is_valid]
    if invalid:
        row = invalid[0]
        yield Finding(
            KNOWN_CHECKS["key-frame-valid"],
            f"{dataset}, sample_data.json, is_valid of {shown(row.token)} ({shown(row.filename)}),",
            "false",
            "its use in a key frame or as a sweep",
            "that there are points of it",
            f"So it is with {len(invalid)} of {len(rows)} point files. Take these frames out, or fetch them again.",
        )
