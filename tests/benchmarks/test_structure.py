"""The numbers of the code's structure, on trees whose answer is known."""

from __future__ import annotations

from pathlib import Path

from benchmarks.structure import import_graph, strongly_connected


def test_imports_inside_functions_count_and_foreign_ones_do_not(tmp_path: Path) -> None:
    for name, text in {
        "base/__init__.py": "",
        "base/errors.py": "import json\n",
        "models/__init__.py": "",
        "models/spec.py": "from base import errors\nfrom base.errors import thing\n",
        "runtime/a.py": "def f():\n    from runtime import b\n    import models.spec\n",
        "runtime/b.py": "from runtime.a import f\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    graph = import_graph(tmp_path)
    assert graph["models.spec"] == {"base.errors"}
    assert graph["runtime.a"] == {"runtime.b", "models.spec"}
    assert strongly_connected(graph) == [["runtime.a", "runtime.b"]]


def test_circles_are_those_of_a_plain_reachability() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}

    def reaches(start: str, goal: str) -> bool:
        seen, todo = set(), list(graph[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += graph[node]
        return goal in seen

    circles = {frozenset(n for n in graph if reaches(m, n) and reaches(n, m)) for m in graph if reaches(m, m)}
    assert {frozenset(group) for group in strongly_connected(graph)} == circles
