"""kernels/conv.cu and kernels/heads.cu in numpy: what a launch's arguments make the tensor cores read and write.

Written from the kernels' addressing, not from the plan: a wrong pitch, weight order or column shows as a wrong map.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.cuda_engine.heads_tiling import HeadsTiling
from runtime.cuda_engine.network import Launch
from runtime.cuda_engine.tiling import ConvTiling


class ModelDevice(Protocol):
    """Device memory that a test can reach."""

    def bytes_from(self, address: int) -> NDArray[np.uint8]:
        """The memory itself from an address to the end of its allocation."""


def run_launch(device: ModelDevice, launch: Launch) -> None:
    """Does to the device's memory what the kernel would."""
    run_kernel(device, launch.tiling, launch.blocks, launch.source, launch.arguments)


def run_kernel(device: ModelDevice, tiling: ConvTiling | HeadsTiling, blocks: int, source: Any, arguments: Any) -> None:
    """The same from what a launch is given."""
    boxes = Boxes(device, source)
    if isinstance(tiling, ConvTiling):
        _run_conv(device, boxes, arguments, tiling, blocks)
    else:
        _run_heads(device, boxes, arguments, tiling)


class Boxes:
    """What the copy engine brings of a map: boxes of [chunk][row][column][16 bytes], zero outside of it.

    Written from the tensor map's description: elements of 8 bytes, the fastest running dimension first.
    """

    def __init__(self, device: ModelDevice, description: Any) -> None:
        self._address, *numbers = (int(number) for number in description[:9])
        (self._columns, self._rows, self._chunks), (self._pitch, self._plane), box = (
            numbers[:3], numbers[3:5], numbers[5:]
        )  # fmt: skip
        assert self._columns % 2 == box[0] % 2 == 0
        assert max(box) <= 256
        assert self._address % 16 == self._pitch % 16 == self._plane % 16 == 0
        self.columns, self.rows, self.chunks = box[0] // 2, box[1], box[2]
        self._memory = device.bytes_from(self._address)

    def load(self, column: int, row: int, chunk: int) -> NDArray[np.uint8]:
        """The box whose first pixel and chunk are given: (chunks, rows, columns, 16)."""
        box = np.zeros((self.chunks, self.rows, self.columns, 16), np.uint8)
        chunks = range(chunk, min(chunk + self.chunks, self._chunks))
        rows = range(max(row, 0), min(row + self.rows, self._rows))
        first, last = max(column, 0), min(column + self.columns, self._columns // 2)
        for c in chunks:
            for y in rows:
                start = c * self._plane + y * self._pitch + first * 16
                pixels = self._memory[start : start + (last - first) * 16].reshape(-1, 16)
                box[c - chunk, y - row, first - column : last - column] = pixels
        return box


def tiling_of(source: str) -> ConvTiling | HeadsTiling:
    """The tiling that a kernel's source was made for, from its definitions."""
    macros = {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)$", source, re.MULTILINE)}
    kind: Any = ConvTiling if "N_TILE" in macros else HeadsTiling
    values = {item.name: macros[item.name.upper()] for item in fields(kind)}
    flags = {item.name: bool(values[item.name]) for item in fields(kind) if item.type == "bool"}
    tiling: ConvTiling | HeadsTiling = kind(**(values | flags))
    return tiling


def _memory(device: ModelDevice, address: int) -> NDArray[np.uint8]:
    """Bytes from an address that may lie inside an allocation, to its end."""
    return device.bytes_from(address)


def _values(device: ModelDevice, address: int, dtype: Any, *shape: int) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    values: NDArray[Any] = device.bytes_from(address)[:size].view(dtype).reshape(shape)
    return values


def _patch(box: NDArray[np.uint8], y: int, x: int, step: int, rows: int, columns: int) -> NDArray[Any]:
    """(rows, columns, chunks * 16) bytes of a box's pixels that lie `step` apart, from (y, x) on."""
    pixels = box[:, y : y + (rows - 1) * step + 1 : step, x : x + (columns - 1) * step + 1 : step]
    return pixels.transpose(1, 2, 0, 3).reshape(rows, columns, -1)


def listed_words(device: ModelDevice, tiles: Any) -> list[int]:
    """The words of a list in the order in which kernels take them: from its front, then from its back."""
    front, back = (int(count) for count in _values(device, tiles.counts, np.int32, 2))
    assert min(front, back) >= 0
    assert front + back <= tiles.all
    words = [int(word) for word in _values(device, tiles.list, np.uint32, tiles.all)]
    return words[:front] + words[tiles.all - back :][::-1]


def _tiles(device: ModelDevice, tiles: Any) -> list[tuple[int, int, int]]:
    """(row, column, bits of the parts that it reads) of the tiles that a launch computes."""
    if not tiles.list:
        return [(*divmod(index, tiles.across), 15) for index in range(tiles.all)]
    return [(word >> 18, word >> 4 & 0x3FFF, word & 15) for word in listed_words(device, tiles)]


def _numbers(data: NDArray[np.uint8], int8: bool) -> NDArray[np.float64]:
    return np.ascontiguousarray(data).view(np.int8 if int8 else np.float16).astype(np.float64)


def _run_conv(device: ModelDevice, boxes: Boxes, g: Any, t: ConvTiling, blocks: int) -> None:
    output, taps = _memory(device, g.output), t.kernel**2
    assert (boxes.chunks, boxes.rows, boxes.columns) == (t.slab_chunks, t.in_rows, t.in_columns)
    packed = _values(device, g.weights, np.uint8, g.column_tiles, t.slabs, taps, t.slab_chunks, t.n_tile, 16)
    affine = _values(device, g.affine, np.float32, g.column_tiles, t.n_tile, 2)
    assert not t.resident or blocks % g.column_tiles == 0
    slabs_of_part = t.slabs // t.parts
    for row, column, parts in _tiles(device, g.tiles):
        y0, x0 = row * t.tile_rows, column * t.tile_columns
        spans = (y0, t.tile_rows), (x0, t.tile_columns)
        read = [slab for slab in range(t.slabs) if t.parts == 1 or parts >> (slab // slabs_of_part) & 1]
        first = x0 * t.stride - t.padding + 1, y0 * t.stride - t.padding + 1
        box = np.concatenate([boxes.load(*first, slab * t.slab_chunks) for slab in read])
        left = [
            _patch(box, tap // t.kernel, tap % t.kernel, t.stride, t.tile_rows, t.tile_columns) for tap in range(taps)
        ]
        for column_tile in range(g.column_tiles):
            sums = np.zeros((t.tile_rows, t.tile_columns, t.n_tile))
            if t.parts > 1 and len(read) < t.slabs:
                shape = (t.parts, t.period, t.period, g.column_tiles, t.n_tile)
                background = _values(device, g.background, np.int32, *shape)[..., column_tile, :]
                phases = np.ix_(*((start + np.arange(size)) % t.period for start, size in spans))
                sums += sum(background[part][phases] for part in range(t.parts) if not parts >> part & 1)
            for tap in range(taps):
                right = packed[column_tile, read, tap].transpose(2, 0, 1, 3).reshape(t.n_tile, -1)
                sums += _numbers(left[tap], t.in_int8) @ _numbers(right, t.in_int8).T
            scale, bias = affine[column_tile].T
            # fmaf: one rounding.
            values = (np.float32(sums).astype(np.float64) * scale + bias).astype(np.float32)
            _store(output, np.maximum(values, 0) if t.relu else values, g, t, column_tile, y0, x0)


def _store(
    output: NDArray[np.uint8], values: NDArray[np.float32], g: Any, t: ConvTiling, column_tile: int, y0: int, x0: int
) -> None:
    if t.out_dense:
        rows, columns = min(t.tile_rows, g.height - y0), min(t.tile_columns, g.width - x0)
        for column in range(min(t.n_tile, g.channels - column_tile * t.n_tile)):
            for row in range(rows):
                at = (column_tile * t.n_tile + column) * g.out_plane + ((y0 + row) * g.out_pitch + x0) * 4
                data = np.ascontiguousarray(values[row, :columns, column]).view(np.uint8)
                output[at : at + len(data)] = data
        return
    per_pixel, per_chunk = t.n_tile // t.upsample, 16 if t.out_int8 else 8
    blocks = g.column_tiles // t.upsample
    i, first = column_tile // blocks, column_tile % blocks * per_pixel // per_chunk
    i = 0 if t.upsample == 1 else i
    for jj in range(t.upsample):
        for j in range(0, per_pixel // 8, 2 if t.out_int8 else 1):
            for quad in range(4):
                column = jj * per_pixel + j * 8 + quad * 2
                columns = [column, column + 1, column + 8, column + 9] if t.out_int8 else [column, column + 1]
                words = values[:, :, columns]
                stored = np.clip(np.rint(words), -128, 127).astype(np.int8) if t.out_int8 else words.astype(np.float16)
                data = np.ascontiguousarray(stored).view(np.uint8)
                for row in range(min(t.tile_rows, g.height - y0)):
                    for x in range(min(t.tile_columns, g.width - x0)):
                        pixel = ((y0 + row) * t.upsample + i + 1) * g.out_pitch + (x0 + x) * t.upsample + jj + 1
                        at = (first + j * 8 // per_chunk) * g.out_plane + pixel * 16 + quad * 4
                        output[at : at + 4] = data[row, x]


def _run_heads(device: ModelDevice, boxes: Boxes, g: Any, t: HeadsTiling) -> None:
    assert (boxes.chunks, boxes.rows, boxes.columns) == (t.chunks, t.tile_rows, t.tile_columns)
    hidden = _values(device, g.hidden, np.uint8, t.branches, t.chunks, t.hidden, 16)
    last = _values(device, g.last, np.float16, t.branches, t.hidden // 8, t.last_tile, 8)
    affine = _values(device, g.affine, np.float32, t.branches, t.hidden, 2)
    bias = _values(device, g.bias, np.float32, t.branches, t.last_tile)
    for row, column, _ in _tiles(device, g.tiles):
        y0, x0 = row * t.tile_rows, column * t.tile_columns
        left = _patch(boxes.load(x0 + 1, y0 + 1, 0), 0, 0, 1, t.tile_rows, t.tile_columns)
        for branch in range(t.branches):
            right = hidden[branch].transpose(1, 0, 2).reshape(t.hidden, -1)
            sums = _numbers(left, t.in_int8) @ _numbers(right, t.in_int8).T
            scale, shift = affine[branch].T
            values = (np.float32(sums).astype(np.float64) * scale + shift).astype(np.float32)
            activations = np.maximum(values, 0).astype(np.float16).astype(np.float64)
            weight = last[branch].transpose(1, 0, 2).reshape(t.last_tile, -1).astype(np.float64)
            results = np.float32(activations @ weight.T) + bias[branch]
            rows, columns = min(t.tile_rows, g.height - y0), min(t.tile_columns, g.width - x0)
            maps = _values(device, g.outputs[branch], np.float32, g.channels[branch], g.height, g.width)
            part = results[:rows, :columns, : g.channels[branch]].transpose(2, 0, 1)
            maps[:, y0 : y0 + rows, x0 : x0 + columns] = part
