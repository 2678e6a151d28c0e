"""Names of files in the order that people count in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from base.natural_order import natural_order


def test_numbers_are_counted() -> None:
    names = [
        "scan_10.bin",
        "scan_2.bin",
        "scan_1.bin",
        "a.bin",
        "10_b.bin",
        "9_b.bin",
        "1700000000_5.bin",
        "02.bin",
        "2.bin",
    ]
    assert sorted(names, key=natural_order) == [
        *("02.bin", "2.bin", "9_b.bin", "10_b.bin", "1700000000_5.bin"),
        *("a.bin", "scan_1.bin", "scan_2.bin", "scan_10.bin"),
    ]


@given(st.lists(st.integers(0, 10**25), min_size=2), st.integers(1, 26))
def test_numbers_of_one_width_stand_as_text(numbers: list[int], width: int) -> None:
    names = [f"scan-{number:0{width}d}.pcd" for number in numbers]
    assert [int(name[5:-4]) for name in sorted(names, key=natural_order)] == sorted(numbers)
    padded = [f"scan-{number:026d}.pcd" for number in numbers]
    assert sorted(padded, key=natural_order) == sorted(padded)


@given(st.lists(st.text()))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural_order)) == sorted(names)
