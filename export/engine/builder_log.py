"""What a TensorRT builder says."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["BuilderLog"]

# Durations alone differ between equal builds; without them the log is as reproducible as the engine. The time
# of the whole build is `EngineResult.seconds`.
_DURATION = re.compile(r"\b\d+(?:\.\d+)?(?:e[+-]?\d+)? ?(?:ms|us|s|seconds|milliseconds)\b")


class BuilderLog:
    """A logger for TensorRT that keeps messages from INFO up, in order.

    Args:
        trt: The library's module.
    """

    def __init__(self, trt: Any) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        levels = {trt.ILogger.INTERNAL_ERROR: "FATAL", trt.ILogger.ERROR: "ERROR", trt.ILogger.WARNING: "WARNING"}
        levels[trt.ILogger.INFO] = "INFO"
        log = self

        class Logger(trt.ILogger):  # the base class is known at run time only
            def __init__(self) -> None:
                # pybind11 wants its own initializer, not super().
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                level = levels.get(severity)
                if level is None:
                    return
                log.lines.append(f"{level:<7} {message}")
                if level in ("FATAL", "ERROR"):
                    log.errors.append(message)

        self.logger = Logger()

    def note(self, message: str) -> None:
        """Adds a line of our own."""
        self.lines.append(f"NOTE    {message}")

    def last_error(self) -> str:
        """The newest error, or nothing."""
        return self.errors[-1].strip() if self.errors else ""

    def text(self) -> str:
        """All lines, as a file keeps them."""
        return "".join(f"{_DURATION.sub('(time)', line)}\n" for line in self.lines)
