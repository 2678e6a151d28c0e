"""Point files: float32 records without a header."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError

__all__ = ["parse_points", "read_points"]

_logger = logging.getLogger(__name__)


def read_points(path: str | Path, num_features: int = 5) -> NDArray[np.float32]:
    """Reads a point cloud.

    Args:
        path: A file of little-endian float32 records.
        num_features: Numbers per point; for T4 five: x, y, z (metres), intensity (0 to 255), ring.

    Returns:
        (N, num_features) float32, writable. A file of zero bytes is an empty cloud, not an error: a covered or failed
        sensor delivers those. Points with NaN or an infinity are dropped, and their number is logged as a warning.

    Raises:
        DataError: the file cannot be read, or its size is no multiple of a record.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Cannot read point file '{path}': {error.strerror}. Check data_root and the paths in the info file."
        ) from error
    return parse_points(data, num_features, str(path))


def parse_points(data: bytes, num_features: int, name: str) -> NDArray[np.float32]:
    """The points in a file's bytes; `name` stands for the file in messages. See `read_points`."""
    record = 4 * num_features
    if len(data) % record:
        raise DataError(
            f"Point file '{name}' has {len(data)} bytes, which is no multiple of {record} ({num_features} float32 a "
            f"point): {len(data) // record} points and {len(data) % record} bytes of another. The file was cut off, or "
            "its points have another number of features (load_dim in the model config)."
        )
    points: NDArray[np.float32] = np.frombuffer(data, dtype="<f4").reshape(-1, num_features).astype(np.float32)
    finite = np.isfinite(points).all(axis=1)
    dropped = len(points) - int(finite.sum())
    if dropped:
        _logger.warning("'%s': dropped %d of %d points with NaN or infinite values", name, dropped, len(points))
        points = points[finite]
    return points
