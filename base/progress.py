"""Progress for anything over two seconds: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

__all__ = ["progress"]

T = TypeVar("T")
_LOG_EVERY_S = 10.0
_logger = logging.getLogger(__name__)


def progress(items: Iterable[T], label: str, total: int | None = None, unit: str = "frame") -> Iterator[T]:
    """Iterates over `items` and shows how far it is.

    Args:
        items: What to iterate over.
        label: What is being done ("evaluating onnx").
        total: Number of items; `len(items)` where that is known.
        unit: What one item is.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total, unit=unit, leave=False, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LOG_EVERY_S:
            last = now
            _logger.info("%s: %d%s %ss, %.1f/s", label, done, f"/{total}" if total else "", unit, done / (now - start))
