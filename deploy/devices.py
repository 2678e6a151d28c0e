"""Device names of a configuration to devices of this machine."""

from __future__ import annotations

from base.lazy import require
from deploy.config.consistency import parse_device
from deploy.config.names import CPU_BACKENDS, GPU_BACKENDS
from deploy.config.schema import DeployConfig

__all__ = ["resolve_device"]


def resolve_device(name: str, backend: str, config: DeployConfig, *, for_verification: bool = False) -> str:
    """`cpu` or `cuda:N` for a device name.

    Args:
        name: As configured; a name of `devices`, or `auto` for the first GPU that the backend can use, else the CPU.
        backend: "pytorch", "onnx", "openvino", "tensorrt" or "cuda".
        config: Its `devices`, and for scenarios its `verification.devices`, say what names stand for.
        for_verification: Whether the name stands in a scenario.
    """
    names = {"cpu": config.devices.cpu, "cuda": config.devices.cuda}
    if for_verification:
        names |= config.verification.devices
    device = parse_device(name, names, "device", "deploy config")
    if device != "auto":
        return device
    if backend in GPU_BACKENDS:
        return "cuda:0"
    if backend in CPU_BACKENDS:
        return "cpu"
    torch = require("torch", "to look for a GPU")
    if not torch.cuda.is_available():
        return "cpu"
    if backend == "onnx":
        runtime = require("onnxruntime", "to run the onnx backend")
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            return "cpu"
    return "cuda:0"
