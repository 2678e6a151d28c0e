"""How long a build takes on N workers: durations from a profile, order from what actions need of each other."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path.cwd() / "third_party/bazel/schedule.py"


@pytest.fixture(scope="module")
def schedule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("schedule", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# A dataset, three parts of it, what puts them together; and one that needs nothing.
SECONDS = {"data": 2.0, "part1": 5.0, "part2": 3.0, "part3": 4.0, "merge": 1.0, "lone": 6.0}
BEFORE: dict[str, set[str]] = {
    "data": set(),
    "part1": {"data"},
    "part2": {"data"},
    "part3": {"data"},
    "merge": {"part1", "part2", "part3"},
    "lone": set(),
}


def test_one_worker_takes_the_sum_and_many_the_longest_way(schedule: ModuleType) -> None:
    assert schedule.makespan(SECONDS, BEFORE, 1) == sum(SECONDS.values())
    assert schedule.makespan(SECONDS, BEFORE, 32) == 2 + 5 + 1
    assert schedule.critical_path(SECONDS, BEFORE) == ["data", "part1", "merge"]


@pytest.mark.parametrize("workers", [2, 3])
def test_a_schedule_is_between_the_two_bounds(schedule: ModuleType, workers: int) -> None:
    """The best of all orders cannot be beaten; starting the longest way first finds it here."""

    def of_order(order: tuple[str, ...]) -> float:
        free, ended = [0.0] * workers, dict[str, float]()
        for name in order:
            if not BEFORE[name] <= set(ended):
                return float("inf")
            free.sort()
            start = max([free[0], *(ended[needed] for needed in BEFORE[name])])
            free[0] = ended[name] = start + SECONDS[name]
        return max(ended.values())

    best = min(of_order(order) for order in itertools.permutations(SECONDS))
    assert schedule.makespan(SECONDS, BEFORE, workers) == best


def test_from_bazels_files(schedule: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Time on the worker counts, waiting for one does not; a link between two actions is passed through."""
    events: list[dict[str, Any]] = [{"name": "thread_name"}]
    for thread, (name, run) in enumerate((("bin/a", 3), ("bin/c", 4))):
        events.append({"cat": "action processing", "out": name, "tid": thread, "ts": 1_000_000, "dur": 90_000_000})
        for kind, seconds in (
            ("queuing time", 50),
            ("setup time", 1),
            ("process wall time", run),
            ("upload time", 0.5),
        ):
            category = f"Remote execution {kind}"
            events.append({"cat": category, "tid": thread, "ts": 2_000_000, "dur": int(seconds * 1e6)})
    events.append({"cat": "action processing", "out": "bin/b", "tid": 7, "ts": 1, "dur": 5})
    graph = {
        "pathFragments": [{"id": 1, "label": "bin"}]
        + [{"id": 2 + index, "label": name, "parentId": 1} for index, name in enumerate("abc")],
        "artifacts": [{"id": 1 + index, "pathFragmentId": 2 + index} for index in range(3)],
        "depSetOfFiles": [
            {"id": 1, "directArtifactIds": [1]},
            {"id": 2, "transitiveDepSetIds": [3]},
            {"id": 3, "directArtifactIds": [2]},
        ],
        "actions": [
            {"outputIds": [1], "primaryOutputId": 1},
            {"outputIds": [2], "primaryOutputId": 2, "inputDepSetIds": [1]},
            {"outputIds": [3], "primaryOutputId": 3, "inputDepSetIds": [2]},
        ],
    }
    with gzip.open(tmp_path / "profile.gz", "wt", encoding="utf-8") as file:
        json.dump({"traceEvents": events}, file)
    (tmp_path / "actions.json").write_text(json.dumps(graph), encoding="utf-8")
    assert schedule.main([str(tmp_path / "profile.gz"), str(tmp_path / "actions.json"), "1", "32"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 actions, 10.0 s of workers"
    assert printed[1:3] == ["1 workers: 10.0 s", "32 workers: 10.0 s"]
    assert [line.split()[-1] for line in printed[4:]] == ["bin/a", "bin/c"]
