"""How many faults the tests notice: a sample of mutants of each package whose numbers must be right, by mutmut.

    python -m pip install mutmut==3.8.1       # in an environment of its own, beside the lock's packages
    python -m benchmarks.mutation --sample 100 --out mutation.json

A mutant is the code with one small change: `<` for `<=`, 1 for 2, a call's argument left out. It is killed where a test
fails with it. `[tool.mutmut]` in pyproject.toml names the modules and the tests; survivors are listed, and
`python -m mutmut show NAME` prints one. Some change nothing that can be seen, so that the score need not reach 100 %.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from base.command import EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import DataError, MissingDependencyError
from base.files import user_path, write_json
from base.tables import text_table

__all__ = ["main", "package_of", "sample", "score_table", "scores"]

PACKAGES = ("runtime.decode", "eval.metrics", "quant.calibration", "export.qdq")
_LINE = re.compile(r"^ +(\S+): (.+)$", re.MULTILINE)
_UNTRIED, _NO_SUCH = "not checked", "nothing matches"
_NOTICED = ("killed", "timeout", "segfault", "caught by type check")


def package_of(mutant: str) -> str | None:
    """The measured package that a mutant is of, such as `eval.metrics`; None for another module."""
    return next((name for name in PACKAGES if mutant.startswith(f"{name}.")), None)


def sample(mutants: Iterable[str], count: int, seed: int) -> list[str]:
    """So many mutants of each package, or all that it has; equal lists and seeds give equal samples."""
    known, chosen = sorted(mutants), []
    for package in PACKAGES:
        names = [name for name in known if package_of(name) == package]
        chosen += sorted(random.Random(f"{seed} {package}").sample(names, min(count, len(names))))
    return chosen


def scores(found: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Package -> numbers of its mutants, and `score`: the share that was noticed of those that were tried."""
    table: dict[str, dict[str, float]] = {}
    for package in PACKAGES:
        states = Counter(state for name, state in found.items() if package_of(name) == package)
        tried = sum(states.values()) - states[_UNTRIED]
        killed = sum(states[state] for state in _NOTICED)
        row: dict[str, float] = {"mutants": sum(states.values()), "tried": tried, "killed": killed}
        row |= {"survived": states["survived"], "no test": states["no tests"]}
        table[package] = row | ({"score": round(killed / tried, 3)} if tried else {})
    return table


def score_table(found: Mapping[str, str]) -> str:
    """Mutant -> status, as a table by package; what was not tried does not count."""
    head = ("package", "mutants", "tried", "killed", "survived", "no test", "score")
    rows = []
    for package, row in scores(found).items():
        share = f"{row['score']:.0%}" if "score" in row else "–"
        rows.append((package, *(str(row[name]) for name in head[1:-1]), share))
    return text_table(head, rows, right=range(1, 7))


def _mutmut(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], capture_output=True, text=True, check=False, errors="replace"
    )
    if "No module named mutmut" in done.stderr:
        raise MissingDependencyError("mutmut is not installed. Get it with 'pip install mutmut==3.8.1'.")
    if done.returncode and _NO_SUCH not in done.stdout + done.stderr:
        last = (done.stdout + done.stderr).strip().splitlines()[-3:]
        raise DataError(f"mutmut {arguments[0]} ended with {done.returncode}: {' '.join(last)}")
    return done.stdout


def _results() -> dict[str, str]:
    return dict(_LINE.findall(_mutmut("results", "--all", "true")))


def _run(args: argparse.Namespace) -> int:
    children = ("--max-children", str(args.children))
    _mutmut("run", *children, "makes.them")  # no mutant has this name: they are made, and none is tried
    chosen = sample(_results(), args.sample, args.seed)
    _mutmut("run", *children, *chosen)
    found = _results()
    tried = {name: state if name in set(chosen) else _UNTRIED for name, state in found.items()}
    survivors = {name: found[name] for name in chosen if found[name] in ("survived", "no tests")}
    if args.out is not None:
        made = {"mutmut": importlib.metadata.version("mutmut"), "sample": args.sample, "seed": args.seed}
        write_json(user_path(args.out), {**made, "packages": scores(tried), "survivors": survivors})
    lines = ["\n".join(survivors), score_table(tried)]
    print("\n\n".join(line for line in lines if line))  # noqa: T201 - the command's result
    return EXIT_PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutation", description="How many faults the tests notice.")
    parser.add_argument("--sample", type=int, default=100, help="mutants of each package (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default 0)")
    parser.add_argument("--children", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--out", metavar="JSON", help="write the scores and the survivors to a file, too")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


if __name__ == "__main__":
    run_main(main)
