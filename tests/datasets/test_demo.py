"""The demo datasets outside Bazel: the settings and the bytes of Bazel's, made once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import datasets.demo as demo_module
from base.errors import DataError
from datasets.demo import DemoDataset, demo_dataset, read_settings
from datasets.synthetic import dataset_writer
from datasets.synthetic.__main__ import main as generator

SMALL = {"split": "val", "val_scenes": 1, "frames_per_scene": 1, "seed": 3}


def options(settings: dict[str, Any]) -> list[str]:
    """The generator's command line as `bazel/t4_dataset.bzl` writes it."""
    attributes = {"split": "both", "train_scenes": 0, "val_scenes": 0, "frames_per_scene": 10, "seed": 0, "beams": 64}
    given = {**attributes, **settings}
    scenes = [f"--{name.replace('_', '-')}={given[name]}" for name in ("train_scenes", "val_scenes") if given[name]]
    others = [f"--{name.replace('_', '-')}={given[name]}" for name in ("split", "seed", "beams", "frames_per_scene")]
    return [*scenes, *others]


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the generator was asked for; it writes one file in no time."""
    asked: list[Any] = []

    def generate(config: Any, out: Path, *_: object) -> dict[str, int]:
        asked.append(config)
        out.mkdir()
        return {"val": 1}

    monkeypatch.setattr(dataset_writer, "generate", generate)
    return asked


@pytest.mark.parametrize("name", sorted(read_settings()))
def test_the_generator_is_asked_for_what_bazel_asks_for(
    name: str, generated: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    demo_dataset(name).make()
    assert generator([*options(read_settings()[name]), f"--out={tmp_path / 'bazel'}"]) == 0
    assert len(generated) == 2
    assert generated[0] == generated[1]


def test_the_bytes_are_those_of_the_command(tmp_path: Path) -> None:
    made = DemoDataset("small", SMALL, tmp_path / "cache" / "small-0").make()
    assert generator([*options(SMALL), f"--out={tmp_path / 'bazel'}"]) == 0
    files = {path.relative_to(made): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert len(files) >= 2
    other = tmp_path / "bazel"
    assert files == {path.relative_to(other): path.read_bytes() for path in other.rglob("*") if path.is_file()}


def test_it_is_made_once_and_said(
    generated: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level("INFO"):
        first = demo_dataset("demo").make()
        assert "generating 40 frames for the demo, once" in caplog.text
        caplog.clear()
        assert demo_dataset("demo").make() == first
    assert len(generated) == 1
    assert "generating" not in caplog.text
    assert f"demo dataset 'demo' (generated frames, not yours): {first}" in caplog.text
    assert first.is_relative_to(tmp_path)


def test_others_that_make_it_are_waited_for(
    generated: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    threads = [threading.Thread(target=demo_dataset("demo").make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(generated) == 1


def test_an_interrupted_one_is_made_again(
    generated: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    working = dataset_writer.generate

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset_writer, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        demo_dataset("demo").make()
    assert not demo_dataset("demo").path.exists()
    monkeypatch.setattr(dataset_writer, "generate", working)
    assert demo_dataset("demo").make().is_dir()


def test_the_folder_follows_what_would_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {demo_dataset("demo").path, demo_dataset("demo_train").path}
    source = tmp_path / "synthetic"
    source.mkdir()
    (source / "scene.py").write_text("# another generator\n")
    monkeypatch.setattr(demo_module, "_GENERATOR", source)
    paths.add(demo_dataset("demo").path)
    import numpy as np

    monkeypatch.setattr(np, "__version__", "9.9")
    paths.add(demo_dataset("demo").path)
    monkeypatch.setattr(demo_module, "read_settings", lambda: {"demo": SMALL})
    paths.add(demo_dataset("demo").path)
    assert len(paths) == 5


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written to .*Not a directory.*--data-root.*XDG_CACHE_HOME"):
        demo_dataset("demo").make()
