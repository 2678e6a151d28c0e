"""Times of key frames and their sweeps against each other: a wrong unit, another order, or too few of them.

Networks take the time lag of a point in seconds; nothing later can tell that it was something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from base.checks import Check, Finding
from base.messages import shown
from models.known_checks import KNOWN_CHECKS

__all__ = ["FrameTimes", "compare_order", "compare_times", "unit_of"]

_UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
# 1990 to 2100, in which a recording's time since 1970 lies.
_FIRST_S, _LAST_S = 631_152_000.0, 4_102_444_800.0
# Sweeps reach back ten revolutions, five seconds at most; key frames of a scene follow within seconds. No lidar turns a
# thousand times a second.
_MAX_LAG_S, _MAX_GAP_S, _MIN_STEP_S = 10.0, 60.0, 1e-3
# A sweep of the key frame's own time, but for rounding, is a copy of it.
_SAME_S = 1e-5


_WHOSE = ("key frame's is", "sweep's")


@dataclass(frozen=True)
class FrameTimes:
    """Times of a key frame.

    Attributes:
        place: Where it stands in its file, such as "data_list[3]".
        token: Its name.
        scene: Its recording; empty where that is not known.
        key_s: Its time, as stated in seconds.
        sweeps_s: Those of its sweeps, in the order of the file.
        has_others: Whether one of the sweeps is another point file than the key frame's own, which pads some datasets.
    """

    place: str
    token: str
    scene: str
    key_s: float
    sweeps_s: tuple[float, ...]
    has_others: bool = True


def unit_of(value: float) -> str:
    """In which unit since 1970 a time is one of 1990 to 2100; empty where it is in none, as on a clock of its own."""
    return next((unit for unit, scale in _UNITS.items() if _FIRST_S <= value / scale <= _LAST_S), "")


def compare_times(frames: Sequence[FrameTimes], file: str, must: str = "Both must be seconds.") -> Iterator[Finding]:
    """Time lags of sweeps and gaps between key frames, as far as only a wrong unit or order makes them.

    Args:
        frames: In the order of the file.
        file: Such as "Info file 'a.pkl'".
        must: What unit the file must have them in.
    """
    check = KNOWN_CHECKS["sweep-times"]
    lags = [(frame, number, frame.key_s - sweep) for frame in frames for number, sweep in enumerate(frame.sweeps_s)]
    wrong = [item for item in lags if item[2] < -_SAME_S or item[2] > _MAX_LAG_S]
    if wrong:
        yield _lag(check, *wrong[0], file, f"{must} So it is with {len(wrong)} of {len(lags)} sweeps.")
        return
    same = [item for item in lags if item[0].has_others]
    if same and all(lag == 0 for _, _, lag in same):
        told = f"{must} So it is with {len(same)} of {len(lags)} sweeps, although they are other point files."
        yield _lag(check, *same[0], file, told)
        return
    positive = [item for item in lags if item[2] > 0]
    if positive and max(lag for _, _, lag in positive) < _MIN_STEP_S:
        told = f"None of {len(positive)} time lags reaches {_MIN_STEP_S:g} s, the time of no lidar's revolution."
        yield _lag(check, *positive[0], file, f"{must} {told}")
        return
    yield from _gaps(check, frames, file, must)


def _lag(check: Check, frame: FrameTimes, number: int, lag: float, file: str, more: str) -> Finding:
    sweep = frame.sweeps_s[number]
    if lag == 0:
        what = "The sweep would be of its key frame's own time."
    elif lag < 0:
        what = f"The sweep would be {-lag:.4g} s after its key frame."
    else:
        what = f"The sweep would be {lag:.4g} s before its key frame."
    return Finding(
        check,
        f"{file}, {frame.place}.timestamp (sample {shown(frame.token)}),",
        _time(frame.key_s),
        f"its lidar_sweeps[{number}].timestamp",
        _time(sweep),
        f"{what} {_suspicion(frame.key_s, sweep, lag)} {more}",
    )


def _suspicion(key: float, sweep: float, lag: float) -> str:
    """What unit explains it."""
    units = unit_of(key), unit_of(sweep)
    if lag == 0:
        return "The times were not filled in, or cut off to whole seconds."
    if all(units) and units != ("seconds", "seconds"):
        named = [f"the {what} in {unit}" for what, unit in zip(_WHOSE, units, strict=True)]
        return f"By their size {' and '.join(named)}."
    if units == ("seconds", "seconds"):
        return "Both look like seconds since 1970: the sweep is another recording's, or the two are exchanged."
    for unit, scale in list(_UNITS.items())[1:]:
        # One of the two is so many times the other.
        if key > 0 and 0.5 < sweep / key / scale < 2:
            return f"The sweep's looks like {unit}."
        if sweep > 0 and 0.5 < key / sweep / scale < 2:
            return f"The key frame's looks like {unit}."
    if any(units):
        clocks = [
            f"the {what} {'a time since 1970' if unit else 'none'}" for what, unit in zip(_WHOSE, units, strict=True)
        ]
        return f"By their size {' and '.join(clocks)}: a lag, a clock of its own, or not filled in."
    if lag > 0:
        for unit, scale in list(_UNITS.items())[1:]:
            if 0.02 <= lag / scale <= 5:  # of a few revolutions
                return f"Both look like {unit}."
            if 0.02 <= lag * scale <= 5:
                return f"Both look divided by {scale:g} once too often."
    return "Their unit, or the sign of the difference, is wrong."


def _gaps(check: Check, frames: Sequence[FrameTimes], file: str, must: str) -> Iterator[Finding]:
    """Key frames of a recording, of which the median gap cannot be mistaken."""
    by_scene: dict[str, list[FrameTimes]] = {}
    for frame in frames:
        if frame.scene:
            by_scene.setdefault(frame.scene, []).append(frame)
    pairs = [
        (first, second)
        for scene in by_scene.values()
        for first, second in pairwise(sorted(scene, key=lambda frame: frame.key_s))
    ]
    if not pairs:
        return
    pairs.sort(key=lambda pair: pair[1].key_s - pair[0].key_s)
    first, second = pairs[len(pairs) // 2]
    gap = second.key_s - first.key_s
    if _MIN_STEP_S <= gap <= _MAX_GAP_S:
        return
    if gap > _MAX_GAP_S and unit_of(first.key_s) == unit_of(second.key_s) == "seconds":
        return  # times since 1970, in the right unit: frames were chosen minutes apart
    looks = "Their unit is wrong." if gap else "They were divided too often, or cut off."
    for unit, scale in list(_UNITS.items())[1:]:
        if 0.02 <= gap / scale <= _MAX_GAP_S:
            looks = f"They look like {unit}."
            break
        if 0.02 <= gap * scale <= _MAX_GAP_S:
            looks = f"They look divided by {scale:g} once too often."
            break
    yield Finding(
        check,
        f"{file}, {first.place}.timestamp (sample {shown(first.token)}),",
        _time(first.key_s),
        f"{second.place}.timestamp of the same scene",
        _time(second.key_s),
        f"Key frames would be {gap:.4g} s apart. {looks} {must}",
    )


def compare_order(frames: Iterable[FrameTimes], wanted: int, file: str, config: str) -> Iterator[Finding]:
    """Whether the sweeps that a config takes, the first ones, are the latest, and whether there are as many.

    Args:
        frames: Whose sweeps are sound (`compare_times`).
        wanted: Sweeps that the config takes.
        file, config: Such as "Info file 'a.pkl'".
    """
    frames = list(frames)
    reordered = [frame for frame in frames if list(frame.sweeps_s) != sorted(frame.sweeps_s, reverse=True)]
    chosen = [frame for frame in reordered if sorted(frame.sweeps_s)[-wanted:] != sorted(frame.sweeps_s[:wanted])]
    for check, found in (("sweep-order", chosen), ("sweep-order-whole", [] if chosen else reordered)):
        if found and wanted:
            frame = found[0]
            taken = f"the first {wanted}" if check == "sweep-order" else "all of them"
            yield Finding(
                KNOWN_CHECKS[check],
                f"{file}, {frame.place}.lidar_sweeps (sample {shown(frame.token)}),",
                f"its sweeps are {_lags(frame)} s before the key frame",
                f"{config}, which takes {taken},",
                "the latest come first",
                f"So it is with {len(found)} of {len(frames)} samples. Sort lidar_sweeps by time, the latest first.",
            )
    most = max((len(frame.sweeps_s) for frame in frames), default=0)
    if frames and most < wanted:
        yield Finding(
            KNOWN_CHECKS["sweep-count"],
            f"{config}, sweeps_num of LoadPointsFromMultiSweeps,",
            f"{wanted} sweeps",
            file,
            f"{most} at most",
            "Clouds are thinner than those that the config means. Write the info file with as many sweeps "
            f"(--max-sweeps={wanted} of the command that makes it), or lower sweeps_num to what was trained with.",
        )


def _lags(frame: FrameTimes) -> str:
    return ", ".join(f"{frame.key_s - sweep:.3g}" for sweep in frame.sweeps_s[:5])


def _time(value: float) -> str:
    return f"{value!r} s" if abs(value) < 1e16 else f"{value:.6g} s"
