"""What each package that the code imports costs: CPU time and modules of a first import, memory, licence.

    python -m benchmarks.dependencies [--write docs/design/dependencies.md]

Each import is measured in processes of its own, five times; the fastest counts, files are in the system's cache. The
cost of what a package imports in turn is part of it, numpy's too where it imports numpy.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from base.command import EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import DataError
from base.files import user_path
from base.page_marks import marks, rewrite_page
from base.tables import markdown_table
from benchmarks.structure import PACKAGES as PRODUCT

__all__ = ["ImportCost", "imports_of", "licence", "main", "measure"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = tuple(sorted((*PRODUCT, "benchmarks")))
_MARK = "measured"
BEGIN, END = marks(_MARK)
# Of namespaces that several distributions share: the part that is imported.
_PARTS = {"cuda": "cuda.bindings.driver", "google": "google.protobuf.message"}
_LOADERS = ("require", "importorskip", "import_module")
_PROBE = """
import json, resource, sys, time
def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
modules, before, start = len(sys.modules), memory(), time.process_time()
__import__(sys.argv[1])
seconds = time.process_time() - start
print(json.dumps([1000 * seconds, len(sys.modules) - modules, memory() - before]))
"""


@dataclass(frozen=True)
class ImportCost:
    """Of one import in a fresh process.

    Attributes:
        ms: Milliseconds of CPU time, which other processes hardly change.
        modules: Modules that it brings.
        memory_mb: By how much the process grows.
    """

    ms: float
    modules: int
    memory_mb: float


def imports_of(root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> dict[str, set[str]]:
    """Top-level name of everything imported that is neither Python's nor this project's -> packages that import it.

    Imports inside functions count, and those through `require`.
    """
    own = {path.name for path in root.iterdir() if path.is_dir()} | {"tests"}
    found: dict[str, set[str]] = defaultdict(set)
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            for name in _names(ast.parse(path.read_text(encoding="utf-8"))):
                top = name.partition(".")[0]
                if top not in own and top not in sys.stdlib_module_names:
                    found[top].add(package)
    return dict(sorted(found.items()))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            argument = node.args[0]
            if called in _LOADERS and isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def licence(distribution: str) -> str:
    """What the distribution's own metadata says."""
    data = metadata.metadata(distribution).json
    named = [line.rpartition(" :: ")[2] for line in data.get("classifier", ()) if line.startswith("License ::")]
    first = str(data.get("license", "")).strip().partition("\n")[0]
    return str(data.get("license_expression", "")) or ", ".join(named) or first


def measure(name: str, runs: int = 5) -> ImportCost:
    """The fastest of some imports.

    Raises:
        DataError: it cannot be imported here.
    """
    found = []
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-c", _PROBE, name], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(f"'{name}' cannot be imported here: {last}")
        found.append(ImportCost(*json.loads(done.stdout.splitlines()[-1])))
    return min(found, key=lambda cost: cost.ms)


def _rows(runs: int) -> Iterator[tuple[str, ...]]:
    distributions = metadata.packages_distributions()
    for name, packages in imports_of().items():
        if name not in distributions:
            continue  # an optional one that is not installed
        module = _PARTS.get(name, name)
        owner = distributions[name][0]
        for candidate in distributions[name]:
            if any(str(file).startswith(module.replace(".", "/")) for file in metadata.files(candidate) or ()):
                owner = candidate
        cost = measure(module, runs)
        version = metadata.version(owner)
        numbers = (f"{cost.ms:.0f}", f"{cost.modules}", f"{cost.memory_mb:.0f}")
        yield (f"`{module}`", f"{owner} {version}", licence(owner), *numbers, ", ".join(sorted(packages)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dependencies", description="What importing each package costs.")
    parser.add_argument("--runs", type=int, default=5, help="imports of each (default 5); the fastest counts")
    parser.add_argument("--write", metavar="PAGE", help="put the table into a page, between its marks")
    add_log_level(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    head = ("import", "distribution", "licence", "CPU ms", "modules", "MB", "imported by")
    table = "\n".join(markdown_table(head, _rows(args.runs)))
    if args.write is None:
        print(table)  # noqa: T201 - the command's result
        return EXIT_PASSED
    rewrite_page(user_path(args.write), _MARK, table)
    return EXIT_PASSED


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


if __name__ == "__main__":
    run_main(main)
