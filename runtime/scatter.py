"""Pillar features onto the bird's-eye-view canvas, equal to mmdet3d's PointPillarsScatter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec

__all__ = ["Canvas", "CodeCanvas", "quantized", "scatter"]


def scatter(pillar_features: Any, coords: Any, spec: ModelSpec) -> Any:
    """Writes each pillar's feature to its cell of a zero canvas.

    Args:
        pillar_features: (M, C) or (M, 1, C) float32 numpy array or torch tensor.
        coords: (M, 3) int32 [z, y, x] of the same kind and device; each cell at most once, but for dynamic pillars,
            whose rows stand behind each other and are joined.

    Returns:
        (1, C, H, W) of the same kind, type and device; H runs along y.

    Raises:
        DataError: shapes do not fit the model, or a cell lies outside the canvas (checked for numpy arrays).
    """
    if isinstance(pillar_features, np.ndarray):
        return Canvas(spec).fill(pillar_features, coords)
    _, channels, height, width = spec.canvas_shape
    features = pillar_features.reshape(len(coords), channels)
    canvas = features.new_zeros((channels, height * width))
    cells = coords[:, 1].long() * width + coords[:, 2].long()
    if spec.dynamic_pillars and spec.encoder_mode == "avg":
        canvas.index_add_(1, cells, features.t())
    elif spec.dynamic_pillars:
        # After a ReLU nothing is below the canvas' zeros.
        canvas.scatter_reduce_(1, cells.expand(channels, -1), features.t(), "amax")
    else:
        canvas[:, cells] = features.t()
    return canvas.view(spec.canvas_shape)


class Canvas:
    """A canvas kept from frame to frame: only the cells that the last frame wrote are cleared.

    The full-size models' canvas has 74 to 133 MB, of which a frame fills a few per cent.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._canvas = np.zeros(spec.canvas_shape, np.float32)
        self._written: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def array(self) -> NDArray[np.float32]:
        """(1, C, H, W) float32; always the same memory."""
        return self._canvas

    def fill(self, pillar_features: NDArray[np.float32], coords: NDArray[np.int32]) -> NDArray[np.float32]:
        """Replaces the content, and returns `array`: the next call overwrites it. Arguments as for `scatter`."""
        cells, features = _by_cell(pillar_features, coords, self._spec)
        flat = self._canvas.reshape(self._canvas.shape[1], -1)
        flat[:, self._written] = 0.0
        flat[:, cells] = features.T
        self._written = cells
        return self._canvas


class CodeCanvas:
    """A canvas of INT8 codes, cell after cell: what a quantizer makes of a `Canvas`, zero point 0."""

    def __init__(self, spec: ModelSpec, scale: np.float32) -> None:
        """Args:
        scale: Of a step.
        """
        _, channels, height, width = spec.canvas_shape
        self._spec, self._scale = spec, scale
        self._canvas = np.zeros((1, height, width, channels), np.int8)
        self._written: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def array(self) -> NDArray[np.int8]:
        """(1, H, W, C) int8; always the same memory."""
        return self._canvas

    def fill(self, pillar_features: NDArray[np.float32], coords: NDArray[np.int32]) -> NDArray[np.int8]:
        """Replaces the content, and returns `array`: the next call overwrites it. Arguments as for `scatter`."""
        cells, features = _by_cell(pillar_features, coords, self._spec)
        flat = self._canvas.reshape(-1, self._canvas.shape[3])
        flat[self._written] = 0
        flat[cells] = quantized(features, self._scale)
        self._written = cells
        return self._canvas


def quantized(values: NDArray[np.float32], scale: np.float32) -> NDArray[np.int8]:
    """Codes as ONNX's QuantizeLinear makes them with zero point 0: halves to even. A NaN has no code of its own."""
    with np.errstate(invalid="ignore", over="ignore"):
        codes: NDArray[np.int8] = np.clip(np.rint(values / scale), -128, 127).astype(np.int8)
    return codes


def _by_cell(
    pillar_features: NDArray[np.float32], coords: NDArray[np.int32], spec: ModelSpec
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(M,) cells, row after row, and (M, C) what is written there; dynamic pillars' rows are joined.

    Raises:
        DataError: shapes do not fit the model, or a cell lies outside the canvas.
    """
    _, channels, height, width = spec.canvas_shape
    num_pillars = len(coords)
    if coords.shape != (num_pillars, 3) or pillar_features.size != num_pillars * channels:
        raise DataError(
            f"Cannot scatter pillar features {pillar_features.shape} with coordinates {coords.shape}: "
            f"model '{spec.name}' needs (M, {channels}) and (M, 3)."
        )
    y, x = coords[:, 1].astype(np.int64), coords[:, 2].astype(np.int64)
    outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"Pillar {first} lies at cell (y {y[first]}, x {x[first]}), "
            f"outside the canvas of {height} x {width} (y, x)."
        )
    cells: NDArray[np.int64] = y * width + x
    features: NDArray[np.float32] = pillar_features.reshape(num_pillars, channels)
    if spec.dynamic_pillars and num_pillars:
        begins = np.flatnonzero(np.diff(cells, prepend=-1))
        join = np.add if spec.encoder_mode == "avg" else np.maximum
        cells, features = cells[begins], join.reduceat(features, begins)
    return cells, features
