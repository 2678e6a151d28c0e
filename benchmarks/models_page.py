"""The generated part of docs/models.md: a table of every model, and every 'no' with its message."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from models.facts import BRANCH_ORDER

__all__ = ["models_page"]

Row = Mapping[str, Any]
_FAMILIES = ("mmdet3d", "autoware-ml", "AWML", "KITTI-style", "shipped")
_COLUMNS = ("load", "build", "onnx", "fp16", "int8", "tensorrt", "cuda", "bundle")
_HEADER = ("model", *_COLUMNS[:3], "boxes against mmdet3d", *_COLUMNS[3:])


def models_page(rows: Mapping[str, Row]) -> str:
    """Markdown of the rows of docs/benchmarks/models.json."""
    parts = [_counts(rows)]
    for family in _FAMILIES:
        own = {key: row for key, row in rows.items() if row["family"] == family}
        if own:
            parts.append(f"### {family}\n\n{_table(own, rows)}")
    parts.append(f"### Every 'no', with its message\n\n{_reasons(rows)}")
    return "\n\n".join(parts)


def _counts(rows: Mapping[str, Row]) -> str:
    lines = []
    for family in _FAMILIES:
        own = [row for row in rows.values() if row["family"] == family]
        if own:
            able = {step: sum(_status(row, step) == "yes" for row in own) for step in _COLUMNS}
            numbers = ", ".join(f"{step} {count}" for step, count in able.items())
            lines.append(f"- {family}: {len(own)} configs: {numbers}")
    return "\n".join(lines)


def _table(own: Mapping[str, Row], rows: Mapping[str, Row]) -> str:
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    for row in own.values():
        numbers = rows.get(row.get("same_as", ""), row)
        cells = {step: _status(row, step) for step in _COLUMNS}
        for precision in ("fp16", "int8"):
            if cells[precision] == "yes" and precision in numbers:
                cells[precision] = _distances(numbers[precision])
        name = f"`{row['name']}`"
        if "same_as" in row:
            name += f" (the network of `{rows[row['same_as']]['name']}`)"
        values = (
            name,
            *(cells[step] for step in _COLUMNS[:3]),
            _boxes(numbers),
            *(cells[step] for step in _COLUMNS[3:]),
        )
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)


def _status(row: Row, step: str) -> str:
    (status,) = (ability["status"] for ability in row["abilities"] if ability["step"] == step)
    return str(status)


def _boxes(row: Row) -> str:
    found = row.get("predict")
    if found is None:
        return ""
    if not found["peer"]:
        return str(found["note"])
    theirs, ours = found["boxes"]
    largest = found["largest"]
    alone = found["without_partner"]
    partners = f", {alone} without a partner" if alone else ""
    return (
        f"{ours} of {theirs}{partners}; {largest['center_m'] * 1e3:.2g} mm, {largest['yaw_rad']:.2g} rad, "
        f"score {largest['score']:.2g}"
    )


def _distances(outputs: Mapping[str, float]) -> str:
    """The farthest of each branch, over all tasks."""
    worst: dict[str, float] = {}
    for name, distance in outputs.items():
        branch = name.split("_")[0]
        worst[branch] = max(distance, worst.get(branch, 0.0))
    return ", ".join(f"{branch} {worst[branch]:.2g}" for branch in BRANCH_ORDER if branch in worst)


def _reasons(rows: Mapping[str, Row]) -> str:
    """Each message once, with the models and the step that it is of, but for steps that only lack an earlier one."""
    told: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in rows.values():
        for step, reason in _refusals(row):
            # The name as a word: "one" stands in "backbone" too.
            alike = re.sub(rf"(?<!\w){re.escape(row['name'])}(?!\w)", "…", reason)
            told[step, alike].append((row["name"], reason))
    lines = []
    for (step, alike), whose in told.items():
        (name, reason), more = whose[0], len(whose) - 1
        whom, said = (f"`{name}` and {more} more", alike) if more else (f"`{name}`", reason)
        lines.append(f"- {step}, {whom}: {_escaped(said)}")
    return "\n".join(lines)


def _refusals(row: Row) -> Iterator[tuple[str, str]]:
    for ability in row["abilities"]:
        if ability["status"] in ("no", "unknown") and not ability["reason"].startswith("needs '"):
            yield ability["step"], ability["reason"]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
