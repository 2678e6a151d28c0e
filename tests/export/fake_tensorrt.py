"""A stand-in for NVIDIA's `tensorrt` module, 10.x or 11.x, that records how it is used.

It has the calls, enumerations and failure modes of the Python bindings that the builder relies on: TensorRT 10 has FP16
and INT8 builder flags and weakly typed networks; TensorRT 11 has neither.
"""

from __future__ import annotations

import enum
import types
from types import SimpleNamespace
from typing import Any


def _enumeration(name: str, **members: int) -> Any:
    # Through a variable: members known only when it runs are nothing that a type checker could check.
    make: Any = enum.IntEnum
    return make(name, members)


def make_tensorrt(version: str, *, gpu: bool = True, parse_errors: tuple[Any, ...] = (), fails: str = "") -> Any:
    """A module object; what happened is in its `calls` list."""
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = version
    trt.calls = []
    major = int(version.split(".")[0])
    flags = {"TF32": 6, "REFIT": 5} | ({"FP16": 0, "INT8": 1} if major < 11 else {})
    trt.BuilderFlag = _enumeration("BuilderFlag", **flags)
    trt.NetworkDefinitionCreationFlag = _enumeration(
        "NetworkDefinitionCreationFlag", EXPLICIT_BATCH=0, STRONGLY_TYPED=1
    )
    trt.MemoryPoolType = _enumeration("MemoryPoolType", WORKSPACE=0)

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __init__(self) -> None:
            pass

    class Network:
        num_layers = 3

        @staticmethod
        def get_layer(index: int) -> Any:
            output = SimpleNamespace(dtype=SimpleNamespace(name="HALF"))
            kind = SimpleNamespace(name=("CONVOLUTION", "ACTIVATION", "CONVOLUTION")[index])
            return SimpleNamespace(type=kind, num_outputs=1, get_output=lambda _: output)

    class TimingCache:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> bytes:
            return self.data + b"+measured"

    class Config:
        builder_optimization_level = 3

        def __init__(self) -> None:
            self.cache: TimingCache | None = None

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            trt.calls.append(("workspace", size))

        def set_flag(self, flag: Any) -> None:
            trt.calls.append(("flag", flag.name))

        def add_optimization_profile(self, profile: Any) -> int:
            return -1 if fails == "profile" else 0

        def create_timing_cache(self, data: bytes) -> TimingCache | None:
            return None if data == b"broken" else TimingCache(data)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            self.cache = cache
            return True

        def get_timing_cache(self) -> TimingCache | None:
            return self.cache

    class Profile:
        def set_shape(self, name: str, low: Any, mid: Any, high: Any) -> None:
            trt.calls.append(("profile", name, low, mid, high))

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger
            if not gpu:
                logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, mask: int) -> Network:
            trt.calls.append(("network", mask))
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            self.logger.log(ILogger.INFO, "Engine generation completed in 0.25 seconds.")
            if fails == "build":
                self.logger.log(ILogger.ERROR, "Could not find any implementation for node /conv")
                return None
            return b"engine"

    class Parser:
        def __init__(self, network: Network, logger: Any) -> None:
            pass

        num_errors = len(parse_errors)

        def get_error(self, index: int) -> Any:
            return parse_errors[index]

        def parse(self, data: bytes) -> bool:
            return not parse_errors

    trt.ILogger, trt.Builder, trt.OnnxParser = ILogger, Builder, Parser
    return trt


class FakeParserError:
    """What `OnnxParser.get_error` returns."""

    def __init__(self, desc: str, name: str, operator: str) -> None:
        self._values = (desc, name, operator)

    def desc(self) -> str:
        return self._values[0]

    def node_name(self) -> str:
        return self._values[1]

    def node_operator(self) -> str:
        return self._values[2]
