"""How the heads are cut into tiles for the tensor cores: the parameters that kernels/heads.cu is compiled with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ConfigError
from runtime.cuda_engine.tiling import BLOCK, REGISTERS, SHARED_BYTES, measured_choices, tiling_macros

if TYPE_CHECKING:
    from runtime.cuda_engine.plan import HeadsLayer, PlanMap

__all__ = ["HeadsTiling", "heads_signature", "heads_tilings"]


@dataclass(frozen=True)
class HeadsTiling:
    """How kernels/heads.cu is compiled.

    Attributes:
        in_int8: Type of the shared map, else float16.
        chunks: 16-byte chunks of its channels.
        hidden: Channels between the two convolutions of a branch.
        last_tile: Outputs of a branch, rounded up to a multiple of 8.
        branches: Number of them.
        blocks: Blocks of 64 pixels in a tile.
        block_rows: Rows of a block: 1 (of 64 pixels) or 8 (of 8).
        across: Blocks that lie side by side.
        stages: In flight.
        groups: Warpgroups that compute, each of them some branches of every tile.
    """

    in_int8: bool
    chunks: int
    hidden: int
    last_tile: int
    branches: int
    blocks: int
    block_rows: int
    across: int
    stages: int
    groups: int

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return self.blocks // self.across * self.block_rows

    @property
    def tile_columns(self) -> int:
        """Pixels of a tile's row."""
        return self.across * BLOCK // self.block_rows

    @property
    def in_rows(self) -> int:
        """Input rows that a tile reads."""
        return self.tile_rows

    @property
    def in_columns(self) -> int:
        """Input pixels of a row that a tile reads."""
        return self.tile_columns

    @property
    def threads(self) -> int:
        """Of a block: the consumers and one warpgroup that loads."""
        return (self.groups + 1) * 128

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        weights = self.chunks * self.hidden * 16 + self.hidden * self.last_tile * 2 + self.hidden * 8
        return self.branches * weights + self.stages * self.chunks * self.blocks * BLOCK * 16

    @property
    def choice(self) -> dict[str, int | bool]:
        """What is free to choose."""
        return {name: getattr(self, name) for name in ("groups", "blocks", "block_rows", "across")}

    @property
    def macros(self) -> dict[str, int]:
        """Definitions for the kernel's source."""
        return tiling_macros(self, REGISTERS[self.groups])


# (groups, blocks, rows of a block, blocks side by side), the best on an H200 first.
_HEAD_SHAPES = tuple(
    (groups, blocks, *form) for form in ((8, 1), (1, 1)) for groups, blocks in ((3, 1), (2, 2), (3, 2), (2, 1))
)
_HEAD_STAGES = 6


def heads_tilings(heads: HeadsLayer, source: PlanMap) -> tuple[HeadsTiling, ...]:
    """Every tiling worth timing for the heads, the one to take without timing first.

    Raises:
        ConfigError: the kernel cannot compute them.
    """
    hidden = {len(branch.hidden_bias) for branch in heads.branches}
    chunks, rest = divmod(source.channels, 16 if source.type == "int8" else 8)
    if len(hidden) != 1 or next(iter(hidden)) % 16 or rest or chunks % 2:
        raise ConfigError(
            f"ONNX node '{heads.branches[0].hidden_node}': the 'cuda' backend wants head branches of one number of "
            f"hidden channels, a multiple of 16 (found {sorted(hidden)}), on a map whose channels are a multiple of "
            f"32 (int8) or 16 (float16; found {source.channels}). Use the onnx or tensorrt backend for this model."
        )
    last_tile = -(-max(len(branch.last_bias) for branch in heads.branches) // 8) * 8
    found = [
        HeadsTiling(
            source.type == "int8",
            chunks,
            next(iter(hidden)),
            last_tile,
            len(heads.branches),
            blocks,
            block_rows,
            across,
            _HEAD_STAGES,
            groups,
        )
        for groups, blocks, block_rows, across in _HEAD_SHAPES
    ]
    measured = measured_choices().get(heads_signature(heads, source))
    found.sort(key=lambda tiling: tiling.choice != measured)
    return tuple(tiling for tiling in found if tiling.shared_bytes <= SHARED_BYTES)


def heads_signature(heads: HeadsLayer, source: PlanMap) -> str:
    """Names what the speed of the heads depends on."""
    hidden = len(heads.branches[0].hidden_bias)
    return f"heads {source.type} {source.channels}>{len(heads.branches)}x{hidden} {source.height}x{source.width}"
