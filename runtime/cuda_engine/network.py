"""A network plan on one GPU: its maps, its packed weights and its kernels, launched in order on one stream."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.cuda_engine.arguments import ConvArguments, heads_arguments
from runtime.cuda_engine.packing import pack_conv, pack_conv_affine, pack_heads_affine, pack_hidden, pack_last
from runtime.cuda_engine.sources import ARCHITECTURE, conv_source, heads_source
from runtime.cuda_engine.tiling import (
    TILE_COLUMNS,
    ConvTiling,
    HeadsTiling,
    conv_signature,
    conv_tilings,
    heads_signature,
    heads_tilings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.plan import FusedConv, NetworkPlan, PlanMap

__all__ = ["HEADS", "DeviceMap", "DeviceNetwork", "Launch", "channels_per_chunk"]

# Label of the last launch: all branches at once.
HEADS = "heads"
Tiling = ConvTiling | HeadsTiling


@dataclass(frozen=True)
class DeviceMap:
    """A feature map in device memory, blocked and padded (see kernels/hopper.cuh).

    Attributes:
        address: Of its first byte.
        chunks: Of 16 bytes: 16 int8 or 8 float16 channels.
        pitch: Pixels of a row with its border.
        plane: Bytes of one chunk.
    """

    map: PlanMap
    address: int
    chunks: int
    pitch: int
    plane: int

    @classmethod
    def allocate(cls, device: CudaDevice, plan_map: PlanMap) -> DeviceMap:
        """Zeroed, so that its border is; with room behind it for the tiles that reach past the last row."""
        per_chunk = channels_per_chunk(plan_map)
        chunks, pitch = -(-plan_map.channels // per_chunk), plan_map.width + 2
        plane = (plan_map.height + 2) * pitch * 16
        guard = (20 * pitch + 3 * TILE_COLUMNS) * 16
        return cls(plan_map, device.allocate(chunks * plane + guard), chunks, pitch, plane)

    def read(self, device: CudaDevice, stream: int) -> NDArray[Any]:
        """The map on the host, for checks: (channels, height, width), int8 codes or float16. Waits for the stream."""
        dense = self._blocked(device, stream)[:, 1:-1, 1:-1].transpose(0, 3, 1, 2)
        return dense.reshape(-1, self.map.height, self.map.width)[: self.map.channels]

    def read_border(self, device: CudaDevice, stream: int) -> NDArray[Any]:
        """All elements of the border, for checks: zeros. Waits for the stream."""
        blocked = self._blocked(device, stream)
        sides = blocked[:, [0, -1]], blocked[:, :, [0, -1]]
        return np.concatenate([side.ravel() for side in sides])

    def write(self, device: CudaDevice, stream: int, values: NDArray[Any]) -> None:
        """Sets the map from (channels, height, width) int8 codes or float16, for checks. Waits for the stream."""
        blocked = np.zeros(self._shape, self.map.type)
        per_chunk = channels_per_chunk(self.map)
        for channel, plane in enumerate(values):
            blocked[channel // per_chunk, 1:-1, 1:-1, channel % per_chunk] = plane
        device.upload(self.address, blocked, stream)
        device.synchronize(stream)

    def _blocked(self, device: CudaDevice, stream: int) -> NDArray[Any]:
        blocked = np.empty(self._shape, self.map.type)
        device.download(blocked, self.address, stream)
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
        label: ONNX node of the layer; "heads" for all branches.
        tiling: How it is cut.
    """

    label: str
    kernel: Any
    blocks: int
    arguments: ctypes.Structure
    tiling: Tiling


