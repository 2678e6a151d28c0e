"""How a convolution is cut into tiles for the tensor cores: the parameters that kernels/conv.cu is compiled with."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import ConfigError
from base.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.cuda_engine.heads_tiling import HeadsTiling
    from runtime.cuda_engine.plan import FusedConv, PlanMap

__all__ = [
    "BLOCK",
    "REGISTERS",
    "SHARED_BYTES",
    "ConvTiling",
    "conv_signature",
    "conv_tilings",
    "measured_choices",
    "tiling_macros",
    "tilings_of_same_sums",
]

# Rows of a product, the M of every wgmma instruction: pixels of a block, or channels.
BLOCK = 64
# (blocks of a warpgroup, rows of a block, blocks side by side): a row of 64 pixels or 8 x 8.
_SHAPES = ((1, 1, 1), (2, 1, 1), (4, 1, 1), (1, 8, 1), (2, 8, 2), (2, 8, 1), (4, 8, 2))
# The same with channels as rows: 8 pixels x so many rows are the columns of a product.
_ROW_SHAPES = ((1, 8, 1), (2, 8, 2), (1, 12, 1), (1, 16, 1), (2, 16, 2), (1, 24, 1), (1, 32, 1))
# Shared memory of a block on compute capability 9.0, less what the barriers take.
SHARED_BYTES = 227 * 1024 - 1024
_MAX_STAGES = 6
# Pixels of a row that one instruction loads: 256 elements of 8 bytes.
_MOST_COLUMNS = 128
# (groups, warpgroups in a group): more groups hide more waiting, and leave each thread fewer registers.
_CONSUMERS = ((2, 1), (3, 1), (4, 1), (1, 2))
# Warpgroups that compute -> registers of their threads (with the loading warpgroup's 24 below 65,536 in all), and how
# many of these accumulators may take.
REGISTERS = {2: 240, 3: 160, 4: 112}
_ACCUMULATORS = {2: 128, 3: 96, 4: 64}
# What a thread with weights needs besides them and its sums.
_OTHER_REGISTERS = 32
# Multiprocessors that estimates assume; an H100 SXM and an H200 have 132.
_BLOCKS = 132
# Cuts of a layer that are worth compiling and timing, of each form: channels as columns or rows, weights in registers.
_CANDIDATES = 20
# Columns of a tile: what an instruction multiplies by. Accumulators of the widest leave room for two groups.
_COLUMNS = (*range(16, 129, 16), 256)
# Of these, how many an output has at most.
_MOST_OUTPUTS = 128


@dataclass(frozen=True)
class ConvTiling:
    """One way to compute a layer. The result's codes are the same for every tiling of an INT8 layer.

    Attributes:
        in_int8, out_int8: Types of the maps, else float16.
        out_dense: Whether it writes an output, which is dense and float32.
        n_tile: Columns of a tile: output channels, or (j, channel) of a transposed convolution. With channels as rows:
            its output channels, 64 for a warpgroup.
        kernel, stride, padding, upsample, relu: Of the layer.
        slab_chunks: 16-byte chunks of input channels that a stage holds.
        slabs: Stages along the input channels.
        groups: Consumer groups with tiles of their own (2: one computes while the other writes).
        warpgroups: Warpgroups in a group, which share each stage.
        blocks: Blocks of output pixels for each warpgroup.
        block_rows: Rows of a block: 1 (of 64 pixels) or 8 (of 8); with channels as rows 8 to 32 (of 8).
        across: Blocks of a warpgroup that lie side by side.
        stages: Stages in flight for each group.
        resident: Whether a block keeps its column tile's weights, else each stage brings its own.
        parts: Of the input channels, equally wide, each of which a tile may leave out (see `parts`); 1: all are read.
        period: Pixels along both axes after which background repeats.
        staged: Whether results go through shared memory and the copy engine, else threads store words of the map.
        ordered: Whether warpgroups multiply in turn, else whenever they can.
        channels_as_rows: Whether channels are the rows of a product and pixels its columns, else the reverse.
        register_weights: With channels as rows, whether weights that a block keeps are in registers, else in shared
            memory.
    """

    in_int8: bool
    out_int8: bool
    out_dense: bool
    n_tile: int
    kernel: int
    stride: int
    padding: int
    upsample: int
    relu: bool
    slab_chunks: int
    slabs: int
    groups: int
    warpgroups: int
    blocks: int
    block_rows: int
    across: int
    stages: int
    resident: bool
    parts: int = 1
    period: int = 1
    staged: bool = False
    ordered: bool = False
    channels_as_rows: bool = False
    register_weights: bool = False

    @property
    def tile_rows(self) -> int:
        """Output rows of a tile."""
        rows = self.blocks // self.across * self.block_rows
        return rows if self.channels_as_rows else self.warpgroups * rows

    @property
    def tile_columns(self) -> int:
        """Output pixels of a tile's row."""
        if self.channels_as_rows:
            # Warpgroups that have the same channels lie side by side.
            return self.warpgroups * BLOCK // self.n_tile * self.across * 8
        return self.across * BLOCK // self.block_rows

    @property
    def stored_box(self) -> tuple[int, int, int]:
        """Rows, pixels of a row and channels, before upsampling, of what a warp stores at once where it is staged."""
        if self.channels_as_rows:
            return self.blocks // self.across * self.block_rows, self.across * 8, 16
        rows, columns = (self.blocks, 16) if self.block_rows == 1 else (2, self.across * 8)
        return rows, columns, self.n_tile // self.upsample

    @property
    def product_columns(self) -> int:
        """Columns of a product, which has 64 rows and 32 bytes of K."""
        return self.block_rows * 8 if self.channels_as_rows else self.n_tile

    @property
    def accumulators(self) -> int:
        """Registers of a thread that hold sums."""
        return self.blocks * self.product_columns // 2

    @property
    def weight_registers(self) -> int:
        """Registers of a thread that hold weights."""
        return self.slabs * self.kernel**2 * self.slab_chunks * 2 if self.register_weights else 0

    def column_tiles(self, conv: FusedConv) -> int:
        """Tiles of columns of a layer; an output's last one may reach beyond its channels."""
        return -(-conv.out_channels * conv.upsample**2 // self.n_tile)

    @property
    def slab_weight_bytes(self) -> int:
        """Packed weights of one column tile and slab."""
        return self.kernel**2 * self.slab_chunks * self.n_tile * 16

    @property
    def in_rows(self) -> int:
        """Input rows that a tile reads."""
        return (self.tile_rows - 1) * self.stride + self.kernel

    @property
    def in_columns(self) -> int:
        """Input pixels of a row that a tile reads."""
        return (self.tile_columns - 1) * self.stride + self.kernel

    @property
    def stage_bytes(self) -> int:
        """Shared memory of a stage, rounded up to 128."""
        weights = 0 if self.resident else self.slab_weight_bytes
        return -(-(self.slab_chunks * self.in_rows * self.in_columns * 16 + weights) // 128) * 128

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.kept_bytes + self.groups * self.stages * self.stage_bytes

    @property
    def kept_bytes(self) -> int:
        """Of these, what is no stage: weights that stay, and results on their way."""
        resident = self.slabs * self.slab_weight_bytes if self.resident and not self.register_weights else 0
        results = self.threads_that_compute * self.accumulators * (1 if self.out_int8 else 2)
        return resident + (results if self.staged else 0)

    @property
    def threads_that_compute(self) -> int:
        """Of a block."""
        return self.groups * self.warpgroups * 128

    @property
    def threads(self) -> int:
        """Of a block: those that compute and one warpgroup that loads."""
        return self.threads_that_compute + 128

    @property
    def choice(self) -> dict[str, int | bool]:
        """What is free to choose for a layer; with the layer it gives the tiling again. Flags where they are set."""
        names = ("n_tile", "slab_chunks", "groups", "warpgroups", "blocks", "block_rows", "across")
        flags = ("staged", "ordered", "channels_as_rows", "register_weights")
        return {name: getattr(self, name) for name in (*names, *(flag for flag in flags if getattr(self, flag)))}

    @property
    def cut(self) -> tuple[int, ...]:
        """What those have in common that differ only in how they store and take turns, among the tilings of a layer."""
        shape = (self.n_tile, self.slab_chunks, self.groups, self.warpgroups, self.blocks, self.block_rows, self.across)
        return (*shape, self.channels_as_rows, self.register_weights)

    @property
    def macros(self) -> dict[str, int]:
        """Definitions for the kernel's source."""
        return tiling_macros(self, REGISTERS[self.groups * self.warpgroups])


def conv_tilings(conv: FusedConv, source: PlanMap, target: PlanMap) -> tuple[ConvTiling, ...]:
    """Every tiling worth timing for a layer, the one to take without timing first.

    Raises:
        ConfigError: the kernel cannot compute the layer; the message names its node.
    """
    measured = measured_choices().get(conv_signature(conv, source, target))
    by_estimate = sorted(_tilings(conv, source, target), key=lambda tiling: _estimated_cycles(tiling, conv, target))
    cuts: dict[tuple[bool, bool], set[tuple[int, ...]]] = {}
    for tiling in by_estimate:
        of_form = cuts.setdefault((tiling.channels_as_rows, tiling.register_weights), set())
        if len(of_form) < _CANDIDATES:
            of_form.add(tiling.cut)
    kept: set[tuple[int, ...]] = set().union(*cuts.values())
    found = sorted(
        (tiling for tiling in by_estimate if tiling.cut in kept or tiling.choice == measured),
        key=lambda tiling: tiling.choice != measured,
    )
    if not found:
        raise ConfigError(
            f"ONNX node '{conv.node}': no kernel of the 'cuda' backend computes a {conv.kernel}x{conv.kernel} "
            f"convolution of {conv.in_channels} to {conv.out_channels} channels ({source.type} to {target.type}, "
            f"stride {conv.stride}). Input channels must be a multiple of 32 (int8) or 16 (float16), outputs of 16 or "
            "8 (an output any number). Use the onnx or tensorrt backend for this model."
        )
    return tuple(found)


def tilings_of_same_sums(tiling: ConvTiling) -> tuple[ConvTiling, ...]:
    """The same products in the same order, stored and taking turns in other ways: results are equal bit for bit."""
    cut = replace(tiling, staged=False, ordered=False)
    return tuple(way for way in _ways(cut) if (way.staged, way.ordered) != (tiling.staged, tiling.ordered))


def tiling_macros(tiling: ConvTiling | HeadsTiling, registers: int) -> dict[str, int]:
    """The tiling's fields, and what both the launch and the kernel take from it."""
    return {
        **{field.name.upper(): int(getattr(tiling, field.name)) for field in fields(tiling)},
        "THREADS": tiling.threads,
        "SHARED_BYTES": tiling.shared_bytes,
        "REGISTERS": registers,
    }


def conv_signature(conv: FusedConv, source: PlanMap, target: PlanMap) -> str:
    """Names what the speed of a layer depends on."""
    kernel = f"k{conv.kernel}s{conv.stride}" if conv.upsample == 1 else f"u{conv.upsample}"
    size = f"{target.height}x{target.width}"
    return f"{source.type}>{target.type} {conv.in_channels}>{conv.out_channels} {kernel} {size}"


@cache
def measured_choices() -> dict[str, dict[str, int | bool]]:
    """Signature of a layer -> the fastest choice, as `benchmarks.gpu_tune` measured it."""
    table: dict[str, dict[str, int | bool]] = read_json(Path(__file__).with_name("tilings.json"))["tilings"]
    return table


def _tilings(conv: FusedConv, source: PlanMap, target: PlanMap) -> Iterator[ConvTiling]:
    in_int8, out_int8 = source.type == "int8", target.type == "int8"
    chunks, rest = divmod(conv.in_channels, 16 if in_int8 else 8)
    if rest or chunks % 2 or (target.is_output and conv.upsample > 1):
        return
    widest = min(-(-conv.out_channels // 16) * 16, _MOST_OUTPUTS)
    for n_tile in [widest] if target.is_output else _COLUMNS:
        per_pixel, rest = divmod(n_tile, conv.upsample)
        whole = target.is_output or conv.out_channels % per_pixel == 0
        if rest or per_pixel % (16 if out_int8 else 8) or not whole:
            continue
        for slab_chunks in (2, 4, 8, 16):
            if chunks % slab_chunks:
                continue
            uncut = ConvTiling(
                in_int8=in_int8,
                out_int8=out_int8,
                out_dense=target.is_output,
                n_tile=n_tile,
                kernel=conv.kernel if conv.upsample == 1 else 1,
                stride=conv.stride,
                padding=conv.padding,
                upsample=conv.upsample,
                relu=conv.relu,
                slab_chunks=slab_chunks,
                slabs=chunks // slab_chunks,
                groups=1,
                warpgroups=1,
                blocks=1,
                block_rows=1,
                across=1,
                stages=2,
                resident=True,
            )
            for cut in filter(_is_sensible, (*_with_columns(uncut), *_with_rows(uncut))):
                yield from _ways(cut)


def _with_columns(uncut: ConvTiling) -> Iterator[ConvTiling]:
    """A layer cut by channels as columns."""
    for blocks, block_rows, across in _SHAPES:
        for groups, warpgroups in _CONSUMERS:
            # Streamed weights pay where two warpgroups share them.
            yield replace(
                uncut, groups=groups, warpgroups=warpgroups, blocks=blocks, block_rows=block_rows, across=across,
                resident=warpgroups == 1,
            )  # fmt: skip


def _with_rows(uncut: ConvTiling) -> Iterator[ConvTiling]:
    """A layer cut by channels as rows, where the kernel can: of each form with weights in registers, too."""
    if uncut.stride > 1 or uncut.upsample > 1 or uncut.out_dense or uncut.n_tile % BLOCK:
        return
    for blocks, block_rows, across in _ROW_SHAPES:
        for groups, warpgroups in _CONSUMERS:
            if warpgroups * BLOCK % uncut.n_tile:
                continue
            in_registers = (False, True) if warpgroups == 1 and uncut.slabs == 1 else (False,)
            for register_weights in in_registers:
                yield replace(
                    uncut, groups=groups, warpgroups=warpgroups, blocks=blocks, block_rows=block_rows, across=across,
                    resident=warpgroups == 1, channels_as_rows=True, register_weights=register_weights,
                )  # fmt: skip


def _ways(cut: ConvTiling) -> Iterator[ConvTiling]:
    """It in every way to store and to take turns, with as many stages as fit."""
    for staged in (False, True) if _can_stage(cut) else (False,):
        fitted = _with_stages(replace(cut, staged=True) if staged else cut)
        if fitted is not None:
            yield fitted
            if fitted.stride == 1 or fitted.warpgroups == 1:
                yield replace(fitted, ordered=True)


def _with_stages(tiling: ConvTiling) -> ConvTiling | None:
    """As many stages as shared memory holds, or None where two do not fit."""
    stages = min(_MAX_STAGES, (SHARED_BYTES - tiling.kept_bytes) // (tiling.groups * tiling.stage_bytes))
    return replace(tiling, stages=stages) if stages >= 2 else None


def _is_sensible(tiling: ConvTiling) -> bool:
    if tiling.in_columns > _MOST_COLUMNS:
        return False
    consumers = tiling.groups * tiling.warpgroups
    if tiling.accumulators > _ACCUMULATORS[consumers]:
        return False
    if tiling.accumulators + tiling.weight_registers + _OTHER_REGISTERS > REGISTERS[consumers]:
        return False
    # A stage is worth its two barriers from a few hundred cycles of products on.
    steps = tiling.kernel**2 * tiling.slab_chunks // 2
    if steps > 36:
        return False
    # The left operand of a strided convolution goes through registers: three sets of four for each block.
    return tiling.stride == 1 or tiling.blocks * (tiling.n_tile // 2 + 12) <= _ACCUMULATORS[consumers] + 24


def _can_stage(tiling: ConvTiling) -> bool:
    """Maps alone; a thread stores its words of up to four pixels at once."""
    return not tiling.out_dense and tiling.upsample in (1, 2, 4)


def _estimated_cycles(tiling: ConvTiling, conv: FusedConv, target: PlanMap) -> float:
    """Cycles of the busiest block: the longer of products and loads, times its number of tiles.

    A 64 x n product with 32 bytes of K takes n / 2 cycles of the tensor cores, and at least as long as shared memory
    needs for its operands (128 bytes a cycle, of which most are reached). Its loads come at about 24 bytes a cycle
    while all blocks load.
    """
    height, width = target.height // conv.upsample, target.width // conv.upsample
    tiles = -(-width // tiling.tile_columns) * -(-height // tiling.tile_rows)
    column_tiles = tiling.column_tiles(conv)
    lanes = max(_BLOCKS // column_tiles, 1) if tiling.resident else _BLOCKS
    items = tiles if tiling.resident else tiles * column_tiles
    per_block = -(-items // (lanes * tiling.groups)) * tiling.groups
    steps = tiling.kernel**2 * tiling.slab_chunks // 2 * tiling.slabs * tiling.warpgroups * tiling.blocks
    columns = tiling.product_columns
    products = steps * max(columns / 2, ((0 if tiling.register_weights else 2048) + 32 * columns) / 110)
    loads = tiling.slabs * tiling.stage_bytes / 24
    target_bytes = 1 if tiling.out_int8 else 4 if tiling.out_dense else 2
    # Whole rows of a box take the second level cache less time than words do.
    stores = tiling.tile_rows * tiling.tile_columns * tiling.n_tile * target_bytes / (20 if tiling.staged else 12)
    # A group waits for its products and then converts its sums; the others compute meanwhile.
    serial = products + 60 * tiling.slabs + 600 + 10 * tiling.accumulators
    busy = max(products, loads + stores, 8 * tiling.accumulators * tiling.warpgroups, serial / tiling.groups)
    # With few stages a load is waited for.
    return per_block * (busy + loads / (tiling.stages - 1))
