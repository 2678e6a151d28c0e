"""kernels/conv.cu and kernels/heads.cu in numpy: what a launch's arguments make the tensor cores read and write.

Written from the kernels' addressing, not from the plan: a wrong pitch, weight order or column shows as a wrong map.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    run_kernel(device, launch.tiling, launch.blocks, launch.values)


def run_kernel(device: ModelDevice, tiling: ConvTiling | HeadsTiling, blocks: int, values: Sequence[Any]) -> None:
    """The same from what a launch is given."""
    source, *target, arguments = values
    boxes = Boxes(device, source)
    if isinstance(tiling, ConvTiling):
        assert len(target) == tiling.staged
        stored = StoredBoxes(device, target[0]) if target else None
        _run_conv(device, boxes, stored, arguments, tiling, blocks)
    else:
        assert not target
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


class StoredBoxes:
    """Where the copy engine puts boxes of [chunk][row][column][16 bytes], each of rows of one number modulo another.

    Nothing is written outside of the map, whatever else lies there.
    """

    def __init__(self, device: ModelDevice, description: Any) -> None:
        self._address, *numbers = (int(number) for number in description[:12])
        self._sizes, self._strides, box = numbers[:4], numbers[4:7], numbers[7:]
        assert self._sizes[0] % 2 == box[0] % 2 == 0
        assert max(box) <= 256
        assert all(number % 16 == 0 for number in (self._address, *self._strides))
        self.columns, phases, self.rows, self.chunks = box[0] // 2, *box[1:]
        assert phases == 1
        self._memory = device.bytes_from(self._address)

    def store(self, box: NDArray[np.uint8], column: int, phase: int, row: int, chunk: int) -> None:
        """A box, (chunks, rows, columns, 16), whose first pixel and chunk are given."""
        assert box.shape == (self.chunks, self.rows, self.columns, 16)
        elements, phases, rows, chunks = self._sizes
        assert 0 <= phase < phases
        assert min(column, row, chunk) >= 0
        last = max(min(column + self.columns, elements // 2) - column, 0)
        for c in range(min(self.chunks, chunks - chunk)):
            for y in range(min(self.rows, rows - row)):
                steps = zip((phase, row + y, chunk + c), self._strides, strict=True)
                start = sum(step * stride for step, stride in steps) + column * 16
                self._memory[start : start + last * 16] = box[c, y, :last].reshape(-1)


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


def _run_conv(
    device: ModelDevice, boxes: Boxes, stored: StoredBoxes | None, g: Any, t: ConvTiling, blocks: int
) -> None:
    output, taps = _memory(device, g.output), t.kernel**2
    assert (boxes.chunks, boxes.rows, boxes.columns) == (t.slab_chunks, t.in_rows, t.in_columns)
    packed = _values(device, g.weights, np.uint8, g.column_tiles, t.slabs, taps, t.slab_chunks, t.n_tile, 16)
    affine = _values(device, g.affine, np.float32, g.column_tiles, t.n_tile, 2)
    assert not t.resident or blocks % g.column_tiles == 0
    if t.register_weights:
        packed = _through_registers(packed)
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
            values = np.maximum(values, 0) if t.relu else values
            if t.channels_as_rows:
                _store_rows(output, stored, values, g, t, column_tile * t.n_tile, y0, x0)
            elif stored is None:
                _store(output, values, g, t, column_tile, y0, x0)
            else:
                _stage(stored, values, g, t, column_tile, y0, x0)


def _codes(values: NDArray[np.float32], t: ConvTiling) -> NDArray[np.uint8]:
    """Words as a thread makes them of the values of their columns, which are the last axis: bytes along it."""
    stored = np.clip(np.rint(values), -128, 127).astype(np.int8) if t.out_int8 else values.astype(np.float16)
    return np.ascontiguousarray(stored).view(np.uint8)


def _stage(
    stored: StoredBoxes, values: NDArray[np.float32], g: Any, t: ConvTiling, column_tile: int, y0: int, x0: int
) -> None:
    """By way of each warp's shared memory; a word that no thread writes, or two do, is an error."""
    per_chunk, blocks = 16 if t.out_int8 else 8, g.column_tiles // t.upsample
    rows, columns, channels = t.stored_box
    chunks = channels // per_chunk
    for y in range(0, t.tile_rows, rows):
        for x in range(0, t.tile_columns, columns):
            pixels = values[y : y + rows, x : x + columns]
            shared = np.zeros((chunks, rows, columns * t.upsample, 16), np.uint8)
            written = np.zeros(shared.shape, int)
            for chunk in range(chunks):
                for i in range(t.upsample):
                    first = (chunk * t.upsample + i) * per_chunk
                    for quad in range(4):
                        held = [first + quad * 2 + at for at in ((0, 1, 8, 9) if t.out_int8 else (0, 1))]
                        # Behind the first pixel that an input pixel becomes.
                        pixel, at = divmod((quad * t.upsample + i) * 4, 16)
                        place = (chunk, slice(None), slice(pixel, None, t.upsample), slice(at, at + 4))
                        shared[place] = _codes(pixels[:, :, held], t)
                        written[place] += 1
            assert (written == 1).all()
            stored.store(shared, (x0 + x) * t.upsample, column_tile // blocks, y0 + y, column_tile % blocks * chunks)


def _through_registers(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(column tile, slab, tap, chunk, channel, 16) bytes, by way of each lane's words and what these are to wgmma.

    Of the left operand's 16 rows x 32 bytes of a warp, lane l's registers hold bytes 4 (l % 4) to + 3 of row l // 4, of
    row l // 4 + 8, and the same of the next 16 bytes.
    """
    tiles, slabs, taps, chunks, channels, _ = packed.shape
    assert slabs == 1
    operand, lane = np.zeros_like(packed), np.arange(32)
    flat = packed.reshape(tiles, taps * chunks // 2, -1)
    for row in range(0, channels, 16):
        for matrix in range(4):
            at = (matrix // 2 * channels + row) * 16 + matrix % 2 * 128 + lane * 4
            words = flat[:, :, at[:, None] + np.arange(4)]
            rows, chunk = row + lane // 4 + matrix % 2 * 8, matrix // 2
            for place in range(4):
                target = operand.reshape(tiles, taps * chunks // 2, 2, channels, 16)
                target[:, :, chunk, rows, 4 * (lane % 4) + place] = words[:, :, lane, place]
    return operand


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
                data = _codes(values[:, :, columns], t)
                for row in range(min(t.tile_rows, g.height - y0)):
                    for x in range(min(t.tile_columns, g.width - x0)):
                        pixel = ((y0 + row) * t.upsample + i + 1) * g.out_pitch + (x0 + x) * t.upsample + jj + 1
                        at = (first + j * 8 // per_chunk) * g.out_plane + pixel * 16 + quad * 4
                        output[at : at + 4] = data[row, x]


def _store_rows(
    output: NDArray[np.uint8],
    stored: StoredBoxes | None,
    values: NDArray[np.float32],
    g: Any,
    t: ConvTiling,
    first: int,
    y0: int,
    x0: int,
) -> None:
    """Each warp's 16 channels, from `first` on, of its warpgroup's pixels."""
    columns = t.across * 8
    for channel in range(0, t.n_tile, 16):
        chunk = (first + channel) // (16 if t.out_int8 else 8)
        for part in range(0, t.tile_columns, columns):
            box = _warp_pixels(values[:, part : part + columns, channel : channel + 16], t)
            if stored is not None:
                stored.store(box, x0 + part, 0, y0, chunk)
                continue
            for index, pixels in enumerate(box):
                for row in range(min(t.tile_rows, g.height - y0)):
                    inside = max(min(columns, g.width - x0 - part), 0)
                    at = (chunk + index) * g.out_plane + ((y0 + row + 1) * g.out_pitch + x0 + part + 1) * 16
                    output[at : at + inside * 16] = pixels[row, :inside].reshape(-1)


def _warp_pixels(values: NDArray[np.float32], t: ConvTiling) -> NDArray[np.uint8]:
    """(chunks, rows, columns, 16) bytes of a warp's channels, (rows, columns, 16), made lane by lane."""
    lane = np.arange(32)
    of_eight, quad = lane // 4, lane % 4
    # Lane l's sums of eight pixels: rows l // 4 and + 8 of pixels 2 (l % 4) and + 1.
    sums = values.reshape(len(values), -1, 8, 16)
    held = np.stack([sums[:, :, 2 * quad + i % 2, of_eight + 8 * (i // 2)] for i in range(4)], axis=-1)
    registers = [[0, 2, 1, 3]] if t.out_int8 else [[0, 1], [2, 3]]
    # A lane's word is the (l % 4)-th of pixel l // 4.
    words = [_transposed(_codes(held[..., places], t).view(np.uint16)) for places in registers]
    return np.stack([word.view(np.uint8).reshape(*values.shape[:2], 16) for word in words])


def _transposed(pairs: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """`movmatrix.trans`: of 8 x 8 elements, lane l gives 2 (l % 4) and + 1 of row l // 4, gets the column's."""
    return np.ascontiguousarray(pairs.reshape(*pairs.shape[:-2], 8, 8).swapaxes(-1, -2)).reshape(pairs.shape)


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
