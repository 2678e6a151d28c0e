"""The results of `benchmarks.gpu` as Markdown: everything comes from the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from base.tables import markdown_table

__all__ = ["layer_name", "report"]

_HALF = ("torch-fp16", "torch-compile", "onnxruntime")


def report(results: Mapping[str, Any], level: int = 2) -> str:
    """All tables of one run.

    Args:
        results: What `benchmarks.gpu` wrote as JSON.
        level: Of its first heading; those inside are one deeper.
    """
    marks = "#" * level
    lines = [f"{marks} {results['model']}", "", *_run(results), ""]
    if "networks" in results:
        lines += [f"{marks}# Backbone, neck and head", "", *_networks(results["networks"]), ""]
    if results.get("frames", {}).get("timings"):
        lines += [f"{marks}# Frames of several kinds, empty tiles skipped", "", *_frames(results["frames"]), ""]
    layers = results.get("layers", {}).get("precisions", {})
    for precision, section in sorted(layers.items(), reverse=True):  # INT8 first
        lines += [f"{marks}# Layers, {precision.upper()}", "", *_layers(section, results["layers"]), ""]
    if "end_to_end" in results:
        lines += [f"{marks}# Points to boxes", "", *_end_to_end(results["end_to_end"]), ""]
    if "throughput" in results:
        lines += [f"{marks}# Several networks at a time", "", *_throughput(results["throughput"]), ""]
    if results["skipped"] or results["failed"]:
        lines += [f"{marks}# Not measured", ""]
        for kind, reasons in (("SKIPPED", results["skipped"]), ("broke off", results["failed"])):
            lines += [f"- {name}: {kind}, {' '.join(str(reason).split())}" for name, reason in reasons.items()]
        lines.append("")
    return "\n".join(lines)


def layer_name(node: str) -> str:
    """A launch's ONNX node without what every node's name says: "pts_backbone blocks.0.3"."""
    parts = [part for part in node.split("/") if part and part not in ("Conv", "ConvTranspose")]
    return parts[0] if len(parts) == 1 else f"{parts[0]} {parts[-1]}"


def _run(results: Mapping[str, Any]) -> list[str]:
    versions = results["versions"]
    listed = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "cuda-bindings", "onnxruntime") if name in versions
    )
    lines = [f"{results['date']}, commit `{results['commit'][:12]}`, weights {results['weights']}; {listed}."]
    for gpu in results.get("machine", {}).get("gpus", []):
        clocks = [
            f"{gpu[key]:.0f} {unit}"
            for key, unit in (("sm_clock_mhz", "MHz"), ("memory_clock_mhz", "MHz memory"), ("power_draw_w", "W"))
            if gpu[key] is not None
        ]
        lines.append(f"{gpu['name']}, driver {gpu['driver']}; right after the first section {', '.join(clocks)}.")
    return [*lines, "", f"    {results['command']}"]


def _networks(section: Mapping[str, Any]) -> list[str]:
    errors = section["relative_errors"]
    head = ["", "p50 ms", "p99 ms", "runs", *_ratio_heads(section), "error"]
    rows = [
        [*_timing(timing), *_ratios(section, timing["key"]), _worst(errors.get(timing["key"]))]
        for timing in section["timings"]
    ]
    text = [
        "Input and outputs in device memory. Ratios are medians over rounds, with the lowest and the highest round; "
        "error is the RMS difference from full float32 over the RMS of an output around its mean, of the worst one.",
        "",
        *markdown_table(head, rows),
    ]
    best = _best_half(section)
    return [*text, "", *best] if best else text


def _frames(section: Mapping[str, Any]) -> list[str]:
    others, ratios = section["labels"], section["ratios"]
    facts = {item["key"]: item for item in section["frames"]}
    rows = []
    for timing in section["timings"]:
        shares = list(facts[timing["key"]]["shares"].values())
        tiles = f"{min(shares):.2f} to {max(shares):.2f}"
        found = {item["slower"]: item for item in ratios if item["faster"] == timing["key"]}
        times = [f"{found[key]['median']:.2f} [{found[key]['low']:.2f}, {found[key]['high']:.2f}]" for key in others]
        rows.append([*_timing(timing), f"{facts[timing['key']]['pillars']:,}", tiles, *times])
    heads = ["", "p50 ms", "p99 ms", "runs", "pillars", "active tiles of a layer", *others.values()]
    return [
        "In the same turns as the table above, lists included; the columns on the right say how many times as long "
        "those take who compute all tiles. Streets activate as many tiles as real scans do.",
        "",
        *markdown_table(heads, rows),
    ]


def _best_half(section: Mapping[str, Any]) -> list[str]:
    halves = [item for item in section["timings"] if item["key"].startswith(_HALF)]
    if not halves:
        return []
    best = min(halves, key=lambda item: float(item["stats"]["p50"]))
    found = [item for item in section["ratios"] if item["slower"] == best["key"]]
    texts = [f"{item['median']:.2f} times as long as {_label(section, item['faster'])}" for item in found]
    return [f"The fastest FP16 peer, {best['label']}, takes {' and '.join(texts)}."] if texts else []


def _layers(section: Mapping[str, Any], layers: Mapping[str, Any]) -> list[str]:
    peaks = layers["peaks"]
    head = ["layer", "", "µs", "repeated µs", "GFLOP", "MB", "roofline µs", "bound by", "share"]
    rows = [
        [
            layer_name(row["label"]),
            row["shape"],
            _number(row["in_order_us"], 1),
            _number(row["repeated_us"], 1),
            _number(row["gflop"], 2),
            _number(row["megabytes"], 1),
            _number(row["roofline_us"], 1),
            row["bound"] or "–",
            _percent(row["share"]),
        ]
        for row in section["rows"]
    ]
    share = None if section["roofline_us"] is None else section["roofline_us"] / section["whole_us"]
    total = [_number(section["in_order_us"], 1), _number(section["repeated_us"], 1)]
    work = [
        _number(sum(row[key] for row in section["rows"]), digits) for key, digits in (("gflop", 2), ("megabytes", 1))
    ]
    roofline = _number(section["roofline_us"], 1)
    rows.append(["**sum**", "", *total, *work, roofline, "", ""])
    rows.append(
        ["**whole, one graph**", "", _number(section["whole_us"], 1), "", "", "", roofline, "", _percent(share)]
    )
    known = (
        f"Peaks of {peaks['name']}: {peaks['int8_ops'] / 1e12:.0f} TOPS INT8, {peaks['fp16_flops'] / 1e12:.0f} TFLOPS "
        f"FP16, {peaks['bandwidth'] / 1e12:.2f} TB/s."
        if peaks
        else f"The peaks of {layers['gpu']} are not known here."
    )
    return [
        "µs: between events around each launch while the whole network runs, so without overlap with its neighbours, "
        "which one graph has; repeated: the launch after itself, over and over. Roofline: the longer of computing and "
        f"of moving input, weights and output once. {known}",
        "",
        *markdown_table(head, rows),
    ]


def _end_to_end(section: Mapping[str, Any]) -> list[str]:
    head = ["", "p50 ms", "p99 ms", "frames", *_ratio_heads(section), "boxes"]
    rows = [
        [*_timing(timing), *_ratios(section, timing["key"]), str(section["boxes"].get(timing["key"], "–"))]
        for timing in section["timings"]
    ]
    dropped = f", {section['dropped_pillars']:,} more beyond the model's limit" if section["dropped_pillars"] else ""
    lines = [
        f"{section['points']:,} points in host memory, {section['pillars']:,} pillars{dropped}; boxes in host memory; "
        "time by the host's clock.",
        "",
        *markdown_table(head, rows),
        "",
    ]
    for item in section["stages_ms"]:
        key = item["key"]
        listed = ", ".join(f"{name} {value:.3f}" for name, value in item["stages"])
        lines.append(f"- {_label(section, key)}, stages in ms (medians, timed apart from the table): {listed}")
    return lines


def _throughput(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return markdown_table(
        ["", "networks", "frames per second", "ms per frame"],
        [_rate(row) for row in rows],
    )


def _rate(row: Mapping[str, Any]) -> list[str]:
    rate = row["frames_per_second"]
    return [row["precision"].upper(), str(row["streams"]), _number(rate, 0), _number(1e3 / rate, 3)]


def _timing(timing: Mapping[str, Any]) -> list[str]:
    note = f" ({timing['note']})" if timing["note"] else ""
    stats = timing["stats"]
    return [timing["label"] + note, _number(stats["p50"], 3), _number(stats["p99"], 3), str(stats["count"])]


def _own(section: Mapping[str, Any]) -> list[str]:
    return [item["key"] for item in section["timings"] if item["key"].startswith("cuda-")]


def _ratio_heads(section: Mapping[str, Any]) -> list[str]:
    return [f"over {_label(section, key)}" for key in _own(section)]


def _ratios(section: Mapping[str, Any], peer: str) -> list[str]:
    found = {item["faster"]: item for item in section["ratios"] if item["slower"] == peer}
    return [
        f"{found[key]['median']:.2f} [{found[key]['low']:.2f}, {found[key]['high']:.2f}]" if key in found else ""
        for key in _own(section)
    ]


def _label(section: Mapping[str, Any], key: str) -> str:
    return next((str(item["label"]) for item in section["timings"] if item["key"] == key), key)


def _worst(errors: Mapping[str, float] | None) -> str:
    if not errors:
        return "–"
    name = max(errors, key=lambda item: errors[item])
    return f"{errors[name]:.2g} ({name})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
