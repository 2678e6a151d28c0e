"""Slips of units and of order in the times of key frames and sweeps, each of which must be named, and sound ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.sweep_times import FrameTimes, compare_order, compare_times, unit_of

EPOCH = 1_750_000_000.0
UNITS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


def frames(
    key_scale: float = 1.0, sweep_scale: float = 1.0, *, start: float = EPOCH, sweeps: int = 3, sign: int = -1
) -> list[FrameTimes]:
    """Five key frames, half a second apart, with revolutions of a tenth before each."""
    return [
        FrameTimes(
            f"data_list[{i}]",
            f"t{i}",
            "scene",
            (start + 0.5 * i) * key_scale,
            tuple((start + 0.5 * i + sign * 0.1 * (n + 1)) * sweep_scale for n in range(sweeps)),
        )
        for i in range(5)
    ]


def told(found: list[FrameTimes]) -> list[str]:
    return [f"{finding.check.id}: {finding.text}" for finding in compare_times(found, "Info file 'a.pkl'")]


@pytest.mark.parametrize("start", [EPOCH, 0.3, 1000.0])
@pytest.mark.parametrize("sweeps", [0, 1, 10])
def test_sound_times_on_any_clock(start: float, sweeps: int) -> None:
    assert told(frames(start=start + 1, sweeps=sweeps)) == []


@pytest.mark.parametrize("unit", UNITS)
def test_sweeps_alone_in_another_unit(unit: str) -> None:
    (text,) = told(frames(1.0, UNITS[unit]))
    assert text.startswith("sweep-times: Info file 'a.pkl', data_list[0].timestamp (sample 't0'), says 1750000000.0 s")
    assert "but its lidar_sweeps[0].timestamp says 1.75" in text.replace("17499999999", "1.75")
    assert f"the key frame's is in seconds and the sweep's in {unit}" in text
    assert "So it is with 15 of 15 sweeps" in text


@pytest.mark.parametrize("unit", UNITS)
def test_key_frames_alone_in_another_unit(unit: str) -> None:
    (text,) = told(frames(UNITS[unit], 1.0))
    assert f"the key frame's is in {unit} and the sweep's in seconds" in text
    assert "before its key frame" in text


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("start", [EPOCH, 7.0])
def test_both_in_another_unit(unit: str, start: float) -> None:
    scale = UNITS[unit]
    (text,) = told(frames(scale, scale, start=start))
    named = "the sweep's in " if start == EPOCH else "Both look like "
    assert f"{named}{unit}" in text


@pytest.mark.parametrize("unit", UNITS)
def test_both_divided_too_often(unit: str) -> None:
    (text,) = told(frames(1 / UNITS[unit], 1 / UNITS[unit]))
    assert "None of 15 time lags reaches 0.001 s" in text


@pytest.mark.parametrize("scale", [*UNITS.values(), *(1 / scale for scale in UNITS.values())])
def test_key_frames_without_sweeps_are_held_against_each_other(scale: float) -> None:
    (text,) = told(frames(scale, scale, start=5.0, sweeps=0))
    assert "Key frames would be" in text
    assert "data_list[3].timestamp of the same scene" in text or "of the same scene" in text


def test_sweeps_after_their_key_frame() -> None:
    (text,) = told(frames(sign=1))
    assert "The sweep would be 0.1 s after its key frame." in text
    assert "Both look like seconds" in text


def test_one_wrong_sweep_among_many() -> None:
    found = frames()
    found[3] = FrameTimes("data_list[3]", "t3", "scene", found[3].key_s, (*found[3].sweeps_s[:2], EPOCH - 4000.0))
    (text,) = told(found)
    assert "data_list[3].timestamp (sample 't3')" in text
    assert "lidar_sweeps[2]" in text
    assert "So it is with 1 of 15 sweeps" in text


def test_copies_of_the_key_frame_are_no_slip() -> None:
    padded = [FrameTimes("p", f"t{i}", "", EPOCH + i, (EPOCH + i,) * 3, has_others=False) for i in range(3)]
    assert told(padded) == []
    (text,) = told([FrameTimes("p", f"t{i}", "", EPOCH + i, (EPOCH + i,) * 3) for i in range(3)])
    assert "The times were not filled in, or cut off to whole seconds." in text
    assert "So it is with 9 of 9 sweeps, although they are other point files." in text


def test_a_time_on_another_clock_or_none_at_all() -> None:
    for sweep in (0.0, 0.1, 1e5):
        (text,) = told([FrameTimes("p", "t", "", EPOCH, (sweep,))])
        assert "the key frame's is a time since 1970 and the sweep's none" in text


@given(start=st.floats(1.0, 3e9), step=st.floats(0.005, 0.9), rounding=st.sampled_from([6, 3]))
def test_no_sensor_is_refused(start: float, step: float, rounding: int) -> None:
    key = round(start + 10 * step, rounding)
    times = FrameTimes("p", "t", "", key, tuple(round(start + (9 - n) * step, rounding) for n in range(10)))
    assert told([times]) == []


def order(found: list[FrameTimes], wanted: int) -> list[str]:
    return [finding.check.id for finding in compare_order(found, wanted, "Info file 'a.pkl'", "the model config")]


def reversed_sweeps(sweeps: int) -> list[FrameTimes]:
    return [FrameTimes(f.place, f.token, f.scene, f.key_s, f.sweeps_s[::-1]) for f in frames(sweeps=sweeps)]


@pytest.mark.parametrize(
    ("found", "wanted", "checks"),
    [
        (frames(sweeps=3), 3, []),
        (frames(sweeps=3), 1, []),
        (frames(sweeps=3), 0, []),
        (reversed_sweeps(3), 1, ["sweep-order"]),
        (reversed_sweeps(3), 2, ["sweep-order"]),
        (reversed_sweeps(3), 3, ["sweep-order-whole"]),
        (reversed_sweeps(1), 1, []),
        (reversed_sweeps(3), 0, []),
        (frames(sweeps=1), 10, ["sweep-count"]),
        (frames(sweeps=0), 1, ["sweep-count"]),
        # Where a recording starts there are fewer; the others have enough.
        ([*frames(sweeps=0)[:1], *frames(sweeps=2)[1:]], 2, []),
    ],
)
def test_which_sweeps_are_taken(found: list[FrameTimes], wanted: int, checks: list[str]) -> None:
    assert order(found, wanted) == checks


def test_key_frames_of_a_scene_that_all_have_one_time() -> None:
    (text,) = told([FrameTimes(f"data_list[{i}]", f"t{i}", "scene", EPOCH, ()) for i in range(3)])
    assert "Key frames would be 0 s apart. They were divided too often, or cut off." in text
    assert told([FrameTimes(f"data_list[{i}]", f"t{i}", "", EPOCH, ()) for i in range(3)]) == []


def test_units_by_size() -> None:
    assert [unit_of(EPOCH * scale) for scale in (1.0, *UNITS.values())] == ["seconds", *UNITS]
    assert [unit_of(value) for value in (0.0, 12.5, 1e10, -EPOCH)] == [""] * 4