class DeviceNetwork:
    """Runs `pts_backbone_neck_head` from the canvas map to float32 head maps.

    Attributes:
        canvas: Where the pillars are scattered to.
        maps: Every map by its name.
        outputs: Head name -> address of (channels, height, width) float32.
        launches: What `enqueue` puts on the stream, in order.
    """

    def __init__(self, device: CudaDevice, plan: NetworkPlan, tilings: Mapping[str, Tiling] | None = None) -> None:
        """Args:
            tilings: Label -> tiling, where it is not to be the first of `tilings(label)`.

        Raises:
            ConfigError: no kernel computes a layer.
        """
        self._device = device
        self.plan = plan
        self.maps = {name: DeviceMap.allocate(device, plan_map) for name, plan_map in plan.maps.items()}
        self.canvas = self.maps[plan.canvas.name]
        head_source = plan.maps[plan.heads.source]
        self.outputs = {
            branch.output: device.allocate(len(branch.last_bias) * head_source.height * head_source.width * 4)
            for branch in plan.heads.branches
        }
        self._convs = {conv.node: conv for conv in plan.convs}
        self._kernels: dict[Tiling, Any] = {}
        chosen = {label: (tilings or {}).get(label) or self.tilings(label)[0] for label in (*self._convs, HEADS)}
        self.prepare(chosen.values())
        self.launches = [self.launch_of(label, tiling) for label, tiling in chosen.items()]

    def tilings(self, label: str) -> tuple[Tiling, ...]:
        """The tilings that can compute a layer, by its label in `launches`."""
        maps = self.plan.maps
        if label == HEADS:
            return heads_tilings(self.plan.heads, maps[self.plan.heads.source])
        conv = self._convs[label]
        return conv_tilings(conv, maps[conv.source], maps[conv.target])

    def signature(self, label: str) -> str:
        """What the speed of a layer depends on: layers of one signature are cut alike."""
        maps = self.plan.maps
        if label == HEADS:
            return heads_signature(self.plan.heads, maps[self.plan.heads.source])
        conv = self._convs[label]
        return conv_signature(conv, maps[conv.source], maps[conv.target])

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
        if isinstance(tiling, ConvTiling):
            arguments, blocks = self._conv_arguments(self._convs[label], tiling)
        else:
            arguments, blocks = self._heads_arguments(tiling)
        return Launch(label, self._kernels[tiling], blocks, arguments, tiling)

    def enqueue(self, stream: int) -> None:
        """Puts the whole network on a stream."""
        for launch in self.launches:
            self.enqueue_layer(launch, stream)

    def enqueue_layer(self, launch: Launch, stream: int) -> None:
        """Puts one layer on a stream."""
        tiling = launch.tiling
        self._device.launch(
            launch.kernel, launch.blocks, tiling.threads, [launch.arguments], stream,
            shared_bytes=tiling.shared_bytes, overlap=True,
        )  # fmt: skip

    def _image(self, tiling: Tiling) -> bytes:
        source = conv_source(tiling.macros) if isinstance(tiling, ConvTiling) else heads_source(tiling.macros)
        return self._device.compile_image(source, _function(tiling), architecture=ARCHITECTURE)

    def _conv_arguments(self, conv: FusedConv, tiling: ConvTiling) -> tuple[ctypes.Structure, int]:
        device, source, target = self._device, self.maps[conv.source], self.maps[conv.target]
        height, width = target.map.height // conv.upsample, target.map.width // conv.upsample
        tiles_x = -(-width // TILE_COLUMNS)
        tiles = tiles_x * -(-height // tiling.tile_rows)
        column_tiles = conv.out_channels * conv.upsample**2 // tiling.n_tile
        arguments = ConvArguments(
            input=source.address,
            output=target.address + conv.target_channel // channels_per_chunk(target.map) * target.plane,
            weights=device.upload_new(pack_conv(conv, tiling)),
            affine=device.upload_new(pack_conv_affine(conv, tiling, source.map, target.map)),
            in_pitch=source.pitch,
            out_pitch=target.pitch,
            in_plane=source.plane,
            out_plane=target.plane,
            height=height,
            width=width,
            tiles_x=tiles_x,
            tiles=tiles,
            column_tiles=column_tiles,
        )
        blocks = device.num_multiprocessors
        # A block with resident weights belongs to one column tile: whole sets of them.
        sets = max(blocks // column_tiles, 1)
        return arguments, sets * column_tiles if tiling.resident else min(blocks, tiles * column_tiles)

    def _heads_arguments(self, tiling: HeadsTiling) -> tuple[ctypes.Structure, int]:
        device, heads = self._device, self.plan.heads
        source = self.maps[heads.source]
        affine, bias = pack_heads_affine(heads, source.map, tiling.last_tile)
        tiles_x = -(-source.map.width // TILE_COLUMNS)
        tiles = tiles_x * -(-source.map.height // tiling.rows)
        arguments = heads_arguments(len(heads.branches))(
            input=source.address,
            hidden=device.upload_new(pack_hidden(heads)),
            last=device.upload_new(pack_last(heads, tiling.last_tile)),
            affine=device.upload_new(affine),
            bias=device.upload_new(bias),
            outputs=tuple(self.outputs[branch.output] for branch in heads.branches),
            channels=tuple(len(branch.last_bias) for branch in heads.branches),
            in_pitch=source.pitch,
            in_plane=source.plane,
            height=source.map.height,
            width=source.map.width,
            tiles_x=tiles_x,
            tiles=tiles,
        )
        return arguments, min(device.num_multiprocessors, tiles)


def _function(tiling: Tiling) -> str:
    return "conv" if isinstance(tiling, ConvTiling) else "heads"
