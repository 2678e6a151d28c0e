"""results.json: round trip, schema, and files that another program broke."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.checks import CheckResult
from base.errors import DataError
from base.files import read_json
from eval.codec import from_json, to_json
from eval.evaluator import evaluate
from eval.results import (
    SCHEMA_PATH,
    RunResults,
    StepResult,
    read_results,
    results_schema,
    write_results,
)
from eval.verification import verify
from tests.eval.toy_detector import Toy


@pytest.fixture
def results(toy: Toy) -> RunResults:
    evaluation = evaluate(toy.pipeline("onnx"), toy.frames(), show_progress=False)
    checked = verify(toy.pipeline("a"), toy.pipeline("b"), toy.frames(), num_frames=2, show_progress=False)
    steps = (StepResult("a", "PASSED", seconds=1.0), StepResult("b", "SKIPPED", "no GPU"))
    found = (CheckResult("sweep-times", "accepted", 2, ("one", "two")),)
    run = {"mode": "both", "list": [1, None]}
    assert evaluation.driving is not None
    driving = (evaluation.driving,)
    return RunResults("toy", run, steps, (checked,), (evaluation.summary,), driving=driving, checks=found)


def test_round_trip(tmp_path: Path, results: RunResults) -> None:
    write_results(results, tmp_path / "results.json")
    again = read_results(tmp_path / "results.json")
    # NaN differs from itself, so the comparison is of the texts.
    assert json.dumps(to_json(again), sort_keys=True) == json.dumps(to_json(results), sort_keys=True)
    assert again.evaluations[0].metrics.mean_ap == results.evaluations[0].metrics.mean_ap
    assert again.verifications[0].outputs[0].tolerance == results.verifications[0].outputs[0].tolerance
    assert math.isnan(again.evaluations[0].metrics.total.of_class("bus").mean_ap)
    write_results(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "results.json").read_bytes()


def test_the_shipped_schema_is_current() -> None:
    assert read_json(SCHEMA_PATH) == results_schema(), "run 'python -m eval.results'"


def test_results_fit_the_schema(results: RunResults) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(read_json(SCHEMA_PATH))
    jsonschema.Draft202012Validator.check_schema(read_json(SCHEMA_PATH))
    value = to_json(results)
    validator.validate(value)
    for path, broken in (
        (("steps", 0, "status"), "GREEN"),
        (("evaluations", 0, "num_frames"), "four"),
        (("title",), None),
    ):
        wrong = json.loads(json.dumps(value))
        target = wrong
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = broken
        assert not validator.is_valid(wrong), path
    assert not validator.is_valid({**value, "extra": 1})


def test_verdict_of_a_run() -> None:
    passed = StepResult("a", "PASSED", seconds=1.0)
    skipped = StepResult("b", "SKIPPED", "no GPU")
    failed = StepResult("c", "FAILED", "broken")
    assert RunResults("m", {}, (passed, skipped)).passed
    assert not RunResults("m", {}, (passed, failed)).passed
    assert not RunResults("m", {}, (skipped,)).passed
    assert not RunResults("m", {}, ()).passed


def test_failed_verification_fails_the_run(toy: Toy) -> None:
    noisy = toy.pipeline("b", noise={"reg": 1.0})
    checked = verify(toy.pipeline("a"), noisy, toy.frames(), num_frames=1, show_progress=False)
    assert not RunResults("m", {}, (StepResult("a", "PASSED"),), (checked,)).passed


def test_skipping_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="step 'build' is SKIPPED without a reason"):
        StepResult("build", "SKIPPED")


def test_broken_files_are_named(tmp_path: Path, results: RunResults) -> None:
    path = tmp_path / "results.json"
    value = to_json(results)

    def write(change: dict[str, Any]) -> None:
        path.write_text(json.dumps({**value, **change}))

    write({"schema_version": 99})
    with pytest.raises(DataError, match="has schema_version 99; this version reads 6"):
        read_results(path)
    write({"colour": 1})
    with pytest.raises(DataError, match=r"results.json has unknown keys \['colour'\] and lacks \[\]"):
        read_results(path)
    write({"steps": [{**value["steps"][0], "status": "GREEN"}]})
    with pytest.raises(DataError, match=r"steps\[0\].status is 'GREEN'; it must be one of"):
        read_results(path)
    write({"title": 5})
    with pytest.raises(DataError, match=r"title is int 5; it must be str"):
        read_results(path)
    write({"steps": [{**value["steps"][0], "status": "SKIPPED", "reason": ""}]})
    with pytest.raises(DataError, match=r"results.json.steps\[0\]: step '.*' is SKIPPED without a reason"):
        read_results(path)
    write({"artifacts": [{"path": "a", "kind": "b", "precision": "c", "sha256": "d", "bytes": 10**30}]})
    with pytest.raises(DataError, match=r"artifacts\[0\].bytes is 1000000000000000000000000000000; no count"):
        read_results(path)
    write({"steps": [{**value["steps"][0], "seconds": 10**400}]})
    with pytest.raises(DataError, match=r"steps\[0\].seconds is an integer of 1329 bits; it must be a number"):
        read_results(path)
    path.write_text("[1, 2")
    with pytest.raises(DataError, match="is not valid JSON"):
        read_results(path)
    with pytest.raises(DataError, match="does not exist"):
        read_results(tmp_path / "none.json")


@dataclasses.dataclass(frozen=True)
class Numbers:
    values: tuple[float, ...]
    maybe: float | None


def test_numbers_that_json_has_no_word_for() -> None:
    value = to_json(Numbers((1.0, math.nan, math.inf, -math.inf), None))
    assert value == {"values": [1.0, None, "inf", "-inf"], "maybe": None}
    again = from_json(Numbers, value)
    assert again.values[0] == 1.0
    assert math.isnan(again.values[1])
    assert again.values[2:] == (math.inf, -math.inf)
    assert again.maybe is None
    with pytest.raises(DataError, match=r"Numbers.values\[0\] is 'x'; it must be a number"):
        from_json(Numbers, {"values": ["x"], "maybe": None})


def test_numbers_of_numpy_are_written_as_pythons() -> None:
    """numpy 2.5's own functions return more of them than earlier ones."""
    value = to_json({"a": [np.int64(3), np.float32(0.5), np.bool_(True), np.float64("nan")]})
    assert json.dumps(value) == '{"a": [3, 0.5, true, null]}'
