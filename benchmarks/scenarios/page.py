"""The results of the scenarios as a section of a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from base.tables import markdown_table

__all__ = ["markdown"]

_TAIL = ("p50_ms", "p99_ms", "p999_ms", "max_ms")
_NAMES = ("p50 ms", "p99", "p99.9", "max")


def markdown(report: dict[str, Any]) -> str:
    """Of a report's JSON."""
    head = (
        f"## {report['model']}, {report['backend']} on {report['device']}, {report['precision']}\n\n"
        f"Clouds in {report['memory']} memory; garbage collector {report['collector']}. {_machine(report['machine'])}\n"
    )
    parts = [_stream(report["single_stream"]), _rates(report["constant_rate"]), _offline(report["offline"])]
    return "\n".join([head, *(part for part in parts if part)])


def _stream(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    tail, memory, gpu = found["tail"], found["memory"], found["gpu"]
    rows = [(f"{tail['frames']:,}", *_cells(tail), f"{tail['p999_over_p50']:.3f}")]
    lines = [
        "### Single stream\n",
        _table(("frames", *_NAMES, "p99.9 / p50"), rows),
        f"\n{found['fewest_points']:,} to {found['most_points']:,} points; {found['seconds']:.1f} s. Medians in ms: "
        + ", ".join(f"{name} {value:.3f}" for name, value in found["stages_ms"].items())
        + ".",
        f"Resident memory {memory['first_mib']:.1f} to {memory['last_mib']:.1f} MiB, at most {memory['most_mib']:.1f}; "
        f"{memory['growth_mib_per_hour']:+.1f} MiB an hour over the second half.",
    ]
    if gpu is not None:
        low, high = gpu["sm_mhz"]
        used = gpu["memory_mib"]
        reasons = ", ".join(f"{reason} in {count}" for reason, count in gpu["throttle"].items())
        lines.append(
            f"GPU, {gpu['samples']} samples: {_span(low, high)} MHz, memory {_span(*gpu['memory_mhz'])} MHz, "
            f"{_span(*used)} MiB in use, at most {gpu['hottest_c']:.0f} degrees; held down: {reasons}."
        )
    causes = sorted(found["causes"].items(), key=lambda item: (-item[1], item[0]))
    lines.append(
        f"Slow frames (beyond 1.25 times the median): {sum(count for _, count in causes)} of {tail['frames']:,}.\n"
    )
    if causes:
        lines.append(_table(("what they met first", "frames"), [(name, str(count)) for name, count in causes]))
        slowest = [
            (str(item["index"]), f"{item['total_ms']:.3f}", "; ".join(item["causes"])) for item in found["slow"][:5]
        ]
        lines += ["", _table(("slowest frame", "ms", "what it met"), slowest)]
    return "\n".join(lines) + "\n"


def _rates(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    rows = [
        (
            f"{item['rate_hz']:g}", f"{item['came']:,}", str(item["overtaken"]), str(item["late"]),
            *_cells(item["latency"]), f"{item['stalest_ms']:.1f}",
        )
        for item in found
    ]  # fmt: skip
    head = ("Hz", "frames", "overtaken", "late", *(f"age {name}" for name in _NAMES), "stalest ms")
    note = "Age: from a frame's coming to its boxes. Stalest: the oldest that the newest boxes ever were."
    return f"### Constant rate\n\n{_table(head, rows)}\n\n{note}\n"


def _offline(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    rows = [(item["how"], f"{item['frames_per_second']:,.0f}", *_cells(item["latency"])) for item in found]
    return f"### Offline\n\n{_table(('networks', 'frames a second', *_NAMES), rows)}\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(markdown_table(header, rows))


def _cells(tail: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{tail[name]:.3f}" for name in _TAIL)


def _span(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "unknown"
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _machine(machine: dict[str, Any]) -> str:
    names = [gpu["name"] for gpu in machine.get("gpus") or ()]
    return f"{', '.join(names) or machine.get('cpu') or 'unknown machine'}."
