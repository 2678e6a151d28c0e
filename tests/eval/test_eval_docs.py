"""The example of docs/evaluation.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    promised = re.search(r"^prints `(.*)`\.$", text, re.MULTILINE)
    assert code is not None
    assert promised is not None
    exec(compile(code.group(1), str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip() == promised.group(1)


def test_limits_in_the_table_are_the_defaults() -> None:
    from eval.box_comparison import default_box_tolerance
    from eval.comparison import default_tolerances

    text = PAGE.read_text(encoding="utf-8")
    for column, precision in enumerate(("fp32", "fp16", "int8")):
        limits = default_tolerances(precision, ["heatmap", "reg", "rot"])
        boxes = default_box_tolerance(precision)
        for row, values in (
            ("relative L2 difference of an output", [limits["reg"].relative_l2]),
            ("the same of `rot` and `vel`", [limits["rot"].relative_l2]),
            ("heatmap (as score)", [limits["heatmap"].max_score_error]),
            ("share of the reference's range", [limits["reg"].max_abs_share]),
            ("boxes with score", [boxes.min_matched_share * 100, boxes.max_center_m * 100]),
        ):
            line = next(line for line in text.splitlines() if line.startswith("|") and row in line)
            cell = line.split("|")[2 + column]
            assert [float(value) for value in re.findall(r"\d[\d.e-]*", cell)] == pytest.approx(values), row
