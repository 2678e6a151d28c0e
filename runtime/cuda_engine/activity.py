"""Which tiles of a network's layers a frame must compute, found on the device: see kernels/activity.cu.

Where no pillar lies in a tile's reach (`reach`), its pixels are what the network makes of an empty canvas. Every map
holds that background to begin with; a frame computes the tiles that a pillar reaches and those that one reached in the
frame before, so that the background comes back by itself. Results are those of all tiles, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ConfigError
from runtime.cuda.device import pointers
from runtime.cuda_engine.macros import definitions, kernel_source
from runtime.cuda_engine.parts import MOST_PARTS
from runtime.cuda_engine.pillar_parameters import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.arguments import TilesArguments
    from runtime.cuda_engine.reach import Reach

__all__ = ["ActivitySizes", "TileActivity", "TiledLayer", "tile_words"]

_KERNELS = ("activity_mark", "activity_list")
_MOST_CELLS = 8192
# Of a layer: tiles from the front of its list and from its back, int32 each.
_COUNT_BYTES = 8
# What kernels/activity.cu calls a piece: as many tiles of a row as a warp has lanes.
_LANES = 32
# Tables of bits that take turns, and two numbers beside them.
_TABLES, _STATE_BYTES = 3, 8


@dataclass(frozen=True)
class ActivitySizes:
    """Of the kernels; no result depends on them."""

    mark_threads: int = 1024
    mark_pillars: int = 4
    list_threads: int = 256
    band_rows: int = 8


@dataclass(frozen=True, eq=False)
class TiledLayer:
    """A layer as it is cut.

    Attributes:
        label: Of its launch.
        reaches: Of its pixels, by way of each part of its input (`parts`).
        tile_rows, tile_columns: Pixels of a tile.
    """

    label: str
    reaches: tuple[Reach, ...]
    tile_rows: int
    tile_columns: int

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-len(self.reaches[0].rows) // self.tile_rows)

    @property
    def across(self) -> int:
        """Tiles in a row of tiles."""
        return -(-len(self.reaches[0].columns) // self.tile_columns)

    @property
    def tile_reaches(self) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
        """By part: (down, 2) first and last rows of the canvas of each row of tiles; (across, 2) columns likewise."""
        return tuple(
            (_of_tiles(reach.rows, self.tile_rows), _of_tiles(reach.columns, self.tile_columns))
            for reach in self.reaches
        )


def tile_words(
    rows: NDArray[np.int64], columns: NDArray[np.int64], parts: NDArray[np.int64] | int
) -> NDArray[np.uint32]:
    """Tiles as lists hold them: `tile_word` of kernels/tiles.cuh."""
    words: NDArray[np.uint32] = (rows << 14 + MOST_PARTS | columns << MOST_PARTS | parts).astype(np.uint32)
    return words


class TileActivity:
    """The active tiles of the layers of one network, made anew by each `enqueue`.

    Attributes:
        layers: In the order of their lists.
    """

    def __init__(
        self,
        device: CudaDevice,
        size: tuple[int, int],
        layers: Sequence[TiledLayer],
        sizes: ActivitySizes | None = None,
    ) -> None:
        """Compiles and allocates.

        Args:
            device: Where it runs.
            size: Cells of the canvas (height, width).
            layers: Of the network.
            sizes: Of the kernels.

        Raises:
            ConfigError: more cells along a side than the kernels take.
        """
        height, width = size
        if max(size) > _MOST_CELLS:
            raise ConfigError(
                f"a canvas of {width} x {height} cells: empty tiles are skipped on at most {_MOST_CELLS} cells a side"
            )
        self.layers = tuple(layers)
        self._device, self._sizes = device, sizes or ActivitySizes()
        described = _described(self.layers, self._sizes.list_threads // _LANES)
        grid = {"GRID_X": width, "GRID_Y": height, "SPANS": described.spans, "LAYERS": len(layers)}
        macros = {**grid, **definitions(self._sizes), "MOST_PARTS": MOST_PARTS}
        macros |= {"COUNTER_VOXELS": COUNTERS.definitions["COUNTER_VOXELS"]}
        kernels = device.compile_all(
            kernel_source(macros, "intrinsics.cuh", "overlap.cuh", "tiles.cuh", "activity.cu"), _KERNELS
        )
        self._mark, self._list = (kernels[name] for name in _KERNELS)
        rows = height + -(-height // self._sizes.band_rows)
        self._every: NDArray[np.uint32] = np.full(_TABLES * rows * -(-width // 32), 0xFFFFFFFF, np.uint32)
        self._tables, self._state = device.allocate(self._every.nbytes), device.allocate(_STATE_BYTES)
        lists = device.allocate(sum(layer.down * layer.across for layer in layers) * 4)
        self._lists, self._counts = lists, device.allocate(len(layers) * _COUNT_BYTES)
        self._offsets, self._fixed = described.records[:, 2], described.records[:, 4]
        # Until `always_read` says otherwise, all parts of a tile are read.
        fixed, every = max(sum(map(_fixed_bytes, layers)), 1), (1 << MOST_PARTS) - 1
        self._always = device.upload_new(np.full(fixed, every, np.uint8))
        self._num_blocks = len(described.blocks)
        constant = (described.records, described.blocks, described.pieces, described.reaches)
        found = device.allocate(self._num_blocks * 8)
        self._listed = [*map(device.upload_new, constant), self._always, self._tables, self._state, found]
        self._listed += [self._lists, self._counts]

    def feed(self, label: str, tiles: TilesArguments) -> None:
        """Makes a launch compute its list instead of all tiles."""
        index = self._index(label)
        tiles.list = self._lists + int(self._offsets[index]) * 4
        tiles.counts = self._counts + index * _COUNT_BYTES

    def always_read(self, label: str, parts: NDArray[np.uint8], stream: int) -> None:
        """Tells which parts a tile reads in every frame, beside those that a pillar reaches. Waits for the stream.

        Args:
            label: Of a layer of several parts.
            parts: (down, across) a bit for each.
        """
        fixed = int(self._fixed[self._index(label)])
        assert fixed >= 0
        self._device.upload(self._always + fixed, np.ascontiguousarray(parts).reshape(-1), stream)
        self._device.synchronize(stream)

    def enqueue_marks(self, pillars: int, counters: int, stream: int) -> None:
        """Puts the marking of a frame's pillars on the stream; may be captured.

        Args:
            pillars: Address of (n, 4) int32 whose last number is row << 16 | column.
            counters: Address of the counters, the fields of `VoxelCounts`.
        """
        marked = [pillars, counters, self._tables, self._state]
        self._launch(self._mark, self._device.num_multiprocessors, self._sizes.mark_threads, marked, stream)

    def mark_all(self, stream: int) -> None:
        """Marks every cell: the next run computes all tiles, and the one after it too."""
        self._device.upload(self._tables, self._every, stream)

    def enqueue(self, stream: int) -> None:
        """Puts the making of the lists on the stream; may be captured. The marks are cleared."""
        self._launch(self._list, self._num_blocks, self._sizes.list_threads, self._listed, stream)

    def counts(self, stream: int) -> dict[str, tuple[int, int]]:
        """Layer -> (active tiles of the last run, all tiles). Waits for the stream."""
        values: NDArray[np.int32] = np.zeros((len(self.layers), 2), np.int32)
        self._device.download(values, self._counts, stream)
        self._device.synchronize(stream)
        pairs = zip(self.layers, values.sum(axis=1), strict=True)
        return {layer.label: (int(count), layer.down * layer.across) for layer, count in pairs}

    def _index(self, label: str) -> int:
        return [layer.label for layer in self.layers].index(label)

    def _launch(self, kernel: Any, blocks: int, threads: int, addresses: list[int], stream: int) -> None:
        overlap = self._device.compute_capability >= (9, 0)
        self._device.launch(kernel, blocks, threads, pointers(*addresses), stream, overlap=overlap)


@dataclass(frozen=True, eq=False)
class _Described:
    """Layers as the kernels have them; one row for each, each field an int32 or a uint32 (kernels/activity.cu).

    Attributes:
        records: Of layers.
        blocks: Of activity_list.
        pieces: Of the warps of these blocks.
        reaches: Last << 16 | first column of the canvas, of columns of tiles.
        spans: Most groups of 32 words that the columns of a piece reach over.
    """

    records: NDArray[np.int32]
    blocks: NDArray[np.int32]
    pieces: NDArray[np.uint32]
    reaches: NDArray[np.uint32]
    spans: int


def _described(layers: Sequence[TiledLayer], warps: int) -> _Described:
    reaches: list[NDArray[np.int64]] = []
    blocks: list[NDArray[np.int64]] = []
    records, pieces, filled, listed, fixed, spans = [], [], 0, 0, 0, 1
    for index, layer in enumerate(layers):
        parts, tiles, always = layer.tile_reaches, layer.down * layer.across, _fixed_bytes(layer)
        records.append((layer.across, tiles, listed, len(parts), fixed if always else -1, warps // len(parts)))
        held = _pieces(layer, warps, filled)
        last = np.arange(len(held)) == len(held) - 1
        begin = sum(map(len, blocks))
        blocks.append(np.stack([np.full(len(held), index), np.full(len(held), begin), last], axis=1))
        pieces.append(held)
        for _, columns in parts:
            first = columns[::_LANES, 0] // 32
            end = columns[np.minimum(np.arange(0, layer.across, _LANES) + _LANES, layer.across) - 1, 1] // 32
            spans = max(spans, -(-int((end - first).max() + 1) // 32))
            reaches.append(columns)
        filled += len(parts) * layer.across
        listed += tiles
        fixed += always
    return _Described(
        np.array(records, np.int32),
        np.concatenate(blocks).astype(np.int32),
        np.concatenate(pieces).reshape(-1, 4),
        _packed(np.concatenate(reaches)),
        spans,
    )


def _pieces(layer: TiledLayer, warps: int, place: int) -> NDArray[np.uint32]:
    """(blocks, warps, 4): a layer's, the reaches of whose columns begin at a place; zeros for warps without one."""
    parts = layer.tile_reaches
    firsts = np.arange(0, layer.across, _LANES)
    row, first = (each.ravel() for each in np.meshgrid(np.arange(layer.down), firsts, indexing="ij"))
    tiles = np.minimum(layer.across - first, _LANES) << 16 | first
    abreast = warps // len(parts)
    assert abreast > 0
    block, warp = np.divmod(np.arange(len(row)), abreast)
    pieces = np.zeros((block[-1] + 1, warps, 4), np.uint32)
    for part, (rows, _) in enumerate(parts):
        columns = place + part * layer.across + first
        pieces[block, part * abreast + warp] = np.stack([_packed(rows)[row], columns, row, tiles], axis=1)
    return pieces


def _packed(reaches: NDArray[np.int64]) -> NDArray[np.uint32]:
    """(n, 2) first and last of each as one word."""
    packed: NDArray[np.uint32] = (reaches[:, 1] << 16 | reaches[:, 0]).astype(np.uint32)
    return packed


def _fixed_bytes(layer: TiledLayer) -> int:
    return layer.down * layer.across if len(layer.reaches) > 1 else 0


def _of_tiles(reach: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """(tiles, 2): what `size` pixels after each other depend on."""
    first = np.arange(0, len(reach), size)
    return np.stack([reach[first, 0], reach[np.minimum(first + size, len(reach)) - 1, 1]], axis=1)
