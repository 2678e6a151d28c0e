"""The folder that mmengine's Runner writes: owned by one training, and nothing that lies there is replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from base.errors import ConfigError
from base.ownership import owned_folder

__all__ = ["open_runner", "owned_work_dir"]

# What mmengine's CheckpointHook writes there, and reads to resume.
_OF_A_TRAINING = ("last_checkpoint", "epoch_*.pth", "iter_*.pth")


@contextmanager
def owned_work_dir(folder: Path, *, resume: bool) -> Iterator[Path]:
    """Makes the folder and holds it for this training (`base.ownership.owned_folder`).

    Args:
        folder: The work dir.
        resume: Go on from the training whose checkpoints lie there.

    Raises:
        ConfigError: another run is using it, it cannot be written, or checkpoints of an earlier training would be
            replaced.
        OSError: it cannot be made.
    """
    with owned_folder(folder, "--work-dir") as path:
        found = [] if resume else sorted(file for name in _OF_A_TRAINING for file in path.glob(name))
        if found:
            raise ConfigError(
                f"'{found[-1]}' is of an earlier training, whose checkpoints this one would replace. Go on from it "
                "with --resume, choose another folder with --work-dir, or move it away."
            )
        yield path


def open_runner(cfg: Any) -> Any:
    """mmengine's Runner of a config, except that it keeps the config that ran in the run's own folder.

    mmengine's writes `<work dir>/<name of the config>`, over the config itself where it lies there.
    """
    from mmengine.dist import master_only
    from mmengine.runner import Runner

    class _Runner(Runner):
        @master_only
        def dump_config(self) -> None:
            self.cfg.dump(os.path.join(self.log_dir, os.path.basename(self.cfg.filename or "config.py")))

    return _Runner.from_cfg(cfg)
