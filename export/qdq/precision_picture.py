"""A network drawn layer by layer, coloured by precision: inline SVG for the report."""

from __future__ import annotations

from html import escape

from export.qdq.precision_map import LayerPrecision, PrecisionMap

__all__ = ["draw_precision_map"]

# Fill of each precision, readable on a light and on a dark page.
_COLOURS = {"int8": "#2a8f5b", "fp16": "#3b7dd8", "fp32": "#8a7340"}
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN, _LEGEND = 150, 30, 14, 12, 10, 34


def draw_precision_map(found: PrecisionMap) -> str:
    """SVG of the layers from top to bottom in the order in which they can run, with an arrow for every tensor.

    A box names the layer, its kernel and its multiplications; its stripe on the left is the precision it multiplies in,
    the one below is the precision of what it writes.
    """
    places = _places(found)
    columns = max((column for column, _ in places.values()), default=0) + 1
    rows = max((row for _, row in places.values()), default=0) + 1
    width = max(2 * _MARGIN + columns * _WIDTH + (columns - 1) * _GAP_X, 620)
    height = 2 * _MARGIN + _LEGEND + rows * _HEIGHT + (rows - 1) * _GAP_Y
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="Precision of each layer of {escape(found.graph)}">',
        _legend(found),
    ]
    for layer in found.layers:
        for source in layer.inputs:
            if source in places:
                parts.append(_arrow(places[source], places[layer.path]))
    parts += [_box(layer, places[layer.path]) for layer in found.layers]
    return "".join(parts) + "</svg>"


def _places(found: PrecisionMap) -> dict[str, tuple[int, int]]:
    """Path -> (column, row): a row below everything it reads, columns in graph order within a row."""
    rows: dict[str, int] = {}
    for layer in found.layers:
        rows[layer.path] = 1 + max((rows[source] for source in layer.inputs if source in rows), default=-1)
    readers = {
        layer.path: [rows[item.path] for item in found.layers if layer.path in item.inputs] for layer in found.layers
    }
    # A box and the line down to its last reader keep their column to themselves.
    taken: set[tuple[int, int]] = set()
    places = {}
    for layer in sorted(found.layers, key=lambda item: (rows[item.path], _is_branch(item, found))):
        row = rows[layer.path]
        span = range(row, max([row + 1, *readers[layer.path]]))
        column = 0
        while any((column, used) in taken for used in span):
            column += 1
        # The main line stays in its column, whatever it feeds further down.
        taken.update((column, used) for used in (span if column else [row]))
        places[layer.path] = (column, row)
    return places


def _is_branch(layer: LayerPrecision, found: PrecisionMap) -> bool:
    """Whether a longer path leads on from the layer's input than from the layer itself."""
    siblings = [item for item in found.layers if set(item.inputs) & set(layer.inputs)]
    return _depth(layer.path, found) < max(_depth(item.path, found) for item in siblings)


def _depth(path: str, found: PrecisionMap) -> int:
    depths: dict[str, int] = {}
    for layer in reversed(found.layers):
        readers = [item.path for item in found.layers if layer.path in item.inputs]
        depths[layer.path] = 1 + max((depths[reader] for reader in readers), default=0)
    return depths[path]


def _origin(place: tuple[int, int]) -> tuple[int, int]:
    column, row = place
    return _MARGIN + column * (_WIDTH + _GAP_X), _MARGIN + _LEGEND + row * (_HEIGHT + _GAP_Y)


def _box(layer: LayerPrecision, place: tuple[int, int]) -> str:
    x, y = _origin(place)
    kernel = "x".join(str(size) for size in layer.kernel)
    name = _short(layer.path)
    note = (
        f"{layer.path}: {layer.op} {kernel}, {layer.precision}, writes {layer.output_precision}; "
        f"{layer.macs / 1e6:.1f} M multiplications, {layer.weight_bytes / 1e3:.1f} kB of weights, "
        f"{(layer.input_bytes + layer.output_bytes) / 1e6:.2f} MB in and out"
    )
    written = _COLOURS[layer.output_precision]
    return (
        f"<g><title>{escape(note)}</title>"
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="{_COLOURS[layer.precision]}" '
        f'fill-opacity=".22" stroke="{_COLOURS[layer.precision]}"/>'
        f'<rect x="{x}" y="{y}" width="6" height="{_HEIGHT}" rx="2" fill="{_COLOURS[layer.precision]}"/>'
        f'<rect x="{x + 6}" y="{y + _HEIGHT - 4}" width="{_WIDTH - 6}" height="4" fill="{written}"/>'
        f'<text class="tick" x="{x + 11}" y="{y + 12}">{escape(name)}</text>'
        f'<text class="tick" x="{x + 11}" y="{y + 23}">{escape(kernel)}</text>'
        f'<text class="tick" x="{x + _WIDTH - 6}" y="{y + 23}" text-anchor="end">{_amount(layer.macs)}</text></g>'
    )


def _arrow(source: tuple[int, int], target: tuple[int, int]) -> str:
    (x0, y0), (x1, y1) = _origin(source), _origin(target)
    start, end = (x0 + _WIDTH // 2, y0 + _HEIGHT), (x1 + _WIDTH // 2, y1)
    middle = end[1] - _GAP_Y // 2
    path = f"M{start[0]} {start[1]}V{middle}H{end[0]}V{end[1]}"
    return f'<path d="{path}" fill="none" stroke="#8a94a0" stroke-width="1.2"/>'


def _legend(found: PrecisionMap) -> str:
    parts, x = [], _MARGIN
    for precision, colour in _COLOURS.items():
        macs = found.share_of_macs(precision)
        if not any(precision in (layer.precision, layer.output_precision) for layer in found.layers):
            continue
        text = f"{precision.upper()}: {100 * macs:.1f} % of multiplications"
        parts.append(
            f'<rect x="{x}" y="{_MARGIN}" width="12" height="12" rx="2" fill="{colour}"/>'
            f'<text class="tick" x="{x + 17}" y="{_MARGIN + 10}">{text}</text>'
        )
        x += 210
    return "".join(parts)


def _short(path: str) -> str:
    """The end of a path that still tells layers apart."""
    for prefix in ("pts_backbone.", "pts_neck.", "pts_bbox_head.task_heads.0.", "pts_bbox_head."):
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return path


def _amount(macs: int) -> str:
    return f"{macs / 1e9:.2f} G" if macs >= 1e8 else f"{macs / 1e6:.1f} M"
