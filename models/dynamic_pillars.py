"""Pillars of any number of points, as rows of a fixed number: what a graph of the usual form takes.

A maximum over a pillar is the maximum over its rows' maxima, and a mean their sum, so that rows change nothing as long
as one layer is all: the canvas joins them. The encoder's graph is then that of other pillars, and every tool takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["POINTS_OF_A_ROW", "in_rows"]

POINTS_OF_A_ROW = 32
# So many rows at most where the config leaves them open: as many pillars as dense frames of 50 m around have.
_ROWS = 100_000


def in_rows(model: Mapping[str, Any]) -> dict[str, Any]:
    """`model` of a config of dynamic pillars, of plain types, with numbers where it says -1: points and rows.

    Args:
        model: That `models.unsupported.refuse_unsupported` let pass.
    """
    preprocessor = model["data_preprocessor"]
    layer = dict(preprocessor["voxel_layer"])
    rows = layer.get("max_voxels", -1)
    rows = rows[-1] if isinstance(rows, list | tuple) and rows else rows
    layer |= {"max_num_points": POINTS_OF_A_ROW, "max_voxels": _ROWS if rows == -1 else rows}
    return {**model, "data_preprocessor": {**preprocessor, "voxel_layer": layer}}
