"""Builds one engine in a process of its own: reads a request from stdin, answers on stdout.

A process of its own, because
- TensorRT orders some parts of an engine by the addresses of objects, so that a builder's second engine differs from
  its first. In a fresh thread of a fresh process the allocator hands out addresses in the same order every time: equal
  requests give equal bytes (tests/export/test_engine_rtx.py).
- Its memory, gigabytes for a large grid, is given back.
- A crash inside the library becomes an error message.

It writes no file. The answer is a line of JSON and then the bytes that it tells of; whoever asked writes them, so that
a worker that outlives its command can change nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import threading
from typing import Any

from base.children import end_with_parent
from base.errors import BackendUnavailable, EngineBuildError, MissingDependencyError
from export.engine.dialects import DIALECTS
from export.engine.network import BuildOutput, build_engine
from export.engine.request import EngineRequest, EngineResult

__all__ = ["ask", "main", "read_answer"]

# What may go wrong, by the name under which it crosses the process boundary.
_ERROR_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (BackendUnavailable, EngineBuildError, MissingDependencyError)
}


def ask(builder: str, request: EngineRequest, precision: str) -> bytes:
    """What the worker reads."""
    return json.dumps({"builder": builder, "precision": precision, "request": request.to_dict()}).encode()


def read_answer(answer: bytes, request: EngineRequest) -> tuple[EngineResult | Exception, BuildOutput]:
    """What the worker wrote: the result, or the error to raise, and what is to be written in either case."""
    line, _, content = answer.partition(b"\n")
    head = json.loads(line)
    size = head["engine_bytes"]
    engine = content[:size] if size is not None else None
    cache = content[size or 0 :] if head["has_timing_cache"] else None
    output = BuildOutput(engine, cache, head["log"])
    if "error" in head:
        return _ERROR_KINDS[head["error"]["kind"]](head["error"]["message"]), output
    values: dict[str, Any] = head["result"]
    values |= {"engine_path": request.engine_path, "onnx_path": request.onnx_path, "log_path": request.log_file}
    return EngineResult(**values), output


def main() -> int:
    """Answers one request; 0 whenever there is an answer. The argument is the process that asks."""
    end_with_parent(int(sys.argv[1]))
    task = json.load(sys.stdin)
    # The library prints to stdout now and then; the answer goes where it cannot.
    answer_to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    head: dict[str, Any] = {}
    outputs: list[BuildOutput] = []
    thread = threading.Thread(target=_run, args=(task, head, outputs))
    thread.start()
    thread.join()
    if not head:
        return 1
    output = outputs[0] if outputs else BuildOutput(None, None, "")
    engine, cache = output.engine, output.timing_cache
    head |= {"log": output.log, "engine_bytes": None if engine is None else len(engine)}
    head |= {"has_timing_cache": cache is not None}
    with answer_to:
        answer_to.write(json.dumps(head).encode() + b"\n" + (engine or b"") + (cache or b""))
    return 0


def _run(task: dict[str, Any], head: dict[str, Any], outputs: list[BuildOutput]) -> None:
    try:
        dialect = DIALECTS[task["builder"]]
        trt = importlib.import_module(dialect.module)
        request = EngineRequest.from_dict(task["request"])
        result = build_engine(trt, dialect, request, task["precision"], lambda _, output: outputs.append(output))
        values = dataclasses.asdict(result)
        head["result"] = {key: value for key, value in values.items() if not key.endswith("_path")}
    except tuple(_ERROR_KINDS.values()) as error:
        head["error"] = {"kind": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    sys.exit(main())
