"""How the code hangs together, in numbers: arrows and circles between modules, lines, and what one deployment enters.

    python -m benchmarks.structure [--run] [--out structure.json]

Without `--run` it reads imports and lines alone. With it, the demo model is deployed in INT8 (`--mode=onnx`, one
frame of calibration), and it counts the modules of this project that were entered, and the calls between the command
line and `torch.onnx.export`, and between the command line and the place that sets a quantizer's scale.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from base.command import add_log_level, run_command, run_main
from base.files import user_path, write_json

__all__ = ["calls_of_a_deployment", "import_graph", "main", "strongly_connected"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("base", "models", "datasets", "training", "runtime", "eval", "quant", "export", "autoware", "deploy")


def _modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the product's packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = list(path.relative_to(root).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(tree: ast.AST, known: frozenset[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> modules of the product that it imports, at its top or inside a function."""
    modules = _modules(root)
    known = frozenset(modules)
    return {
        name: set(_imports(ast.parse(path.read_text(encoding="utf-8")), known)) - {name}
        for name, path in modules.items()
    }


def strongly_connected(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of more than one module that import each other in a circle (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            cut = stack.index(node)
            group = stack[cut:]
            del stack[cut:]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return groups


def _project_depth() -> int:
    """Frames of this project's files between here and the deployment's command line, that included, ours left out."""
    depth = 0
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not calls_of_a_deployment.__code__:
        file = frame.f_code.co_filename
        depth += file.startswith(str(ROOT)) and file != __file__
        frame = frame.f_back
    return depth


def calls_of_a_deployment() -> dict[str, Any]:
    """Deploys the demo model in INT8 and counts what it enters; needs the demo dataset (`--data-root`'s default)."""
    import torch

    from deploy import export
    from quant.quantizer import base as quantizer

    depths: dict[str, int] = {}

    def watch(name: str, owner: Any, attribute: str) -> None:
        original = getattr(owner, attribute)

        def watched(*args: Any, **kwargs: Any) -> Any:
            depths.setdefault(name, _project_depth())
            return original(*args, **kwargs)

        setattr(owner, attribute, watched)

    watch("calls to torch.onnx.export", torch.onnx, "export")
    kinds = [kind for kind in vars(quantizer).values() if isinstance(kind, type) and "set_scale" in vars(kind)]
    for kind in kinds:
        watch("calls to a quantizer's scale", kind, "set_scale")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "deploy.py"
        config.write_text(
            f"_base_ = {str(ROOT / 'configs/deploy/deploy_config_int8.py')!r}\n"
            "verification = dict(enabled=False)\nevaluation = dict(enabled=False)\n"
            "quantization = dict(calibration=dict(num_batches=1))\n",
            encoding="utf-8",
        )
        code = export.main(["--deploy-config", str(config), "--mode=onnx", "--work-dir", folder, "--log-level=WARNING"])
    if code != 0:
        raise SystemExit(code)
    entered = sorted(name for name in _modules(ROOT) if name in sys.modules)
    by_package: dict[str, int] = defaultdict(int)
    for name in entered:
        by_package[name.split(".")[0]] += 1
    return {**depths, "modules entered": len(entered), "modules entered by package": dict(sorted(by_package.items()))}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="structure", description="How the code hangs together, in numbers.")
    parser.add_argument("--run", action="store_true", help="deploy the demo model and count what it enters")
    parser.add_argument("--out", metavar="JSON", help="write the numbers to a file, too")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _count(args), args.log_level)


def _count(args: argparse.Namespace) -> None:
    graph = import_graph()
    lines = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in _modules(ROOT).values()}
    longest = max(lines, key=lambda name: (lines[name], name))
    packages = {(source.split(".")[0], target.split(".")[0]) for source, targets in graph.items() for target in targets}
    found: dict[str, Any] = {
        "modules": len(graph),
        "lines": sum(lines.values()),
        "longest file": f"{longest} ({lines[longest]})",
        "arrows between modules": sum(map(len, graph.values())),
        "arrows between packages": sum(source != target for source, target in packages),
        "circles": strongly_connected(graph),
    }
    if args.run:
        found.update(calls_of_a_deployment())
    for name, value in found.items():
        print(f"{name}: {value}")  # noqa: T201 - what the command is for
    if args.out is not None:
        write_json(user_path(args.out), found)


if __name__ == "__main__":
    run_main(main)
