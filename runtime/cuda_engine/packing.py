"""Weights in the order in which the kernels read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.cuda_engine.plan import FusedConv, HeadsLayer, PlanMap
    from runtime.cuda_engine.tiling import ConvTiling

__all__ = ["column_channels", "pack_conv", "pack_conv_affine", "pack_heads_affine", "pack_hidden", "pack_last"]


def _word_columns(per_chunk: int, words: int) -> NDArray[np.int64]:
    """(words * per_chunk, 2) [j, channel within its chunk] of the columns that a thread's neighbouring words come from.

    Thread t of a quad holds columns 2t and 2t + 1 of every eight. Four columns (INT8) or two (float16) of a chunk's
    make one of its words, and its `words` of so many chunks are neighbours among the words of `words` pixels in one.
    """
    column = np.arange(words * per_chunk)
    within = column % per_chunk
    word = within % 8 // 2 * words + column // per_chunk
    value = within // 8 * 2 + within % 2
    return np.stack([word // 4, word % 4 * (per_chunk // 4) + value], axis=1)


def _row_channels(per_chunk: int) -> NDArray[np.int64]:
    """(per_chunk,): the channel within its chunk of each row of a product.

    Of sixteen, rows p and p + 8 are one element of a transposition, of which a thread gets two neighbours.
    """
    row = np.arange(per_chunk)
    return row if per_chunk == 8 else 2 * (row % 8) + row // 8


def column_channels(conv: FusedConv, tiling: ConvTiling) -> NDArray[np.int64]:
    """(columns, 3) [channel, i, j] of every column of the layer, in the order of the kernel's products.

    Columns beyond an output's channels repeat its last one: they are computed and not stored.
    """
    upsample, per_chunk = conv.upsample, 16 if tiling.out_int8 else 8
    per_pixel = tiling.n_tile // upsample
    columns_in_all = tiling.column_tiles(conv) * tiling.n_tile // upsample**2
    channels = np.minimum(np.arange(columns_in_all), conv.out_channels - 1)
    if tiling.out_dense:
        return np.stack([channels, np.zeros_like(channels), np.zeros_like(channels)], axis=1)
    chunks = channels.reshape(-1, per_pixel // per_chunk, per_chunk)
    if tiling.staged and not tiling.channels_as_rows:
        # Pixels of a chunk together: a thread's words are neighbours.
        j, within = _word_columns(per_chunk, upsample).T
        channel, js = chunks[:, :, within], np.broadcast_to(j, (*chunks.shape[:2], len(j)))
    else:
        within = _row_channels(per_chunk) if tiling.channels_as_rows else _word_columns(per_chunk, 1)[:, 1]
        shape = (len(chunks), upsample, *chunks.shape[1:])
        channel = np.broadcast_to(chunks[:, None, :, within], shape)
        js = np.broadcast_to(np.arange(upsample)[:, None, None], shape)
    i = np.repeat(np.arange(upsample), channel.size)
    return np.stack([np.tile(channel.ravel(), upsample), i, np.tile(js.ravel(), upsample)], axis=1)


def pack_conv(conv: FusedConv, tiling: ConvTiling) -> NDArray[np.uint8]:
    """Weights as bytes, [column tile][slab][tap][chunk][column][16 bytes]."""
    channel, i, j = column_channels(conv, tiling).T
    if conv.upsample == 1:
        rows = conv.weight[channel].transpose(0, 2, 3, 1)  # (column, ky, kx, C_in)
    else:
        rows = conv.weight[channel, :, i, j][:, None, None, :]
    data = np.ascontiguousarray(rows).view(np.uint8)
    tiles = len(channel) // tiling.n_tile
    data = data.reshape(tiles, tiling.n_tile, tiling.kernel**2, tiling.slabs, tiling.slab_chunks, 16)
    return np.ascontiguousarray(data.transpose(0, 3, 2, 4, 1, 5)).reshape(-1)


def pack_conv_affine(conv: FusedConv, tiling: ConvTiling, source: PlanMap, target: PlanMap) -> NDArray[np.float32]:
    """(columns, 2) float32: what a sum is multiplied by and what is added, in steps of the target where it is INT8."""
    channel = column_channels(conv, tiling)[:, 0]
    scale: NDArray[np.float64] = np.ones(conv.out_channels)
    if conv.weight_scale is not None:
        assert source.scale is not None
        scale = conv.weight_scale.astype(np.float64) * source.scale
    step = 1.0 if target.scale is None else float(target.scale)
    pairs = np.stack([scale / step, conv.bias.astype(np.float64) / step], axis=1)
    return pairs[channel].astype(np.float32)


def pack_hidden(heads: HeadsLayer) -> NDArray[np.uint8]:
    """First convolutions of all branches as bytes, [branch][chunk][hidden channel][16 bytes]."""
    packed = []
    for branch in heads.branches:
        data = np.ascontiguousarray(branch.hidden_weight).view(np.uint8).reshape(len(branch.hidden_weight), -1, 16)
        packed.append(data.transpose(1, 0, 2).reshape(-1))
    return np.concatenate(packed)


def pack_last(heads: HeadsLayer, last_tile: int) -> NDArray[np.uint8]:
    """Last convolutions as bytes, [branch][chunk of 8 hidden channels][output up to `last_tile`][8 float16]."""
    packed = []
    for branch in heads.branches:
        outputs, hidden = branch.last_weight.shape
        weight = np.zeros((last_tile, hidden), np.float16)
        weight[:outputs] = branch.last_weight
        packed.append(
            np.ascontiguousarray(weight.reshape(last_tile, -1, 8).transpose(1, 0, 2)).view(np.uint8).reshape(-1)
        )
    return np.concatenate(packed)


def pack_heads_affine(
    heads: HeadsLayer, source: PlanMap, last_tile: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(branch, hidden, 2) float32 scale and bias of the hidden channels; (branch, last_tile) float32 last bias."""
    affine, biases = [], []
    for branch in heads.branches:
        scale: NDArray[np.float64] = np.ones(len(branch.hidden_bias))
        if branch.hidden_weight_scale is not None:
            assert source.scale is not None
            scale = branch.hidden_weight_scale.astype(np.float64) * source.scale
        affine.append(np.stack([scale, branch.hidden_bias.astype(np.float64)], axis=1))
        bias = np.zeros(last_tile, np.float32)
        bias[: len(branch.last_bias)] = branch.last_bias
        biases.append(bias)
    return np.stack(affine).astype(np.float32), np.stack(biases)
