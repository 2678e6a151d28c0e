"""The comparison of both decodes: what was kept, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.autoware_decode import main, tables

RESULT = Path("docs/benchmarks/autoware_decode.json")
PAGE = Path("docs/benchmarks/autoware_decode.md")


def test_the_kept_page_shows_the_kept_numbers() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for part in tables(json.loads(RESULT.read_text(encoding="utf-8"))).split("\n\n"):
        assert part.strip() in page


def test_a_table_has_a_row_for_every_model_decode_and_range() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert [(model["precision"], model["frames"], model["scenes"]) for model in result["models"]] == [
        ("fp16", 200, 50),
        ("int8", 200, 50),
    ]
    first = tables(result).split("\n\n")[0].splitlines()
    assert len(first) == 2 + 2 * 3 * 4
    for model in result["models"]:
        for item in model["decodes"]:
            # The steps end where the published boxes are, and begin with the training framework's.
            assert item["steps"][-1]["ap"] == item["published"]["total"]
            assert item["steps"][0]["ap"] == model["training"]["total"]


def test_bundles_belong_to_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--onnx", "a", "b", "--bundles", "c", "--data-root", "d"]) == 2
    assert "--bundles names 1 folders, --onnx 2; give one for each" in capsys.readouterr().err
