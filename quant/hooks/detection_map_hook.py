"""mAP of the model in training, by the same pipeline and metric that judge what is deployed."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from base.errors import ConfigError
from base.files import write_json
from base.keeping import require_ours
from quant.hooks.runner_model import unwrapped_model

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from datasets.frames import FrameSource
    from models.spec import ModelSpec

__all__ = ["CURVE_FILE", "DetectionMapHook"]

CURVE_FILE = "curve.json"


@HOOKS.register_module()
class DetectionMapHook(Hook):
    """Scores validation frames before the first epoch and after every `interval` epochs; keeps the loss beside it.

    `<work_dir>/curve.json` holds `{'map': [{'epoch', 'iter', 'map', 'per_class'}], 'loss': [{'iter', 'loss', 'lr'}]}`;
    it grows while training runs and is taken up again by a resumed one.
    """

    # After the quantizers were switched on for the epoch, before checkpoints are written.
    priority = "BELOW_NORMAL"

    def __init__(
        self,
        model_config: str,
        num_frames: int = 40,
        data_root: str | None = None,
        interval: int = 1,
        loss_interval: int = 10,
    ) -> None:
        """Checks the settings.

        Args:
            model_config: Model config, for its test pipeline and its specification.
            num_frames: Validation frames to score, evenly spread; -1: all.
            data_root: Dataset folder; unset: the config's.
            interval: Epochs between two scores.
            loss_interval: Iterations between two recorded losses.
        """
        if interval < 1 or loss_interval < 1 or num_frames == 0 or num_frames < -1:
            raise ConfigError(
                f"DetectionMapHook: interval={interval}, loss_interval={loss_interval}, num_frames={num_frames}; "
                "give 1 or more (num_frames=-1: all frames)."
            )
        self.model_config = model_config
        self.num_frames = num_frames
        self.data_root = data_root
        self.interval = interval
        self.loss_interval = loss_interval
        self._curve: dict[str, list[dict[str, Any]]] = {"map": [], "loss": []}
        self._frames: FrameSource | None = None
        self._spec: ModelSpec | None = None

    def before_train(self, runner: Runner) -> None:
        """Takes up the curve of a resumed training.

        Raises:
            ConfigError: a file of the curve's name is something else.
        """
        path = Path(runner.work_dir) / CURVE_FILE
        require_ours(path.parent, {CURVE_FILE: b'"loss"'}, "--work-dir")
        if runner._resume and path.is_file():
            from base.documents import read_json
            from quant.forms import CurveForm

            found = read_json(path, CurveForm, remedy="Remove it, or train in a new folder.").model_dump()
            self._curve = {key: [p for p in found[key] if p["iter"] <= runner.iter] for key in ("map", "loss")}

    def before_train_epoch(self, runner: Runner) -> None:
        """Scores the calibrated model before its first step."""
        if not self._curve["map"]:
            self._score(runner, runner.epoch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Keeps the loss."""
        if outputs is None or not self.every_n_train_iters(runner, self.loss_interval):
            return
        rates = [group["lr"] for group in runner.optim_wrapper.param_groups]
        loss = float(outputs["loss"])
        self._curve["loss"].append({"iter": runner.iter + 1, "loss": _known(loss), "lr": max(rates)})

    def after_train_epoch(self, runner: Runner) -> None:
        """Scores the model."""
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self._score(runner, runner.epoch + 1)

    def _score(self, runner: Runner, epoch: int) -> None:
        from mmengine.dist import barrier, is_main_process

        if is_main_process():
            metrics = self._evaluate(unwrapped_model(runner))
            per_class = {item.class_name: _known(item.mean_ap) for item in metrics.total.classes}
            entry = {"epoch": epoch, "iter": runner.iter, "map": metrics.total.mean_ap, "per_class": per_class}
            self._curve["map"].append(entry)
            write_json(Path(runner.work_dir) / CURVE_FILE, self._curve)
            runner.logger.info(f"epoch {epoch}: mAP {entry['map']:.4f} on {self.num_frames} validation frames")
        barrier()

    def _evaluate(self, model: Any) -> Any:
        from datasets.frames import open_frames
        from eval.evaluator import evaluate
        from models.components import extract_components
        from models.config import load_model_config
        from models.spec import ModelSpec
        from runtime.backends.pytorch import PyTorchBackend
        from runtime.pipeline import Pipeline

        if self._frames is None or self._spec is None:
            cfg = load_model_config(self.model_config)
            self._frames = open_frames(cfg, "val", self.data_root)
            self._spec = ModelSpec.from_config(cfg)
        device = str(next(model.parameters()).device)
        # A copy: the backend sets its modules to evaluation mode.
        components = extract_components(copy.deepcopy(model), self._spec)
        with PyTorchBackend(spec=self._spec, components=components, device=device) as backend:
            return evaluate(Pipeline(self._spec, backend), self._frames, num_samples=self.num_frames).metrics


def _known(value: float) -> float | None:
    """JSON has no NaN: a diverged loss, or a class without objects, is a gap in the curve."""
    return value if math.isfinite(value) else None
