"""A network plan on one GPU: its maps, its packed weights and its kernels, launched in order on one stream."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ConfigError
from runtime.cuda_engine.packing import pack_conv, pack_conv_affine, pack_heads_affine, pack_hidden, pack_last
from runtime.cuda_engine.sources import ARCHITECTURE, conv_source, heads_source
from runtime.cuda_engine.tiling import TILE_COLUMNS, ConvTiling, conv_tilings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.plan import FusedConv, HeadsLayer, NetworkPlan, PlanMap

__all__ = ["DeviceMap", "DeviceNetwork", "Launch"]

_HEAD_ROWS = 2
_HEAD_STAGES = 4


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


def channels_per_chunk(plan_map: PlanMap) -> int:
    """Channels in 16 bytes of a map."""
    return 16 if plan_map.type == "int8" else 8


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel with its arguments, ready to be put on a stream.

    Attributes:
        label: ONNX node of the layer.
        tiling: How it is cut; None for the heads.
    """

    label: str
    kernel: Any
    blocks: int
    threads: int
    shared_bytes: int
    arguments: tuple[Any, ...]
    tiling: ConvTiling | None


class _ConvArguments(ctypes.Structure):
    """`Geometry` of kernels/conv.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("input", "output", "weights", "affine")),
        *((name, ctypes.c_int) for name in ("in_pitch", "out_pitch")),
        *((name, ctypes.c_longlong) for name in ("in_plane", "out_plane")),
        *((name, ctypes.c_int) for name in ("height", "width", "tiles_x", "tiles", "column_tiles")),
    ]


class DeviceNetwork:
    """Runs `pts_backbone_neck_head` from the canvas map to float32 head maps.

    Attributes:
        canvas: Where the pillars are scattered to.
        maps: Every map by its name.
        outputs: Head name -> address of (channels, height, width) float32.
        launches: What `enqueue` puts on the stream, in order.
    """

    def __init__(self, device: CudaDevice, plan: NetworkPlan, tilings: Mapping[str, ConvTiling] | None = None) -> None:
        """Args:
            tilings: ONNX node -> tiling, where it is not to be the first of `conv_tilings`.

        Raises:
            ConfigError: no kernel computes a layer.
        """
        self._device = device
        self.plan = plan
        self.maps = {name: DeviceMap.allocate(device, plan_map) for name, plan_map in plan.maps.items()}
        self.canvas = self.maps[plan.canvas.name]
        chosen = {conv.node: (tilings or {}).get(conv.node) or self.tilings(conv)[0] for conv in plan.convs}
        head_source = self.maps[plan.heads.source]
        head_macros = _head_macros(plan.heads, head_source)
        self._kernels = _compile(device, set(chosen.values()), head_macros)
        self.launches = [self.conv_launch(conv, chosen[conv.node]) for conv in plan.convs]
        size = head_source.map.height * head_source.map.width
        self.outputs = {
            branch.output: device.allocate(len(branch.last_bias) * size * 4) for branch in plan.heads.branches
        }
        self.launches.append(self._heads_launch(plan.heads, head_source, head_macros))

    def enqueue(self, stream: int) -> None:
        """Puts the whole network on a stream."""
        for launch in self.launches:
            self.enqueue_layer(launch, stream)

    def enqueue_layer(self, launch: Launch, stream: int) -> None:
        """Puts one layer on a stream."""
        self._device.launch(
            launch.kernel, launch.blocks, launch.threads, launch.arguments, stream, shared_bytes=launch.shared_bytes
        )

    def tilings(self, conv: FusedConv) -> tuple[ConvTiling, ...]:
        """The tilings that can compute a layer of the plan."""
        return conv_tilings(conv, self.plan.maps[conv.source], self.plan.maps[conv.target])

    def conv_launch(self, conv: FusedConv, tiling: ConvTiling) -> Launch:
        """Packs a layer's weights for a tiling and fixes its arguments."""
        device, source, target = self._device, self.maps[conv.source], self.maps[conv.target]
        kernel = self._kernels.get(tiling) or _compile(device, {tiling}, None)[tiling]
        self._kernels[tiling] = kernel
        height, width = target.map.height // conv.upsample, target.map.width // conv.upsample
        tiles_x = -(-width // TILE_COLUMNS)
        tiles = tiles_x * -(-height // tiling.tile_rows)
        columns = conv.out_channels * conv.upsample**2
        column_tiles = columns // tiling.n_tile
        arguments = _ConvArguments(
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
        if tiling.resident:
            # Whole sets of column tiles: a block belongs to one of them.
            blocks = max(blocks // column_tiles, 1) * column_tiles
        else:
            blocks = min(blocks, tiles * column_tiles)
        return Launch(conv.node, kernel, blocks, tiling.threads, tiling.shared_bytes, (arguments,), tiling)

    def _heads_launch(self, heads: HeadsLayer, source: DeviceMap, macros: Mapping[str, int]) -> Launch:
        device, count = self._device, len(heads.branches)

        class Arguments(ctypes.Structure):
            """`Heads` of kernels/heads.cu."""

            _fields_ = [
                *((name, ctypes.c_void_p) for name in ("input", "hidden", "last", "affine", "bias")),
                ("outputs", ctypes.c_void_p * count),
                ("channels", ctypes.c_int * count),
                ("in_pitch", ctypes.c_int),
                ("in_plane", ctypes.c_longlong),
                *((name, ctypes.c_int) for name in ("height", "width", "tiles_x", "tiles")),
            ]

        affine, bias = pack_heads_affine(heads, source.map, macros["LAST_TILE"])
        tiles_x = -(-source.map.width // TILE_COLUMNS)
        tiles = tiles_x * -(-source.map.height // _HEAD_ROWS)
        arguments = Arguments(
            input=source.address,
            hidden=device.upload_new(pack_hidden(heads)),
            last=device.upload_new(pack_last(heads, macros["LAST_TILE"])),
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
        blocks = min(device.num_multiprocessors, tiles)
        return Launch("heads", self._kernels["heads"], blocks, 384, _head_shared_bytes(macros), (arguments,), None)


def _head_macros(heads: HeadsLayer, source: DeviceMap) -> dict[str, int]:
    hidden = {len(branch.hidden_bias) for branch in heads.branches}
    if len(hidden) != 1 or next(iter(hidden)) % 16 or source.chunks % 2:
        raise ConfigError(
            f"The 'cuda' backend wants all head branches to have one number of hidden channels, a multiple of 16; node "
            f"'{heads.branches[0].hidden_node}' and its neighbours have {sorted(hidden)}. Use the onnx or tensorrt backend."
        )
    return {
        "IN_INT8": int(source.map.type == "int8"),
        "CHUNKS": source.chunks,
        "HIDDEN": hidden.pop(),
        "LAST_TILE": -(-max(len(branch.last_bias) for branch in heads.branches) // 8) * 8,
        "BRANCHES": len(heads.branches),
        "ROWS": _HEAD_ROWS,
        "STAGES": _HEAD_STAGES,
    }


def _head_shared_bytes(macros: Mapping[str, int]) -> int:
    weights = macros["CHUNKS"] * macros["HIDDEN"] * 16 + macros["HIDDEN"] * macros["LAST_TILE"] * 2
    stage = macros["CHUNKS"] * macros["ROWS"] * TILE_COLUMNS * 16
    return macros["BRANCHES"] * weights + 2 * macros["STAGES"] * stage


def _compile(device: CudaDevice, tilings: set[ConvTiling], head_macros: Mapping[str, int] | None) -> dict[Any, Any]:
    """Tiling (or "heads") -> kernel. Compiled side by side: a compiler run takes a second."""
    sources: list[tuple[Any, str, str, int]] = [
        (tiling, "conv", conv_source(tiling.macros), tiling.shared_bytes) for tiling in tilings
    ]
    if head_macros is not None:
        sources.append(("heads", "heads", heads_source(head_macros), _head_shared_bytes(head_macros)))
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda item: device.compile_image(item[2], item[1], architecture=ARCHITECTURE), sources))
    kernels = {}
    for (key, function, _, shared_bytes), image in zip(sources, images, strict=True):
        kernels[key] = device.load(image, [function])[function]
        device.allow_shared(kernels[key], shared_bytes)
    return kernels
