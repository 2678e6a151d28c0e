"""The demo datasets outside Bazel: made where they are missing, in the user's cache.

`./bazelw run //deploy:export` builds them as `//datasets:demo` and `//datasets:demo_train`; the same settings
(demo_datasets.bzl) and the same generator give the same bytes here.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.errors import DataError

__all__ = ["DemoDataset", "demo_dataset", "read_settings"]

_SETTINGS = Path(__file__).parent / "demo_datasets.bzl"
_GENERATOR = Path(__file__).parent / "synthetic"
_NAME = "DEMO_DATASETS"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoDataset:
    """One of the demo datasets.

    Attributes:
        name: As in demo_datasets.bzl.
        settings: Of the generator, by the names of its options.
        path: Its folder. The name holds a hash of the settings, of the generator's source and of numpy's version: what
            would change a byte gets another folder.
    """

    name: str
    settings: Mapping[str, Any]
    path: Path

    def make(self) -> Path:
        """Generates it where it is missing, and says so in the log; returns `path`.

        Another process that makes the same is waited for; a killed one leaves nothing that looks whole.

        Raises:
            DataError: the cache cannot be written.
        """
        if not self.path.is_dir():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not self.path.is_dir():
                        self._generate()
            except OSError as error:
                raise DataError(
                    f"The demo dataset cannot be written to '{self.path}': {error.strerror}. Name a dataset of your "
                    "own (--data-root), or another cache (XDG_CACHE_HOME)."
                ) from error
        _logger.info("demo dataset '%s' (generated frames, not yours): %s", self.name, self.path)
        return self.path

    def _generate(self) -> None:
        from datasets.synthetic.dataset_writer import DatasetConfig, generate

        wanted = dict(self.settings)
        split = wanted.pop("split")
        scenes = {part: count for part in ("train", "val") if (count := wanted.pop(f"{part}_scenes", 0))}
        if list(scenes) != [split]:
            raise DataError(f"'{_SETTINGS}': '{self.name}' is to hold the split '{split}', but has scenes {scenes}.")
        config = DatasetConfig(scenes, wanted.pop("frames_per_scene"), **wanted)
        frames = scenes[split] * config.frames_per_scene
        _logger.info("no dataset is named and there is none: generating %d frames for the demo, once", frames)
        generate(config, self.path)


def demo_dataset(name: str) -> DemoDataset:
    """A demo dataset by its name in demo_datasets.bzl; nothing is made yet.

    Raises:
        DataError: the file with the settings is broken.
    """
    import numpy as np

    settings = read_settings()[name]
    digest = hashlib.sha256(json.dumps([np.__version__, settings], sort_keys=True).encode())
    for source in sorted(_GENERATOR.glob("*.py")):
        digest.update(f"{source.name} {hashlib.sha256(source.read_bytes()).hexdigest()}\n".encode())
    return DemoDataset(name, settings, _cache() / f"{name}-{digest.hexdigest()[:16]}")


def read_settings(path: Path = _SETTINGS) -> dict[str, dict[str, Any]]:
    """The settings of all demo datasets: the literal that Bazel loads.

    Raises:
        DataError: there is no such literal.
    """
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [_NAME]:
            settings: dict[str, dict[str, Any]] = ast.literal_eval(statement.value)
            return settings
    raise DataError(f"'{path}' has no {_NAME}.")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "centerpoint" / "datasets"
