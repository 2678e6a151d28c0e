"""What the columns of a point are called, in files, networks and stored specifications.

Which columns a model has follows from the steps of its config that load points (`models.point_loading`), never from
their number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from base.errors import ConfigError
from base.messages import shown

__all__ = [
    "NODE_COLUMNS",
    "SQUASHED",
    "T4_RECORD",
    "XYZ_INTENSITY",
    "implied_columns",
    "is_column",
    "listed",
    "record_columns",
    "stored_columns",
    "unnamed_columns",
]

XYZ_INTENSITY = ("x", "y", "z", "intensity")
T4_RECORD = (*XYZ_INTENSITY, "ring")
"""Numbers of a point in files of T4 and nuScenes."""
NODE_COLUMNS = (("x", "y", "z", "time_lag"), ("x", "y", "z", "intensity", "time_lag"))
"""What Autoware's node feeds a network: with `point_feature_size` 4 and 5."""

# time_lag: seconds between a point's sweep and the key frame, 0 in the key frame. height: over the lowest points.
_KNOWN = (*XYZ_INTENSITY, "ring", "time_lag", "elongation", "height")
SQUASHED = "tanh_"
"""Before the name of a column that enters as its hyperbolic tangent."""
_NUMBERED = re.compile(r"column(\d{1,2})")


def is_column(name: str) -> bool:
    """Whether something is a name of a column: a known one, `column5` for what nobody named, `tanh_` before either."""
    name = name.removeprefix(SQUASHED)
    return name in _KNOWN or _NUMBERED.fullmatch(name) is not None


def listed() -> str:
    """The names that a column can have, for messages."""
    return f"{', '.join(_KNOWN)}, or column5 for the sixth number of a point where it is none of these"


def record_columns(count: int, known: Sequence[str] = T4_RECORD) -> tuple[str, ...]:
    """Names of a file's columns: as far as they are known, then `column5` for the sixth, and so on."""
    return (*known[:count], *(f"column{index}" for index in range(len(known[:count]), count)))


def unnamed_columns(count: int) -> tuple[str, ...]:
    """Names where nothing says what the columns are: a network's first three are x, y and z."""
    return record_columns(count, ("x", "y", "z"))


def implied_columns(count: int) -> tuple[str, ...]:
    """What a number of columns stood for in specifications that were written before columns had names."""
    return next((columns for columns in NODE_COLUMNS if len(columns) == count), unnamed_columns(count))


def stored_columns(columns: Sequence[str] | None, count: int, file: str) -> tuple[str, ...]:
    """Names of the columns of a stored specification.

    Args:
        columns: As they are stored; None where they are what their number stood for.
        count: Their number, as it is stored.
        file: Where they stand, for messages.

    Raises:
        ConfigError: their number is another, one has a name that no column has, or the first are not x, y, z.
    """
    if columns is None:
        return implied_columns(count)
    unknown = [name for name in columns if not is_column(name)]
    if len(columns) != count or unknown or tuple(columns[:3]) != ("x", "y", "z"):
        raise ConfigError(
            f"{file}: point_columns is {shown(list(columns))} and point_features {count}; as many names are needed, "
            f"x, y, z first, of {listed()}. Export the model again."
        )
    return tuple(columns)
