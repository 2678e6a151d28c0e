"""Opening an engine builder by name, and running its builds in a process of their own."""

from __future__ import annotations

import ctypes
import importlib.util
import signal

from base.children import run_child
from base.errors import EngineBuildError, ExportError
from base.lazy import require
from base.onnx_files import read_onnx
from export.engine.dialects import DIALECTS, TENSORRT, TENSORRT_RTX
from export.engine.network import Dialect, traits_of, write_output
from export.engine.policy import plan_precision
from export.engine.profiles import check_profiles, graph_inputs
from export.engine.request import EngineBuilder, EngineRequest, EngineResult
from export.engine.worker import ask, read_answer
from export.onnx_checks import check_model
from export.precision import graph_precision

__all__ = ["BUILDERS", "open_engine_builder"]

BUILDERS = ("auto", *DIALECTS)


def open_engine_builder(name: str = "auto") -> EngineBuilder:
    """The engine builder called `name`.

    Args:
        name: "tensorrt_rtx", "tensorrt", or "auto": `tensorrt` where it and a GPU are present, else `tensorrt_rtx`.

    Raises:
        EngineBuildError: no builder has that name, or the installed version is not supported.
        MissingDependencyError: the library is not installed.
    """
    if name not in BUILDERS:
        raise EngineBuildError(f"There is no engine builder '{name}'; known are {', '.join(BUILDERS)}.")
    if name == "auto":
        installed = importlib.util.find_spec(TENSORRT.module) is not None
        name = TENSORRT.name if installed and _has_gpu() else TENSORRT_RTX.name
    return _ProcessBuilder(DIALECTS[name])


class _ProcessBuilder:
    """Checks a request here, builds it in `export.engine.worker`."""

    def __init__(self, dialect: Dialect) -> None:
        trt = require(dialect.module, f"to build engines with {dialect.title}")
        self.name = dialect.name
        self._traits = traits_of(trt, dialect)
        self._version = str(trt.__version__)

    @property
    def version(self) -> str:
        """Version of the installed library."""
        return self._version

    def build(self, request: EngineRequest) -> EngineResult:
        """See `EngineBuilder.build`."""
        try:
            model = read_onnx(request.onnx_path)
            check_model(model, request.onnx_path.name)
        except ExportError as error:
            raise EngineBuildError(str(error)) from error
        precision = graph_precision(model)
        check_profiles(graph_inputs(model), request.profiles, request.onnx_path.name)
        plan_precision(request.precision_policy, precision, self._traits, request.onnx_path.name)
        answer, output = read_answer(self._run(ask(self.name, request, precision), request), request)
        write_output(request, output)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self, task: bytes, request: EngineRequest) -> bytes:
        done = run_child("export.engine.worker", task)
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            raise EngineBuildError(
                f"{self._traits.title} died of {name} while it built '{request.onnx_path}'. SIGKILL usually "
                "means that memory ran out."
            )
        if done.returncode != 0:
            tail = "\n".join(done.stderr.decode(errors="replace").strip().splitlines()[-5:])
            raise EngineBuildError(
                f"{self._traits.title} failed with exit code {done.returncode} while it built "
                f"'{request.onnx_path}':\n{tail}"
            )
        return done.stdout


def _has_gpu() -> bool:
    """Asks the CUDA driver, which needs no package."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
