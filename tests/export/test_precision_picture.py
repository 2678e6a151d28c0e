"""The picture of a network by precision: what each box says, and that no box or line covers another."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from export.qdq.precision_map import LayerPrecision, PrecisionMap
from export.qdq.precision_picture import draw_precision_map

SVG = "{http://www.w3.org/2000/svg}"
COLOURS = {"int8": "#2a8f5b", "fp16": "#3b7dd8", "fp32": "#8a7340"}


def layer(path: str, *inputs: str, precision: str = "int8", written: str = "int8", macs: int = 10**6) -> LayerPrecision:
    return LayerPrecision(path, f"/{path}/Conv", "Conv", (3, 3), precision, written, macs, 2500, 10**6, 250_000, inputs)


# Name -> layers, each after what it reads.
GRAPHS = {
    "one": [layer("a", "")],
    "a chain": [layer("a", ""), layer("b", "a"), layer("c", "b"), layer("d", "c")],
    "a neck": [
        layer("a", ""),
        layer("b", "a"),
        layer("c", "b"),
        layer("up.0", "a"),
        layer("up.1", "b"),
        layer("up.2", "c"),
        layer("shared", "up.0", "up.1", "up.2"),
    ],
    "heads": [
        layer("a", ""),
        *(layer(f"h.{i}.0", "a") for i in range(6)),
        *(layer(f"h.{i}.1", f"h.{i}.0") for i in range(6)),
    ],
    "a short cut": [layer("a", ""), layer("b", "a"), layer("c", "b"), layer("d", "a", "c"), layer("e", "", "d")],
}


def draw(layers: list[LayerPrecision]) -> ElementTree.Element:
    picture = draw_precision_map(PrecisionMap("net", tuple(layers)))
    return ElementTree.fromstring(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def box_of(group: ElementTree.Element) -> tuple[float, float, float, float]:
    """x, y, width, height."""
    outline = group.find(f"{SVG}rect")
    assert outline is not None
    x, y, width, height = (float(outline.attrib[key]) for key in ("x", "y", "width", "height"))
    return x, y, width, height


def boxes(picture: ElementTree.Element) -> dict[str, tuple[float, float, float, float]]:
    """Path -> box, by the title that a pointer brings up."""
    found = {}
    for group in picture.iter(f"{SVG}g"):
        title = group.findtext(f"{SVG}title")
        assert title is not None
        found[title.split(":")[0]] = box_of(group)
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_no_box_covers_another_and_every_one_is_below_what_it_reads(name: str) -> None:
    layers, picture = GRAPHS[name], draw(GRAPHS[name])
    found = boxes(picture)
    assert list(found) == [item.path for item in layers]
    assert len(set(found.values())) == len(layers)
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    placed = list(found.values())
    for index, (x, y, w, h) in enumerate(placed):
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        for x1, y1, w1, h1 in placed[:index]:
            assert x + w < x1 or x1 + w1 < x or y + h < y1 or y1 + h1 < y
    for item in layers:
        for source in filter(None, item.inputs):
            assert found[source][1] + found[source][3] < found[item.path][1]
    # Rows are as few as the longest way through the network: nothing is further down than it must be.
    depth: dict[str, int] = {}
    for item in layers:
        depth[item.path] = 1 + max((depth[source] for source in item.inputs if source), default=0)
    rows = sorted({box[1] for box in placed})
    assert {path: rows.index(box[1]) + 1 for path, box in found.items()} == depth


# The main line stays straight: what it feeds over a short cut is drawn behind its boxes.
@pytest.mark.parametrize("name", sorted(GRAPHS.keys() - {"a short cut"}))
def test_an_arrow_for_every_tensor_around_all_other_boxes(name: str) -> None:
    layers, picture = GRAPHS[name], draw(GRAPHS[name])
    found = boxes(picture)
    drawn = []
    for path in picture.iter(f"{SVG}path"):
        x0, y0, middle, x1, y1 = (
            float(number)
            for group in re.findall(r"M(\d+) (\d+)V(\d+)H(\d+)V(\d+)", path.attrib["d"])
            for number in group
        )
        drawn.append((x0, y0, x1, y1))
        assert y0 < middle < y1
        for x, y, w, h in found.values():
            # Down from the source, and along just above the target.
            assert not (x <= x0 <= x + w and y0 < y + h and y <= middle)
            assert not y <= middle <= y + h
    wanted = []
    for item in layers:
        for source in filter(None, item.inputs):
            (x, y, w, h), (x1, y1, w1, _) = found[source], found[item.path]
            wanted.append((x + w / 2, y + h, x1 + w1 / 2, y1))
    assert sorted(drawn) == sorted(wanted)


def test_the_main_line_is_straight() -> None:
    found = boxes(draw(GRAPHS["a neck"]))
    assert found["a"][0] == found["b"][0] == found["c"][0] == found["up.2"][0]
    assert found["up.0"][0] > found["a"][0]


def test_a_box_says_what_the_layer_is() -> None:
    layers = [
        layer("pts_backbone.blocks.0.0", "", macs=1_500_000),
        layer("pts_neck.up<0>", "pts_backbone.blocks.0.0", written="fp16", macs=99_900_000),
        layer("pts_bbox_head.shared", "pts_neck.up<0>", precision="fp16", written="fp32", macs=100_000_000),
        layer("pts_bbox_head.task_heads.0.reg.1", "pts_bbox_head.shared", precision="fp32", written="fp32"),
        layer("other.x", "pts_bbox_head.shared", precision="fp32", written="fp32", macs=3_000_000),
    ]
    picture = draw(layers)
    groups = list(picture.iter(f"{SVG}g"))
    shown = [[text.text for text in group.iter(f"{SVG}text")] for group in groups]
    assert shown == [
        ["blocks.0.0", "3x3", "1.5 M"],
        ["up<0>", "3x3", "99.9 M"],
        ["shared", "3x3", "0.10 G"],
        ["reg.1", "3x3", "1.0 M"],
        ["other.x", "3x3", "3.0 M"],
    ]
    for item, group in zip(layers, groups, strict=True):
        outline, stripe, below = group.iter(f"{SVG}rect")
        assert outline.attrib["fill"] == outline.attrib["stroke"] == stripe.attrib["fill"] == COLOURS[item.precision]
        assert below.attrib["fill"] == COLOURS[item.output_precision]
        # Both stripes lie within the box.
        x, y, w, h = box_of(group)
        for part in (stripe, below):
            x1, y1, w1, h1 = (float(part.attrib[key]) for key in ("x", "y", "width", "height"))
            assert x <= x1 < x1 + w1 <= x + w
            assert y <= y1 < y1 + h1 <= y + h
    assert groups[1].findtext(f"{SVG}title") == (
        "pts_neck.up<0>: Conv 3x3, int8, writes fp16; 99.9 M multiplications, 2.5 kB of weights, 1.25 MB in and out"
    )
    assert picture.attrib["aria-label"] == "Precision of each layer of net"


def test_the_legend_names_what_is_in_the_picture() -> None:
    layers = [layer("a", "", macs=3_000_000), layer("b", "a", precision="fp32", written="fp32", macs=1_000_000)]
    picture = draw(layers)
    texts = [text.text for text in picture.findall(f"{SVG}text")]
    assert texts == ["INT8: 75.0 % of multiplications", "FP32: 25.0 % of multiplications"]
    fills = [rect.attrib["fill"] for rect in picture.findall(f"{SVG}rect")]
    assert fills == [COLOURS["int8"], COLOURS["fp32"]]
    places = [float(text.attrib["x"]) for text in picture.findall(f"{SVG}text")]
    assert places[1] - places[0] > 200
    # Written codes count as well: a layer in FP16 that writes INT8.
    picture = draw([layer("a", "", precision="fp16")])
    texts = [text.text for text in picture.findall(f"{SVG}text")]
    assert texts == ["INT8: 0.0 % of multiplications", "FP16: 100.0 % of multiplications"]


def test_an_empty_network() -> None:
    picture = draw([])
    assert list(picture) == []
