"""Imports of heavy or optional packages, with a remedy when one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from base.collector import without_collections
from base.errors import MissingDependencyError

__all__ = ["lazy_attributes", "missing_package", "require"]

# Import name -> what to install, where the two differ or need a word of explanation.
_HOW_TO_GET: dict[str, str] = {
    "tensorrt": "NVIDIA's TensorRT 10 or 11 wheel ('pip install tensorrt'), or run with --config=tensorrt",
    "tensorrt_rtx_bindings": "'pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings'",
    "cuda.bindings": "'pip install cuda-python'",
    "onnxruntime": "'pip install onnxruntime' (or onnxruntime-gpu for CUDA)",
    "rerun": "'pip install rerun-sdk'",
    "mcap": "'pip install mcap mcap-protobuf-support foxglove-schemas-protobuf'",
    "mcap_protobuf": "'pip install mcap-protobuf-support'",
    "foxglove_schemas_protobuf": "'pip install foxglove-schemas-protobuf'",
    "mmcv": "'pip install mmcv-lite==2.1.0', or a compiled mmcv",
}


def require(module: str, purpose: str) -> ModuleType:
    """Imports `module`, or says what needs it and how to get it.

    Args:
        module: Dotted import name.
        purpose: What the caller wants it for, to complete the sentence "… is needed <purpose>".

    Raises:
        MissingDependencyError: the package is not installed, or one that it imports is not.
    """
    try:
        with without_collections():
            return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, purpose, error) from error


def missing_package(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """What to say of an import without `require`; None where an installed package lacks a module, which is a bug."""
    top = (error.name or "").split(".")[0]
    if not top or importlib.util.find_spec(top) is not None:
        return None
    return _missing(top, "here", error)


def _missing(module: str, purpose: str, error: ImportError) -> MissingDependencyError:
    top = module.split(".")[0]
    remedy = _HOW_TO_GET.get(module) or _HOW_TO_GET.get(top) or f"'pip install {top}'"
    return MissingDependencyError(
        f"Python package '{module}' is needed {purpose}, but importing it failed: {error}. "
        f"Get it with {remedy}, or use ./bazelw, whose environment has it."
    )


def lazy_attributes(package: str, exports: dict[str, str]) -> Any:
    """A module-level `__getattr__` that imports public names when they are first used.

    Args:
        package: `__name__` of the package.
        exports: Public name -> module that defines it, below the package; `//` in front: below the repository's root.
    """

    def attribute(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = exports[name]
        found = importlib.import_module(module[2:] if module.startswith("//") else f"{package}.{module}")
        return getattr(found, name)

    return attribute
