"""Builds one engine in a process of its own: reads a request from stdin, answers on stdout.

A process of its own, because
- TensorRT orders some parts of an engine by the addresses of objects, so that a builder's second engine
differs from its
  first. In a fresh thread of a fresh process the allocator hands out addresses in the same order every time: equal
  requests give equal bytes (tests/deploy/test_engine_determinism.py).
- Its memory, gigabytes for a large grid, is given back.
- A crash inside the library becomes an error message.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import json
import os
import signal
import sys
import threading
from typing import Any

from base.errors import BackendUnavailable, EngineBuildError, MissingDependencyError
from deploy.engine.dialects import DIALECTS
from deploy.engine.network import build_engine
from deploy.engine.request import EngineRequest

__all__ = ["ERROR_KINDS", "main"]

_PR_SET_PDEATHSIG = 1
# What may go wrong, by the name under which it crosses the process boundary.
ERROR_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (BackendUnavailable, EngineBuildError, MissingDependencyError)
}


def main() -> int:
    """Answers one request; 0 whenever there is an answer."""
    _die_with_parent()
    task = json.load(sys.stdin)
    # The library prints to stdout now and then; the answer goes where it cannot.
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer: dict[str, Any] = {}
    thread = threading.Thread(target=_run, args=(task, answer))
    thread.start()
    thread.join()
    if not answer:
        return 1
    json.dump(answer, answer_to)
    answer_to.close()
    return 0


def _run(task: dict[str, Any], answer: dict[str, Any]) -> None:
    try:
        dialect = DIALECTS[task["builder"]]
        trt = importlib.import_module(dialect.module)
        result = build_engine(trt, dialect, EngineRequest.from_dict(task["request"]), task["precision"])
        answer["result"] = {
            key: value if isinstance(value, (int, float)) else str(value)
            for key, value in dataclasses.asdict(result).items()
        }
    except tuple(ERROR_KINDS.values()) as error:
        answer["error"] = {"kind": type(error).__name__, "message": str(error)}


def _die_with_parent() -> None:
    """A build whose command was killed must not go on and write its engine later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
