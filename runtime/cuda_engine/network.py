"""A network plan on one GPU: its maps, its packed weights and its kernels, launched in order on one stream."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.cuda_engine.activity import TileActivity, TiledLayer
from runtime.cuda_engine.arguments import ConvArguments, TilesArguments, heads_arguments
from runtime.cuda_engine.heads_tiling import HeadsTiling, heads_signature, heads_tilings
from runtime.cuda_engine.packing import pack_conv, pack_conv_affine, pack_heads_affine, pack_hidden, pack_last
from runtime.cuda_engine.parts import part_reaches, parts_background, with_parts
from runtime.cuda_engine.plan import HeadsLayer
from runtime.cuda_engine.reach import map_reaches
from runtime.cuda_engine.sources import ARCHITECTURE, conv_source, heads_source
from runtime.cuda_engine.tiling import ConvTiling, conv_signature, conv_tilings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.plan import FusedConv, NetworkPlan, PlanMap
    from runtime.cuda_engine.reach import Reach

__all__ = ["DeviceMap", "DeviceNetwork", "Launch", "Tiling", "channels_per_chunk", "heads_label"]

Tiling = ConvTiling | HeadsTiling
# Pixels of 16 bytes in a line of the caches.
_LINE = 8
# Products for each number that a layer writes, from which on it waits for the tensor cores, not for its stores. Then
# loads, of which those of 3x3 tiles begin a pixel further left, had better begin with a line.
_MANY_PRODUCTS = 576


@dataclass(frozen=True)
class DeviceMap:
    """A feature map in device memory, blocked and padded (see kernels/hopper.cuh).

    Attributes:
        address: Of its first byte.
        chunks: Of 16 bytes: 16 int8 or 8 float16 channels.
        pitch: Pixels from one row to the next: a row with its border, or more.
        plane: Bytes of one chunk.
    """

    map: PlanMap
    address: int
    chunks: int
    pitch: int
    plane: int

    @classmethod
    def allocate(cls, device: CudaDevice, plan_map: PlanMap, *, in_lines: bool) -> DeviceMap:
        """Zeroed, so that its border is.

        Args:
            device: Where it lies.
            plan_map: Of the plan.
            in_lines: Whether each row's first pixel begins a line of the caches, so that eight pixels that are stored
                together are one line and no line is stored in two parts; else rows follow each other without a gap.
        """
        per_chunk, line = channels_per_chunk(plan_map), _LINE if in_lines else 1
        chunks, pitch = -(-plan_map.channels // per_chunk), -(-(plan_map.width + 2) // line) * line
        plane = (plan_map.height + 2) * pitch * 16
        # A pixel of border ends a line.
        skipped = (line - 1) * 16
        return cls(plan_map, device.allocate(chunks * plane + skipped) + skipped, chunks, pitch, plane)

    def boxes(self, device: CudaDevice, first_channel: int, chunks: int, rows: int, columns: int) -> ctypes.Array[Any]:
        """The tensor map of boxes of so many chunks, rows and pixels, chunks counted from that of a channel.

        Boxes begin at any pixel of the padded map and hold zeros beyond its end.
        """
        skipped = first_channel // channels_per_chunk(self.map)
        sizes = (2 * (self.map.width + 2), self.map.height + 2, self.chunks - skipped)
        address = self.address + skipped * self.plane
        return device.tensor_map(address, sizes, (self.pitch * 16, self.plane), (2 * columns, rows, chunks))

    def stored_boxes(self, device: CudaDevice, conv: FusedConv, tiling: ConvTiling) -> ctypes.Array[Any]:
        """The tensor map of the boxes that a layer's staged results are: its own chunks, without a border.

        Boxes are of rows of one number modulo the upsampling: [chunk][row // upsample][row % upsample][column].
        """
        per_chunk, upsample = channels_per_chunk(self.map), conv.upsample
        skipped, row = conv.target_channel // per_chunk, self.pitch * 16
        sizes = (2 * self.map.width, upsample, self.map.height // upsample, conv.out_channels // per_chunk)
        rows, columns, channels = tiling.stored_box
        box = (2 * columns * upsample, 1, rows, channels // per_chunk)
        # The first pixel lies behind a row and a pixel of border.
        address = self.address + skipped * self.plane + row + 16
        return device.tensor_map(address, sizes, (row, upsample * row, self.plane), box)

    def read(self, device: CudaDevice, stream: int) -> NDArray[Any]:
        """The map on the host, for checks: (channels, height, width), int8 codes or float16. Waits for the stream."""
        dense = self._blocked(device, stream)[:, 1:-1, 1 : self.map.width + 1].transpose(0, 3, 1, 2)
        return dense.reshape(-1, self.map.height, self.map.width)[: self.map.channels]

    def read_border(self, device: CudaDevice, stream: int) -> NDArray[Any]:
        """All elements of the border and of gaps between rows, for checks: zeros. Waits for the stream."""
        blocked = self._blocked(device, stream)
        sides = blocked[:, [0, -1]], blocked[:, :, 0], blocked[:, :, self.map.width + 1 :]
        return np.concatenate([side.ravel() for side in sides])

    def read_padded(self, device: CudaDevice, stream: int, first: int, chunks: int) -> NDArray[Any]:
        """Some chunks on the host as they lie: (chunks, height + 2, width + 2, channels of a chunk)."""
        return self._rows(device, stream, first, chunks)[:, :, : self.map.width + 2]

    def write(self, device: CudaDevice, stream: int, values: NDArray[Any]) -> None:
        """Sets the map from (channels, height, width) int8 codes or float16, for checks. Waits for the stream."""
        blocked = np.zeros(self._shape, self.map.type)
        per_chunk = channels_per_chunk(self.map)
        for channel, plane in enumerate(values):
            blocked[channel // per_chunk, 1:-1, 1 : self.map.width + 1, channel % per_chunk] = plane
        device.upload(self.address, blocked, stream)
        device.synchronize(stream)

    def _blocked(self, device: CudaDevice, stream: int) -> NDArray[Any]:
        return self._rows(device, stream, 0, self.chunks)

    def _rows(self, device: CudaDevice, stream: int, first: int, chunks: int) -> NDArray[Any]:
        blocked = np.empty((chunks, *self._shape[1:]), self.map.type)
        device.download(blocked, self.address + first * self.plane, stream)
        device.synchronize(stream)
        return blocked

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.chunks, self.map.height + 2, self.pitch, channels_per_chunk(self.map)


def channels_per_chunk(plan_map: PlanMap) -> int:
    """Channels in 16 bytes of a map."""
    return 16 if plan_map.type == "int8" else 8


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel with its arguments, ready to be put on a stream.

    Attributes:
        label: ONNX node of the layer; `heads_label` for several branches at once.
        source: Tensor map of what it reads.
        tiling: How it is cut.
        target: Tensor map of what it writes, where its results are staged.
    """

    label: str
    kernel: Any
    blocks: int
    source: ctypes.Array[Any]
    arguments: ctypes.Structure
    tiling: Tiling
    target: ctypes.Array[Any] | None = None

    @property
    def values(self) -> tuple[Any, ...]:
        """What the kernel is given."""
        maps = (self.source,) if self.target is None else (self.source, self.target)
        return (*maps, self.arguments)


def heads_label(layer: HeadsLayer) -> str:
    """Of a launch that computes several branches: those, by their outputs."""
    return f"heads {' '.join(branch.output for branch in layer.branches)}"


class DeviceNetwork:
    """Runs `pts_backbone_neck_head` from the canvas map to float32 head maps.

    Attributes:
        canvas: Where the pillars are scattered to.
        maps: Every map by its name.
        outputs: Head name -> address of (channels, height, width) float32.
        launches: What `enqueue` puts on the stream, in order.
        activity: Where empty tiles are skipped: who fills the canvas marks its cells there before each run.
    """

    def __init__(
        self,
        device: CudaDevice,
        plan: NetworkPlan,
        tilings: Mapping[str, Tiling] | None = None,
        *,
        skips_empty: bool = False,
    ) -> None:
        """Args:
            tilings: Label -> tiling, where it is not to be the first of `tilings(label)`.
            skips_empty: Compute only tiles that a pillar reaches; results are the same.

        Raises:
            ConfigError: no kernel computes a layer.
        """
        self._device = device
        self.plan = plan
        self.maps = {
            name: DeviceMap.allocate(device, plan_map, in_lines=_is_stored_in_lines(plan, name))
            for name, plan_map in plan.maps.items()
        }
        self.canvas = self.maps[plan.canvas.name]
        self.outputs = {
            name: device.allocate(output.channels * output.height * output.width * 4)
            for name, output in plan.outputs.items()
        }
        self._layers: dict[str, FusedConv | HeadsLayer] = {conv.node: conv for conv in plan.convs}
        self._layers |= {heads_label(layer): layer for layer in plan.heads}
        self._kernels: dict[Tiling, Any] = {}
        chosen = {label: (tilings or {}).get(label) or self.tilings(label)[0] for label in self._layers}
        if skips_empty:
            chosen = {label: self._with_parts(label, tiling) for label, tiling in chosen.items()}
        self.prepare(chosen.values())
        self.launches = [self.launch_of(label, tiling) for label, tiling in chosen.items()]
        self.activity = self._skipping() if skips_empty else None

    def tilings(self, label: str) -> tuple[Tiling, ...]:
        """The tilings that can compute a layer, by its label in `launches`."""
        layer, maps = self._layers[label], self.plan.maps
        if isinstance(layer, HeadsLayer):
            return heads_tilings(layer, maps[layer.source])
        return conv_tilings(layer, maps[layer.source], self.plan.target(layer))

    def signature(self, label: str) -> str:
        """What the speed of a layer depends on: layers of one signature are cut alike."""
        layer, maps = self._layers[label], self.plan.maps
        if isinstance(layer, HeadsLayer):
            return heads_signature(layer, maps[layer.source])
        return conv_signature(layer, maps[layer.source], self.plan.target(layer))

    def tiled(self, label: str, tiling: Tiling, reaches: dict[str, Reach]) -> TiledLayer:
        """A layer with the cells of the canvas that its tiles depend on; `reaches` as `map_reaches` makes them."""
        parts = tiling.parts if isinstance(tiling, ConvTiling) else 1
        found = part_reaches(self.plan, self._layers[label], parts, reaches)
        return TiledLayer(label, found, tiling.tile_rows, tiling.tile_columns)

    def read_output(self, name: str, stream: int) -> NDArray[np.float32]:
        """An output of the last run on the host: (channels, height, width) float32. Waits for the stream."""
        output = self.plan.outputs[name]
        values = np.empty((output.channels, output.height, output.width), np.float32)
        self._device.download(values, self.outputs[name], stream)
        self._device.synchronize(stream)
        return values

    def prepare(self, tilings: Iterable[Tiling]) -> None:
        """Compiles the kernels of tilings, side by side: each takes the compiler about a second."""
        missing = sorted(set(tilings) - set(self._kernels), key=repr)
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(self._image, missing))
        for tiling, image in zip(missing, images, strict=True):
            function = _function(tiling)
            kernel = self._device.load(image, [function])[function]
            self._device.allow_shared(kernel, tiling.shared_bytes)
            self._kernels[tiling] = kernel

    def launch_of(self, label: str, tiling: Tiling) -> Launch:
        """Packs a layer's weights for a tiling and fixes its arguments."""
        self.prepare([tiling])
        layer, target = self._layers[label], None
        if isinstance(layer, HeadsLayer):
            assert isinstance(tiling, HeadsTiling)
            arguments, blocks = self._heads_arguments(layer, tiling)
            first_channel, chunks = 0, tiling.chunks
        else:
            assert isinstance(tiling, ConvTiling)
            arguments, blocks = self._conv_arguments(layer, tiling)
            first_channel, chunks = layer.source_channel, tiling.slab_chunks
            if tiling.staged:
                target = self.maps[layer.target].stored_boxes(self._device, layer, tiling)
        source = self.maps[layer.source].boxes(self._device, first_channel, chunks, tiling.in_rows, tiling.in_columns)
        return Launch(label, self._kernels[tiling], blocks, source, arguments, tiling, target)

    def enqueue(self, stream: int) -> None:
        """Puts the whole network on a stream."""
        if self.activity is not None:
            self.activity.enqueue(stream)
        for launch in self.launches:
            self.enqueue_layer(launch, stream)

    def enqueue_layer(self, launch: Launch, stream: int) -> None:
        """Puts one layer on a stream."""
        tiling = launch.tiling
        self._device.launch(
            launch.kernel, launch.blocks, tiling.threads, launch.values, stream,
            shared_bytes=tiling.shared_bytes, overlap=True,
        )  # fmt: skip

    def _skipping(self) -> TileActivity:
        """Lists of tiles for all launches, and the background in every map: the network on an empty canvas."""
        plan, reaches = self.plan, map_reaches(self.plan)
        layers = [self.tiled(launch.label, launch.tiling, reaches) for launch in self.launches]
        activity = TileActivity(self._device, (plan.canvas.height, plan.canvas.width), layers)
        for launch in self.launches:
            activity.feed(launch.label, launch.arguments.tiles)
        stream = self._device.create_stream()
        activity.mark_all(stream)
        # Once for all tiles, and once more as after every frame: then the last frame is an empty one.
        for _ in range(2):
            activity.enqueue(stream)
            for launch in self.launches:
                self.enqueue_layer(launch, stream)
        self._device.synchronize(stream)
        for launch in self.launches:
            if isinstance(launch.tiling, ConvTiling) and launch.tiling.parts > 1:
                self._leave_out(launch, launch.tiling, activity, stream)
        return activity

    def _with_parts(self, label: str, tiling: Tiling) -> Tiling:
        layer = self._layers[label]
        if isinstance(layer, HeadsLayer) or isinstance(tiling, HeadsTiling):
            return tiling
        return with_parts(self.plan, layer, tiling)

    def _leave_out(self, launch: Launch, tiling: ConvTiling, activity: TileActivity, stream: int) -> None:
        """Lets a layer's tiles leave out parts of background; its input is that of an empty canvas now."""
        conv = self._layers[launch.label]
        assert not isinstance(conv, HeadsLayer)
        source, target, chunks = self.maps[conv.source], self.plan.target(conv), tiling.slabs // tiling.parts
        chunks *= tiling.slab_chunks
        empty = (source.read_padded(self._device, stream, part * chunks, chunks) for part in range(tiling.parts))
        background = parts_background(conv, tiling, empty, (target.height, target.width))
        activity.always_read(launch.label, background.always, stream)
        launch.arguments.background = self._device.upload_new(background.sums)

    def _image(self, tiling: Tiling) -> bytes:
        source = conv_source(tiling.macros) if isinstance(tiling, ConvTiling) else heads_source(tiling.macros)
        return self._device.compile_image(source, _function(tiling), architecture=ARCHITECTURE)

    def _conv_arguments(self, conv: FusedConv, tiling: ConvTiling) -> tuple[ctypes.Structure, int]:
        device, source, target = self._device, self.maps[conv.source], self.plan.target(conv)
        output, out_pitch, out_plane = self._place(conv)
        height, width = target.height // conv.upsample, target.width // conv.upsample
        tiles = _all_tiles(height, width, tiling)
        column_tiles = tiling.column_tiles(conv)
        arguments = ConvArguments(
            output=output,
            weights=device.upload_new(pack_conv(conv, tiling)),
            affine=device.upload_new(pack_conv_affine(conv, tiling, source.map, target)),
            out_pitch=out_pitch,
            out_plane=out_plane,
            tiles=tiles,
            height=height,
            width=width,
            column_tiles=column_tiles,
            channels=conv.out_channels,
        )
        blocks = device.num_multiprocessors
        # A block with resident weights belongs to one column tile: whole sets of them.
        sets = max(blocks // column_tiles, 1)
        return arguments, sets * column_tiles if tiling.resident else min(blocks, tiles.all * column_tiles)

    def _place(self, conv: FusedConv) -> tuple[int, int, int]:
        """Where a layer writes: address, elements of a row, and bytes of a plane (a chunk's or an output channel's)."""
        output = self.plan.outputs.get(conv.target)
        if output is not None:
            return self.outputs[conv.target], output.width, output.height * output.width * 4
        target = self.maps[conv.target]
        first = conv.target_channel // channels_per_chunk(target.map)
        return target.address + first * target.plane, target.pitch, target.plane

    def _heads_arguments(self, heads: HeadsLayer, tiling: HeadsTiling) -> tuple[ctypes.Structure, int]:
        device = self._device
        source = self.maps[heads.source]
        affine, bias = pack_heads_affine(heads, source.map, tiling.last_tile)
        tiles = _all_tiles(source.map.height, source.map.width, tiling)
        arguments = heads_arguments(len(heads.branches))(
            hidden=device.upload_new(pack_hidden(heads)),
            last=device.upload_new(pack_last(heads, tiling.last_tile)),
            affine=device.upload_new(affine),
            bias=device.upload_new(bias),
            outputs=tuple(self.outputs[branch.output] for branch in heads.branches),
            channels=tuple(len(branch.last_bias) for branch in heads.branches),
            tiles=tiles,
            height=source.map.height,
            width=source.map.width,
        )
        return arguments, min(device.num_multiprocessors, tiles.all)


def _is_stored_in_lines(plan: NetworkPlan, name: str) -> bool:
    """Whether a map's rows begin with a line of the caches: that of layers that take their time to store it."""
    # The canvas has none: it is written pillar by pillar, by kernels that know of no gaps.
    products = [
        conv.in_channels * (conv.kernel**2 if conv.upsample == 1 else 1) for conv in plan.convs if conv.target == name
    ]
    return bool(products) and max(products) < _MANY_PRODUCTS


def _all_tiles(height: int, width: int, tiling: Tiling) -> TilesArguments:
    across = -(-width // tiling.tile_columns)
    return TilesArguments(across=across, all=across * -(-height // tiling.tile_rows))


def _function(tiling: Tiling) -> str:
    return "conv" if isinstance(tiling, ConvTiling) else "heads"
