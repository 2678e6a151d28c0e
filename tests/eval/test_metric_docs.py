"""What docs/metrics.md says is so: its examples run, its presets and engines are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval.metrics.engine import ENGINE_NAMES
from eval.metrics.modes import MATCHING_MODES
from eval.score import main
from eval.score_configs import REFERENCE_MODES
from eval.score_presets import NUSCENES_PRESET, PRESETS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def code(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_python_example(capsys: pytest.CaptureFixture[str]) -> None:
    promised = re.search(r"^prints `(.*?)`\.", TEXT, re.MULTILINE)
    assert promised is not None
    exec(compile(code("python"), "metrics.md", "exec"), {})
    assert capsys.readouterr().out.strip() == promised.group(1)


def test_input_example_is_scored(tmp_path: Path) -> None:
    (tmp_path / "frames.json").write_text(code("json"))
    out = tmp_path / "scores.json"
    assert main(["--frames", str(tmp_path / "frames.json"), "--out", str(out), "--log-level", "ERROR"]) == 0
    car = json.loads(out.read_text())["results"]["awml"]["modes"]["CENTERDISTANCEBEV"]["labels"]["car"]
    assert car["thresholds"]["0.5"]["num_tp"] == 1
    missing = {"gt", "est", "modes", "nuscenes", "tp_errors", "pass_fail", "frame_mAP_mAPH", "policy", "ego2map"} - set(
        re.findall(r"[\w]+", TEXT)
    )
    assert not missing


def test_presets_modes_and_engines_are_listed() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert sorted(rows) == sorted([*PRESETS, NUSCENES_PRESET])
    for names in PRESETS.values():
        for config in names:
            assert f"`{config.name.replace('awml_compat', 'awml')}`" in TEXT
    for mode in REFERENCE_MODES:
        assert f"`{mode}`" in TEXT
    for name in MATCHING_MODES:
        assert f"`{name.upper()}`" in TEXT
    for name in ENGINE_NAMES:
        assert f'`"{name}"`' in TEXT


def test_numbers_about_the_golden_files() -> None:
    files = sorted((ROOT / "tests" / "data" / "golden").glob("*.json"))
    configs = sum(len(json.loads(path.read_text())["configs"]) for path in files)
    assert f"{len(files)} stored scene sets" in TEXT
    assert f"{configs} configurations" in TEXT
