"""How long a build takes on N workers: `schedule.py PROFILE.gz ACTIONS.json [N…]`.

PROFILE is Bazel's (--profile, --experimental_profile_include_primary_output) of a build whose actions ran on a cluster,
ACTIONS what `bazel aquery --output=jsonproto` says of the same targets. Each action takes what it took on its worker
(inputs, process, outputs); it starts when those that it needs are done and a worker is free, the one with the longest
way to the end first. Prints a line for each number of workers, and the actions on the critical path.
"""

from __future__ import annotations

import gzip
import heapq
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Bazel's names for the phases of an action on its worker; waiting for one is none of them.
ON_WORKER = ("setup", "process wall time", "upload", "fetch")


def durations(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Primary output -> seconds on a worker, of every action that ran on one."""
    actions = [event for event in events if event.get("cat") == "action processing" and event.get("out")]
    phases = [
        event
        for event in events
        if event.get("cat", "").startswith("Remote execution") and any(word in event["cat"] for word in ON_WORKER)
    ]
    found: dict[str, float] = {}
    for action in actions:
        begin, end = action["ts"], action["ts"] + action["dur"]
        own = [phase for phase in phases if phase["tid"] == action["tid"] and begin <= phase["ts"] <= end]
        if own:
            found[action["out"]] = sum(phase["dur"] for phase in own) / 1e6
    return found


def needs(graph: Mapping[str, Any], known: Mapping[str, float]) -> dict[str, set[str]]:
    """Primary output -> those of the timed actions that it needs, by way of others or not."""
    fragments = {item["id"]: item for item in graph["pathFragments"]}

    def path(number: int) -> str:
        parts = []
        while number:
            parts.append(fragments[number]["label"])
            number = fragments[number].get("parentId", 0)
        return "/".join(reversed(parts))

    paths = {item["id"]: path(item["pathFragmentId"]) for item in graph["artifacts"]}
    sets = {item["id"]: item for item in graph.get("depSetOfFiles", ())}
    maker = {output: action for action in graph["actions"] for output in action["outputIds"]}
    primary = {id(action): paths[action["primaryOutputId"]] for action in graph["actions"]}

    def inputs(action: Mapping[str, Any]) -> set[int]:
        files: set[int] = set()
        seen: set[int] = set()
        waiting = list(action.get("inputDepSetIds", ()))
        while waiting:
            number = waiting.pop()
            if number not in seen:
                seen.add(number)
                files.update(sets[number].get("directArtifactIds", ()))
                waiting += sets[number].get("transitiveDepSetIds", ())
        return files

    reached: dict[int, set[str]] = {}

    def timed_before(action: Mapping[str, Any]) -> set[str]:
        if id(action) not in reached:
            reached[id(action)] = set()
            for file in inputs(action):
                if file in maker:
                    name = primary[id(maker[file])]
                    reached[id(action)] |= {name} if name in known else timed_before(maker[file])
        return reached[id(action)]

    return {primary[id(action)]: timed_before(action) for action in graph["actions"] if primary[id(action)] in known}


def tails(seconds: Mapping[str, float], before: Mapping[str, set[str]]) -> dict[str, float]:
    """Seconds from the start of an action to the end of all that waits for it, with as many workers as one likes."""
    after: dict[str, list[str]] = {name: [] for name in seconds}
    for name, needed in before.items():
        for earlier in needed:
            after[earlier].append(name)
    found: dict[str, float] = {}

    def tail(name: str) -> float:
        if name not in found:
            found[name] = seconds[name] + max((tail(later) for later in after[name]), default=0.0)
        return found[name]

    return {name: tail(name) for name in seconds}


def makespan(seconds: Mapping[str, float], before: Mapping[str, set[str]], workers: int) -> float:
    """Seconds until the last action ends."""
    order = tails(seconds, before)
    waiting = {name: set(before[name]) for name in seconds}
    ready = [(-order[name], name) for name, needed in waiting.items() if not needed]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[name], name))
        now, done = heapq.heappop(running)
        for name, needed in waiting.items():
            if done in needed:
                needed.discard(done)
                if not needed:
                    heapq.heappush(ready, (-order[name], name))
    return now


def critical_path(seconds: Mapping[str, float], before: Mapping[str, set[str]]) -> list[str]:
    """The actions that nothing shortens but themselves."""
    order = tails(seconds, before)
    chain: list[str] = []
    left = set(seconds)
    while left:
        chain.append(max(left, key=lambda name: order[name]))
        left = {name for name in seconds if chain[-1] in before[name]}
    return chain


def main(arguments: Sequence[str]) -> int:
    """Prints the table; returns the exit code."""
    profile, graph, *numbers = arguments
    with gzip.open(profile, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    seconds = durations(events)
    before = needs(json.loads(Path(graph).read_text(encoding="utf-8")), seconds)
    seconds = {name: value for name, value in seconds.items() if name in before}
    lines = [f"{len(seconds)} actions, {sum(seconds.values()):.1f} s of workers"]
    lines += [f"{number} workers: {makespan(seconds, before, int(number)):.1f} s" for number in numbers]
    lines += ["critical path:", *(f"  {seconds[name]:6.1f} s  {name}" for name in critical_path(seconds, before))]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
