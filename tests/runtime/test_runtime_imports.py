"""numpy alone is enough to preprocess, scatter and decode."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_SCRIPT = """
import sys

class Block:
    names = {"torch", "mmdet3d", "mmengine", "mmcv", "onnxruntime", "onnx", "tensorrt", "tensorrt_rtx_bindings", "cuda"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import numpy as np
import runtime
from runtime.backends import open_backend
from runtime.decode import decode
from runtime.preprocess import preprocess
from runtime.scatter import scatter
from tests.runtime.small_model import cloud, small_spec
from base.errors import MissingDependencyError

assert {"Backend", "Pipeline", "open_backend"} <= set(runtime.__all__)
for name in runtime.__all__:
    getattr(runtime, name)
spec = small_spec()
frame = preprocess(cloud(0, 2000), spec)
canvas = scatter(np.ones((len(frame), spec.encoder_channels), np.float32), frame.coords, spec)
assert canvas.sum() == len(frame) * spec.encoder_channels
outputs = {h.name: np.zeros(spec.head_shape(h), np.float32) for h in spec.heads}
assert len(decode(outputs, spec)) > 0
try:
    open_backend("pytorch", spec=spec, components={})
except MissingDependencyError as error:
    assert "'torch' is needed to run the pytorch backend" in str(error), error
else:
    raise SystemExit("torch was not missed")
try:
    open_backend("onnx", spec=spec, onnx_dir="nowhere")
except MissingDependencyError as error:
    assert "onnxruntime" in str(error), error
else:
    raise SystemExit("onnxruntime was not missed")
"""


def test_the_numpy_path_imports_nothing_heavy() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _imports(path: Path) -> set[str]:
    """Modules of `runtime` that a file imports when it runs, lazily or not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("runtime"):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_two_modules_import_each_other() -> None:
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "runtime").rglob("*.py")
    }
    assert len(paths) > 40
    graph = {name: _imports(path) & set(paths) - {name} for name, path in paths.items()}
    while leaves := {name for name, imported in graph.items() if not imported}:
        graph = {name: imported - leaves for name, imported in graph.items() if name not in leaves}
    assert graph == {}, "these modules import each other, or something that does"


def test_what_detects_imports_none_of_what_checks_it() -> None:
    users = {
        str(path.relative_to(ROOT / "runtime"))
        for path in (ROOT / "runtime").rglob("*.py")
        if "checks" not in path.parts and any(".checks" in name for name in _imports(path))
    }
    assert users == {"cuda_engine/selfcheck.py"}
